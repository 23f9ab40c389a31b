import itertools

import numpy as np
import pytest

from commbert import leakage as module
from commbert import tables
from commbert.leakage import LINE, LONG_LINE, WINDOW, Hashes, leakage, share_compared, sum_of

TRAIN, VALIDATION, TEST = range(3)


def flat(rows):
    ids = np.array([t for row in rows for t in row], np.int32)
    return ids, np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)


def write_shard(path, kinds, share_bits=0):
    """Write the hashes of a shard: of each kind, rows of (split, tokens)."""
    found = Hashes(share_bits)
    for kind, rows in kinds:
        found.add(kind, np.array([s for s, _ in rows], np.int8), *flat([r for _, r in rows]))
    tables.write(path, tables.HASHES, found.columns(), provenance={})
    return path


def random_rows(rng, n, *, longest=5, n_tokens=4):
    return [
        (int(rng.integers(-1, 3)), tuple(rng.integers(0, n_tokens, rng.integers(0, longest)).tolist()))
        for _ in range(n)
    ]


def share(rows, seen):
    return 100.0 * sum(row in seen for row in rows) / max(len(rows), 1)


def test_shares_are_those_of_sets_of_rows(tmp_path):
    rng = np.random.default_rng(17)
    shards = [(random_rows(rng, 60), random_rows(rng, 40, longest=7)) for _ in range(3)]
    paths = []
    for i, (lines, windows) in enumerate(shards):
        long = [(s, r) for s, r in lines if len(r) >= 3 and s > TRAIN]
        paths.append(write_shard(tmp_path / f"{i}", [(LINE, lines), (LONG_LINE, long), (WINDOW, windows)]))
    found = leakage(paths)
    lines, windows = ([row for shard in shards for row in shard[kind]] for kind in (0, 1))
    for split, name in ((VALIDATION, "validation"), (TEST, "test")):
        of = {kind: [r for s, r in rows if s == split] for kind, rows in (("lines", lines), ("windows", windows))}
        seen = {kind: {r for s, r in rows if s == TRAIN} for kind, rows in (("lines", lines), ("windows", windows))}
        expected = {
            "lines_seen_in_training_pct": share(of["lines"], seen["lines"]),
            "long_lines_seen_in_training_pct": share([r for r in of["lines"] if len(r) >= 3], seen["lines"]),
            "windows_seen_in_training_pct": share(of["windows"], seen["windows"]),
        }
        assert found[name] == pytest.approx(expected)
        assert all(0 < value < 100 for value in expected.values())


def test_a_line_is_no_window_that_was_seen(tmp_path):
    path = write_shard(tmp_path / "t", [(LINE, [(TRAIN, (1, 2))]), (WINDOW, [(TEST, (1, 2))])])
    assert leakage([path])["test"]["windows_seen_in_training_pct"] == 0.0


def test_the_other_heldout_split_is_no_training(tmp_path):
    path = write_shard(tmp_path / "t", [(LINE, [(TRAIN, (9,)), (TEST, (1, 2)), (VALIDATION, (1, 2))])])
    assert leakage([path])["test"]["lines_seen_in_training_pct"] == 0.0


def test_every_occurrence_of_a_heldout_line_counts(tmp_path):
    rows = [(TEST, (1, 2))] * 3 + [(TEST, (5, 6)), (TRAIN, (1, 2)), (TRAIN, (1, 2))]
    assert leakage([write_shard(tmp_path / "t", [(LINE, rows)])])["test"]["lines_seen_in_training_pct"] == 75.0


def test_empty_splits_leak_nothing(tmp_path):
    found = leakage([write_shard(tmp_path / "t", [])])
    assert {value for split in found.values() for value in split.values()} == {0.0}
    assert set(found) == {"validation", "test"}


def test_dropped_files_are_neither_training_nor_held_out(tmp_path):
    path = write_shard(tmp_path / "t", [(LINE, [(-1, (1, 2)), (TEST, (1, 2)), (-1, (3,))])])
    assert tables.read(path, tables.HASHES)["split"].to_pylist() == [TEST]
    assert leakage([path])["test"]["lines_seen_in_training_pct"] == 0.0


