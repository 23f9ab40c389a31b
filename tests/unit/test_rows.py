import itertools

import numpy as np
import pytest

from commbert import tables
from commbert.artifacts import read_json, write_json
from commbert.errors import DataError
from commbert.rows import Rows, count_tokens, read_windows
from commbert.windows import cut_windows, window_columns


def write_parts(folder, parts):
    """Write tables of windows (lists of column pieces) and the list that names them."""
    paths = [folder / "windows" / f"{i}.parquet" for i in range(len(parts))]
    for path, pieces in zip(paths, parts, strict=True):
        with tables.writing(path, tables.WINDOWS, provenance={}) as out:
            for columns in pieces:
                out.add(columns)
    tables.write_parts(folder / "windows.json", tables.WINDOWS, paths)
    return folder / "windows.json"


def write_rows(folder, *parts):
    """Write parts of (file_id, first_token, ids) rows."""

    def columns(rows):
        n = len(rows)
        return {
            "file_id": np.array([r[0] for r in rows], np.uint32),
            **{c: np.ones(n, np.uint32) for c in ("line_no", "first_line", "last_line")},
            "first_token": np.array([r[1] for r in rows], np.uint32),
            "input_ids": tables.list_column(tables.WINDOWS, "input_ids", [np.array(r[2], np.int32) for r in rows]),
            "n_tokens": np.array([len(r[2]) for r in rows], np.uint16),
            "n_dropped_lines": np.zeros(n, np.uint8),
        }

    return write_parts(folder, [[columns(rows)] for rows in parts])


def rows_of(rows):
    return [rows[i].tolist() for i in range(len(rows))]


def random_windows(rng, folder, *, share_kept=1.0):
    """Cut random files into windows, thin them, write them in parts; return the list, the windows and all tokens."""
    n_parts = int(rng.integers(1, 4))
    limits = {
        "lines_before": int(rng.integers(0, 5)),
        "lines_after": int(rng.integers(0, 5)),
        "max_length": int(rng.integers(3, 40)),
    }
    parts, expected, covered = [], [], set()
    file_id = 0
    for _ in range(n_parts):
        sizes = rng.integers(1, 15, rng.integers(0, 5))
        files = np.repeat(np.arange(len(sizes)) + file_id, sizes)
        file_id += len(sizes) + int(rng.integers(0, 3))
        lengths = rng.integers(0, 9, len(files)) * (rng.random(len(files)) > 0.15)
        lengths[rng.random(len(files)) < 0.1] = 45
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ids = rng.integers(0, 50, offsets[-1]).astype(np.int32)
        stride = np.repeat(rng.integers(1, 6, len(sizes)), sizes)
        found = cut_windows(offsets, files, stride, **limits)
        found = found.chosen(rng.random(len(found.centre)) < share_kept)
        parts.append(list(window_columns(found, ids, offsets, files, np.arange(len(files)))))
        for start, n in zip(found.start.tolist(), found.n_tokens.tolist(), strict=True):
            expected.append(ids[start : start + n].tolist())
            covered |= {(len(parts), at) for at in range(start, start + n)}
    return write_parts(folder, parts), expected, covered


@pytest.mark.parametrize("share_kept", [1.0, 0.4])
@pytest.mark.parametrize("row_group", [1, 3, 65_536])
def test_windows_come_back_whole_and_hold_each_token_once(tmp_path, monkeypatch, row_group, share_kept):
    monkeypatch.setattr(tables, "_ROW_GROUP", row_group)
    rng = np.random.default_rng(row_group)
    n_overlapping = 0
    for trial in range(30):
        listed, expected, covered = random_windows(rng, tmp_path / str(trial), share_kept=share_kept)
        rows = read_windows(listed)
        assert rows_of(rows) == expected
        assert len(rows.values) == len(covered)
        n_overlapping += sum(map(len, expected)) > len(covered)
    assert n_overlapping > 7


def test_overlapping_windows_share_their_tokens_by_hand(tmp_path):
    rows = read_windows(write_rows(tmp_path, [(0, 0, [1, 2, 3]), (0, 2, [3, 4]), (0, 7, [8, 9]), (2, 0, [5])]))
    assert rows_of(rows) == [[1, 2, 3], [3, 4], [8, 9], [5]]
    assert (rows.values.tolist(), rows.starts.tolist(), rows.sizes.tolist()) == (
        [1, 2, 3, 4, 8, 9, 5],
        [0, 2, 4, 6],
        [3, 2, 2, 1],
    )


