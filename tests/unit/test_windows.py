import itertools

import numpy as np
import pyarrow as pa
import pytest

from commbert import tables, windows
from commbert.windows import cut_files, cut_windows, file_rows, highest_priority, priorities, window_columns


def offsets_of(*lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def cut(files, lengths, *, stride=1, lines_before=3, lines_after=3, max_length=1002):
    """Return (centre, first, last, start, stop, dropped) of each window."""
    found = cut_windows(
        offsets_of(*lengths),
        np.array(files, np.uint32),
        np.broadcast_to(np.array(stride), len(files)),
        lines_before=lines_before,
        lines_after=lines_after,
        max_length=max_length,
    )
    rows = zip(*(column.tolist() for column in vars(found).values()), strict=True)
    return [(centre, first, last, start, start + n, dropped) for centre, first, last, start, n, dropped in rows]


def naive(files, lengths, *, stride, lines_before, lines_after, max_length):
    """One window after the other, as the docstring says it."""
    out = []
    for centre, file in enumerate(files):
        rows = [i for i, f in enumerate(files) if f == file]
        if (centre - rows[0]) % stride[centre]:
            continue
        window = [i for i in rows if centre - lines_before <= i <= centre + lines_after]
        dropped = 0
        while sum(lengths[i] for i in window) > max_length - 2 and len(window) > 1:
            distances = [(abs(i - centre), i) for i in window]
            window.remove(max(distances)[1])  # the farthest; of two the last line
            dropped += 1
        n = min(sum(lengths[i] for i in window), max_length - 2)
        start = sum(lengths[: window[0]])
        if n:
            out.append((centre, window[0], window[-1], start, start + n, dropped))
    return out


def random_corpora(n=250, seed=17):
    """Yield files, lengths and settings: lines without tokens, giants, files of one line, gaps in the file numbers."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        sizes = rng.integers(1, 14, rng.integers(1, 6))
        numbers = np.cumsum(rng.integers(1, 4, len(sizes)))
        files = np.repeat(numbers, sizes).tolist()
        lengths = rng.integers(0, 12, len(files))
        lengths[rng.random(len(files)) < 0.2] = 0
        lengths[rng.random(len(files)) < 0.1] = rng.integers(20, 90)
        stride = np.repeat(rng.integers(1, 5, len(sizes)), sizes).tolist()
        limits = {
            "stride": stride,
            "lines_before": int(rng.integers(0, 6)),
            "lines_after": int(rng.integers(0, 6)),
            "max_length": int(rng.integers(3, 60)),
        }
        yield files, lengths.tolist(), limits


def test_windows_are_those_of_the_plain_way():
    n_shortened = n_cut = 0
    for files, lengths, limits in random_corpora():
        found = cut(files, lengths, **limits)
        assert found == naive(files, lengths, **limits), (files, lengths, limits)
        n_shortened += sum(w[5] > 0 for w in found)
        n_cut += sum(w[4] - w[3] == limits["max_length"] - 2 for w in found)
    assert n_shortened > 500
    assert n_cut > 50


def test_a_file_of_ten_lines_gives_the_windows_made_by_hand():
    # Ten lines of two tokens; three lines on each side where the file has them.
    assert cut([0] * 10, [2] * 10) == [
        (0, 0, 3, 0, 8, 0),
        (1, 0, 4, 0, 10, 0),
        (2, 0, 5, 0, 12, 0),
        (3, 0, 6, 0, 14, 0),
        (4, 1, 7, 2, 16, 0),
        (5, 2, 8, 4, 18, 0),
        (6, 3, 9, 6, 20, 0),
        (7, 4, 9, 8, 20, 0),
        (8, 5, 9, 10, 20, 0),
        (9, 6, 9, 12, 20, 0),
    ]


def test_before_and_after_are_counted_apart():
    assert cut([0] * 5, [1] * 5, lines_before=0, lines_after=2)[1][:3] == (1, 1, 3)
    assert cut([0] * 5, [1] * 5, lines_before=2, lines_after=0)[3][:3] == (3, 1, 3)


@pytest.mark.parametrize(("stride", "centres"), [(1, list(range(10))), (3, [0, 3, 6, 9]), (7, [0, 7]), (99, [0])])
def test_the_stride_is_the_distance_of_the_centres(stride, centres):
    assert [w[0] for w in cut([0] * 10, [2] * 10, stride=stride)] == centres


def test_every_file_starts_its_stride_anew_and_has_its_own():
    assert [w[0] for w in cut([0, 0, 0, 1, 1], [1] * 5, stride=2)] == [0, 2, 3]
    assert [w[0] for w in cut([0, 0, 0, 1, 1], [1] * 5, stride=[3, 3, 3, 1, 1])] == [0, 3, 4]


@pytest.mark.parametrize(
    ("max_tokens", "first", "last", "dropped"),
    [(14, 2, 8, 0), (13, 2, 7, 1), (11, 3, 7, 2), (9, 3, 6, 3), (7, 4, 6, 4), (5, 4, 5, 5), (3, 5, 5, 6)],
)
def test_lines_are_dropped_from_the_far_ends_in_turn(max_tokens, first, last, dropped):
    # Centre 5 of eleven lines of two tokens: 14 tokens before anything is dropped.
    found = cut([0] * 11, [2] * 11, max_length=max_tokens + 2)[5]
    assert (found[1], found[2], found[5]) == (first, last, dropped)


def test_the_farther_end_is_dropped_first():
    # Centre 0: only lines after it; centre 1: one before, three after.
    assert [w[1:3] for w in cut([0] * 10, [2] * 10, max_length=8)[:2]] == [(0, 2), (0, 2)]


def test_a_window_of_exactly_the_limit_drops_nothing():
    assert cut([0] * 7, [2] * 7, max_length=16)[3] == (3, 0, 6, 0, 14, 0)


def test_a_centre_that_is_too_long_alone_keeps_its_beginning():
    # Lines of 3, 50 and 3 tokens; the centre stands at tokens 3 to 52.
    assert cut([0] * 3, [3, 50, 3], max_length=12)[1] == (1, 1, 1, 3, 13, 2)


def test_window_over_the_limit_never_loses_its_centre_nor_its_file():
    for files, lengths, limits in random_corpora(seed=18):
        at = offsets_of(*lengths)
        for centre, first, last, start, stop, _ in cut(files, lengths, **limits):
            assert first <= centre <= last
            assert files[first] == files[centre] == files[last]
            assert start <= at[centre]
            assert stop >= min(at[centre + 1], at[centre] + limits["max_length"] - 2)


def test_no_window_is_empty_or_over_the_limit():
    for files, lengths, limits in random_corpora(seed=19):
        assert all(0 < w[4] - w[3] <= limits["max_length"] - 2 for w in cut(files, lengths, **limits))


@pytest.mark.parametrize(("files", "lengths"), [([], []), ([5], [0]), ([1, 1, 2], [0, 0, 0])])
def test_lines_without_tokens_give_no_window(files, lengths):
    assert cut(files, lengths) == []


def test_each_row_knows_the_first_and_the_last_of_its_file():
    first, last = file_rows(np.array([7, 7, 7, 9, 12, 12]))
    assert (first.tolist(), last.tolist()) == ([0, 0, 0, 3, 4, 4], [2, 2, 2, 3, 5, 5])
    assert [len(x) for x in file_rows(np.empty(0, np.int64))] == [0, 0]


def kept_of(file_id, n_lines, stride, highest, seed=17):
    rows = [(f, i) for f, n in zip(file_id, n_lines, strict=True) for i in range(0, n, stride)]
    some = priorities(seed, np.array([f for f, _ in rows]), np.array([i for _, i in rows]))
    return {row for row, p in zip(rows, some, strict=True) if p <= highest}


@pytest.mark.parametrize("stride", [1, 3, 50])
def test_exactly_the_wanted_number_of_windows_is_kept(stride):
    rng = np.random.default_rng(1)
    file_id, n_lines = np.sort(rng.choice(1000, 40, replace=False)), rng.integers(1, 60, 40)
    n_all = int(np.ceil(n_lines / stride).sum())
    for limit in (1, 2, 17, n_all - 1, n_all):
        highest = highest_priority(17, file_id, n_lines, stride, limit)
        assert len(kept_of(file_id.tolist(), n_lines.tolist(), stride, highest)) == limit


@pytest.mark.parametrize("limit", [5, 6, 10**9])
def test_all_windows_are_kept_where_there_are_no_more_than_wanted(limit):
    assert highest_priority(17, np.array([3, 4]), np.array([2, 3]), 1, limit) == np.uint64(2**64 - 1)
    assert highest_priority(17, np.empty(0, np.int64), np.empty(0, np.int64), 1, limit) == np.uint64(2**64 - 1)


def test_which_windows_are_kept_is_the_same_in_any_order_of_the_files():
    rng = np.random.default_rng(2)
    file_id, n_lines = np.arange(30), rng.integers(1, 40, 30)
    order = rng.permutation(30)
    assert highest_priority(17, file_id, n_lines, 2, 100) == highest_priority(
        17, file_id[order], n_lines[order], 2, 100
    )


def test_a_priority_is_of_its_file_and_place_and_of_nothing_else():
    file_id, index = np.array([0, 0, 1, 2**32 - 1]), np.array([0, 1, 0, 2**32 - 1])
    whole = priorities(17, file_id, index)
    alone = [int(priorities(17, file_id[i : i + 1], index[i : i + 1])[0]) for i in range(4)]
    assert whole.tolist() == alone
    assert len(set(alone)) == 4
    assert priorities(18, file_id, index).tolist() != alone


def test_windows_of_each_file_are_kept_equally_often():
    # 40 files of 50 windows, half of all kept: 25 +- 3.5 each. Chi-square with 39 degrees of freedom, p = 0.001.
    kept = kept_of(range(40), [50] * 40, 1, highest_priority(3, np.arange(40), np.full(40, 50), 1, 1000), seed=3)
    of_file = np.bincount([f for f, _ in kept], minlength=40)
    assert sum((of_file - 25) ** 2 / (50 * 0.5 * 0.5)) < 73


def columns_of(files, lengths, *, at_once=None, monkeypatch=None, **limits):
    if at_once is not None:
        monkeypatch.setattr(windows, "_ROWS_AT_ONCE", at_once)
    offsets = offsets_of(*lengths)
    file_id = np.array(files, np.int64)
    stride = np.broadcast_to(np.array(limits.pop("stride", 1)), len(files))
    options = {"lines_before": 1, "lines_after": 1, "max_length": 100, **limits}
    found = cut_windows(offsets, file_id, stride, **options)
    ids = np.random.default_rng(0).integers(0, 30_000, int(offsets[-1])).astype(np.int32)
    line_no = np.arange(len(files), dtype=np.uint32) * 10 + 10
    parts = list(window_columns(found, ids, offsets, file_id, line_no))
    kinds = tables.WINDOWS.schema
    rows = pa.concat_tables([kinds.empty_table(), *(pa.table(p).select(kinds.names).cast(kinds) for p in parts)])
    return ids, offsets, found, rows.to_pydict(), len(parts)


def test_windows_carry_the_numbers_of_their_original_lines():
    _, _, _, rows, _ = columns_of([0, 0, 4, 4, 4], [1, 2, 3, 4, 5])
    assert rows["file_id"] == [0, 0, 4, 4, 4]
    assert rows["line_no"] == [10, 20, 30, 40, 50]
    assert rows["first_line"] == [10, 10, 30, 30, 40]
    assert rows["last_line"] == [20, 20, 40, 50, 50]
    assert rows["first_token"] == [0, 0, 0, 0, 3]
    assert rows["n_tokens"] == [3, 3, 7, 12, 9]


def test_the_first_token_counts_from_the_beginning_of_the_file_and_ids_are_its_slice():
    for files, lengths, limits in random_corpora(60, seed=20):
        ids, offsets, found, rows, _ = columns_of(files, lengths, **limits)
        for i, centre in enumerate(found.centre):
            begin = offsets[files.index(files[centre])]
            at = begin + rows["first_token"][i]
            assert at == offsets[found.first[i]]
            assert rows["input_ids"][i] == ids[at : at + rows["n_tokens"][i]].tolist()
            assert rows["n_dropped_lines"][i] == found.n_dropped_lines[i]


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_the_columns_do_not_depend_on_how_many_rows_are_made_at_once(monkeypatch, at_once):
    files, lengths = [0] * 9 + [3] * 6, [4, 0, 7, 1, 2, 30, 5, 5, 1, 2, 3, 0, 1, 9, 2]
    _, _, found, whole, n = columns_of(files, lengths, max_length=14)
    assert n == 1
    _, _, _, parts, n = columns_of(files, lengths, max_length=14, at_once=at_once, monkeypatch=monkeypatch)
    assert n == -(-len(found.centre) // at_once)
    assert parts == whole


def test_no_windows_give_no_columns():
    assert columns_of([], [])[4] == 0


def test_a_window_never_crosses_files():
    _, _, found, _, _ = columns_of([0, 0, 4, 4, 4], [1] * 5, lines_before=5, lines_after=5)
    assert list(itertools.pairwise([*found.first.tolist(), 0]))[:2] == [(0, 0), (0, 2)]
    assert found.last.tolist() == [1, 1, 4, 4, 4]


# -- Whole files -------------------------------------------------------------------------------------------------------


def cut_whole(files, lengths, max_length):
    """Return (line, first, last, start, stop, dropped) of each window of whole files."""
    found = cut_files(offsets_of(*lengths), np.array(files, np.uint32), max_length=max_length)
    rows = zip(*(column.tolist() for column in vars(found).values()), strict=True)
    return [(line, first, last, start, start + n, dropped) for line, first, last, start, n, dropped in rows]


def naive_whole(files, lengths, max_length):
    """One token after the other."""
    out = []
    for file in dict.fromkeys(files):
        line_of = [i for i, f in enumerate(files) if f == file for _ in range(lengths[i])]
        begin = sum(lengths[: files.index(file)])
        n = -(-len(line_of) // (max_length - 2))
        edges = [len(line_of) * k // n for k in range(n + 1)] if n else []
        for a, b in itertools.pairwise(edges):
            out.append((line_of[a], line_of[a], line_of[b - 1], begin + a, begin + b, 0))
    return out


def test_whole_files_are_cut_as_token_by_token():
    for files, lengths, _ in random_corpora():
        for max_length in (8, 11, 30, 502):
            assert cut_whole(files, list(lengths), max_length) == naive_whole(files, list(lengths), max_length)


def test_a_file_that_fits_is_one_window_of_all_its_lines_and_a_longer_one_loses_nothing():
    assert cut_whole([4, 4, 7], [3, 3, 5], 8) == [(0, 0, 1, 0, 6, 0), (2, 2, 2, 6, 11, 0)]
    # 7 tokens where 6 fit: two windows of about equal length, the second from inside of the first line on.
    assert cut_whole([4, 4], [5, 2], 8) == [(0, 0, 0, 0, 3, 0), (0, 0, 1, 3, 7, 0)]
    assert cut_whole([], [], 8) == cut_whole([1, 1], [0, 0], 8) == []


def test_the_windows_of_whole_files_hold_each_token_once():
    for files, lengths, _ in random_corpora(50, seed=3):
        rows = cut_whole(files, list(lengths), 10)
        assert [t for _, _, _, start, stop, _ in rows for t in range(start, stop)] == list(range(sum(lengths)))
        assert all(stop - start <= 8 for _, _, _, start, stop, _ in rows)