def test_hashes_of_training_stand_once_and_heldout_ones_with_their_number():
    hashes = Hashes(0)
    rows = [(TRAIN, (1, 2))] * 4 + [(TRAIN, (3,)), (TEST, (1, 2)), (TEST, (1, 2)), (VALIDATION, (7,))]
    for _ in range(2):
        hashes.add(LINE, np.array([s for s, _ in rows], np.int8), *flat([r for _, r in rows]))
    columns = hashes.columns()
    assert columns.schema == tables.HASHES.schema
    assert list(zip(columns["split"].to_pylist(), columns["n"].to_pylist(), strict=True)) == [
        (TRAIN, 1),
        (TRAIN, 1),
        (VALIDATION, 2),
        (TEST, 4),
    ]


def test_the_hash_of_a_row_is_of_its_tokens_wherever_it_stands():
    rows = [(1, 2), (), (1, 2), (2, 1), (1,), (2,), (), (1, 2, 0), (258,)]
    ids, offsets = flat(rows)
    hashes = Hashes(0).add(LINE, np.zeros(len(rows), np.int8), ids, offsets).tolist()
    assert [[a == b for b in hashes] for a in hashes] == [[a == b for b in rows] for a in rows]
    part = Hashes(0).add(LINE, np.zeros(4, np.int8), ids, offsets[3:8])
    assert part.tolist() == hashes[3:7]


def test_a_row_of_tokens_does_not_run_into_the_next():
    assert len({*Hashes(0).add(LINE, np.zeros(2, np.int8), *flat([(1, 2), (3,)])).tolist()}) == 2
    one = Hashes(0).add(LINE, np.zeros(2, np.int8), *flat([(1,), (2, 3)]))
    two = Hashes(0).add(LINE, np.zeros(2, np.int8), *flat([(1, 2), (3,)]))
    assert not set(one.tolist()) & set(two.tolist())


def test_no_rows_have_no_hashes():
    hashes = Hashes(0)
    assert hashes.add(LINE, np.empty(0, np.int8), np.empty(0, np.int32), np.zeros(1, np.int64)).tolist() == []
    assert hashes.columns().num_rows == 0


@pytest.mark.parametrize(
    ("n_lines", "bits"),
    [(0, 0), (1, 0), (2_000_000, 0), (2_000_001, 1), (4_000_000, 1), (4_000_001, 2), (64_000_000, 5)],
)
def test_about_two_million_lines_are_compared(n_lines, bits):
    assert share_compared(n_lines) == bits


def test_a_share_of_all_hashes_is_compared_and_its_percentages_are_about_the_same(tmp_path):
    # 4,000 distinct test lines, half of them in training: of the 1/4 compared, 1,000 +- 27, half +- 1.6 % are seen.
    rows = [(TEST, (i,)) for i in range(4000)] + [(TRAIN, (i,)) for i in range(2000, 6000)]
    path = write_shard(tmp_path / "t", [(LINE, rows)], share_bits=2)
    n = tables.read(path, tables.HASHES)["split"].to_pylist().count(TEST)
    assert n == pytest.approx(1000, abs=110)
    assert leakage([path])["test"]["lines_seen_in_training_pct"] == pytest.approx(50, abs=6.4)


def test_the_share_that_is_compared_is_the_same_in_every_shard(tmp_path):
    rows = [(TEST, (i,)) for i in range(2000)]
    train = [(TRAIN, row) for _, row in rows]
    paths = [write_shard(tmp_path / f"{i}", [(LINE, r)], share_bits=3) for i, r in enumerate((rows, train))]
    assert leakage(paths)["test"]["lines_seen_in_training_pct"] == 100.0


def test_the_sum_of_hashes_wraps_and_ignores_their_order():
    hashes = np.array([2**64 - 1, 5, 2**63], np.uint64)
    assert {sum_of(hashes[list(order)]) for order in itertools.permutations(range(3))} == {2**63 + 4}
    assert sum_of(np.empty(0, np.uint64)) == 0


def test_long_lines_are_those_of_eight_tokens():
    assert module.LONG_LINE_TOKENS == 8