def test_windows_of_one_place_in_two_files_are_two(tmp_path):
    rows = read_windows(write_rows(tmp_path, [(3, 0, [1, 2])], [], [(4, 0, [7, 8]), (4, 1, [8])]))
    assert rows_of(rows) == [[1, 2], [7, 8], [8]]
    assert rows.values.tolist() == [1, 2, 7, 8]


def test_a_window_within_the_one_before_adds_nothing(tmp_path):
    rows = read_windows(write_rows(tmp_path, [(0, 0, [1, 2, 3, 4]), (0, 1, [2, 3]), (0, 1, [2, 3, 4, 5])]))
    assert (rows_of(rows), rows.values.tolist()) == ([[1, 2, 3, 4], [2, 3], [2, 3, 4, 5]], [1, 2, 3, 4, 5])


def test_no_window_gives_no_rows(tmp_path):
    for parts in ([], [[]], [[], []]):
        rows = read_windows(write_rows(tmp_path, *parts))
        assert (len(rows), len(rows.values)) == (0, 0)


def test_a_window_without_tokens_is_refused_with_its_file(tmp_path):
    listed = write_rows(tmp_path, [(0, 0, [1])], [(1, 0, [1]), (1, 1, [])])
    with pytest.raises(DataError, match=r"1\.parquet: expected tokens in every window"):
        read_windows(listed)


def test_a_missing_or_changed_part_is_refused(tmp_path):
    listed = write_rows(tmp_path, [(0, 0, [1])], [(1, 0, [2])])
    part = tmp_path / "windows" / "1.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"?")
    with pytest.raises(DataError, match=r"1\.parquet: missing, or not the file"):
        read_windows(listed)
    part.unlink()
    with pytest.raises(DataError, match=r"1\.parquet: missing, or not the file"):
        count_tokens(listed, 10)


def test_a_list_of_another_table_is_refused(tmp_path):
    listed = write_rows(tmp_path, [(0, 0, [1])])
    write_json(listed, {**read_json(listed), "table": "pairs"})
    with pytest.raises(DataError, match=r"windows\.json: expected a list of windows"):
        read_windows(listed)


def test_tokens_are_counted_as_often_as_windows_hold_them(tmp_path):
    listed = write_rows(tmp_path, [(0, 0, [1, 2, 3]), (0, 1, [2, 3, 3])], [(1, 0, [0])])
    assert count_tokens(listed, 6).tolist() == [1, 1, 2, 3, 0, 0]


def overlapping(seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1000, 200).astype(np.int32)
    starts = np.sort(rng.integers(0, 180, 50))
    return Rows(values, starts, rng.integers(0, 20, 50))


def test_joined_rows_are_the_rows_end_to_end_in_the_order_asked_for():
    rows = overlapping()
    rng = np.random.default_rng(1)
    for n in (0, 1, 30):
        chosen = rng.integers(0, len(rows), n)
        expected = list(itertools.chain.from_iterable(rows[i].tolist() for i in chosen))
        assert rows.joined(chosen).tolist() == expected
        assert rows.lengths(chosen).tolist() == [len(rows[i]) for i in chosen]
        assert [r.tolist() for r in rows.rows(chosen)] == [rows[i].tolist() for i in chosen]


def test_joined_rows_may_be_cut_to_their_beginnings():
    rows = overlapping()
    rng = np.random.default_rng(2)
    chosen = rng.integers(0, len(rows), 40)
    lengths = np.minimum(rows.lengths(chosen), rng.integers(0, 12, 40))
    expected = [v for i, n in zip(chosen, lengths, strict=True) for v in rows[i][:n].tolist()]
    assert rows.joined(chosen, lengths).tolist() == expected


def test_rows_end_to_end_are_those_between_their_offsets():
    rows = Rows.end_to_end(np.arange(6, dtype=np.int32), np.array([0, 2, 2, 6]))
    assert (len(rows), rows_of(rows)) == (3, [[0, 1], [], [2, 3, 4, 5]])


def test_values_given_out_are_wide_integers_whatever_they_are_held_as():
    rows = overlapping()
    assert rows[0].dtype == rows.joined(np.array([1, 2])).dtype == np.int64


def test_rows_of_nothing():
    empty = Rows.end_to_end(np.empty(0, np.int64), np.zeros(1, np.int64))
    assert (len(empty), empty.rows([]), empty.joined(np.empty(0, np.int64)).tolist()) == (0, [], [])
