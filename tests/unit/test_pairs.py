from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import roc_auc_score

from commbert.known import KnownPairs, contains, pair_keys
from commbert.pairs import keys as keys_module
from commbert.pairs import positives
from commbert.pairs.exchange import by_frequency, by_sub_word, within
from commbert.pairs.keys import KeySet, merged
from commbert.pairs.lexical import sub_word_matrix
from commbert.pairs.negatives import NO_WORD, Draws, draw_from
from commbert.pairs.positives import (
    NO_PAIRS,
    DrawnPairs,
    LineWords,
    Sample,
    all_pairs,
    capped,
    distinct,
    joined,
    keep_probabilities,
    kept,
    line_words,
    lowest,
    rows_of,
    subsampled,
    with_priorities,
)

NONE_KNOWN = np.empty(0, np.uint64)


def lines_of(*rows, numbers=None):
    ids = np.array([w for row in rows for w in sorted(row)], np.uint32)
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return LineWords(ids, offsets, np.array(range(len(rows)) if numbers is None else numbers, np.uint64))


def words_of(lines):
    return [lines.word_ids[a:b].tolist() for a, b in zip(lines.offsets[:-1], lines.offsets[1:], strict=True)]


def random_lines(rng, *, n_lines=60, n_words=40, longest=9):
    return [rng.choice(n_words, rng.integers(0, longest), replace=False).tolist() for _ in range(n_lines)]


def listed(pairs):
    return list(zip(pairs.line.tolist(), pairs.word_id_a.tolist(), pairs.word_id_b.tolist(), strict=True))


def pairs_of(lines, seed=17):
    return joined([with_priorities(a, b, line, seed) for a, b, line in all_pairs(lines)])


def brute_force(rows):
    return sorted((k, *sorted(p)) for k, row in enumerate(rows) for p in combinations(row, 2))


def chi_square(counts, expected):
    return sum((n - expected) ** 2 / expected for n in counts)


# -- Lines -------------------------------------------------------------------------------------------------------------


def test_the_words_of_a_line_are_put_in_ascending_order_and_stay_in_their_line():
    codes = np.array([5, 2, 9, 7, 1, 0, 2**32 - 1, 3], np.uint32)
    lines = line_words(codes, np.array([0, 3, 3, 4, 8]), np.array([10, 11, 12, 13], np.uint64))
    assert words_of(lines) == [[2, 5, 9], [], [7], [0, 1, 3, 2**32 - 1]]
    assert lines.row_of_word.tolist() == [0, 0, 0, 2, 3, 3, 3, 3]


def test_kept_words_stay_in_their_lines():
    lines = lines_of([1, 2, 3], [], [4], [5, 6])
    found = kept(lines, np.array([True, False, True, False, False, True]))
    assert words_of(found) == [[1, 3], [], [], [6]]
    assert found.line.tolist() == lines.line.tolist()


def test_some_of_the_lines_keep_their_words_and_numbers():
    lines = lines_of([1, 2, 3], [], [4], [5, 6], numbers=[7, 8, 9, 2**63])
    found = rows_of(lines, np.array([True, True, False, True]))
    assert (words_of(found), found.line.tolist()) == ([[1, 2, 3], [], [5, 6]], [7, 8, 2**63])
    assert words_of(rows_of(lines, np.zeros(4, np.bool_))) == []


# -- Subsampling and the cap -------------------------------------------------------------------------------------------


def test_the_probability_to_keep_a_word_is_that_of_the_paper():
    # f = 0.4, 0.3, 0.3, threshold 0.001: sqrt(0.001 / 0.4) = 0.05; at the threshold and below it: 1.
    assert keep_probabilities(np.array([400, 300, 300], np.uint64), 1e-3)[0] == pytest.approx(0.05)
    assert keep_probabilities(np.array([998, 1, 1, 0], np.uint64), 1e-3)[1:].tolist() == [1.0, 1.0, 1.0]
    assert keep_probabilities(np.array([0, 0], np.uint64), 1e-3).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_subsampling_keeps_an_occurrence_with_the_given_probability(share):
    lines = lines_of(*[[3, 8]] * 20_000, numbers=np.arange(20_000) * 2**32 + 5)
    found = Counter(subsampled(lines, np.array([1.0] * 3 + [share] + [1.0] * 5), 17).word_ids.tolist())
    assert found[8] == 20_000
    assert abs(found[3] - 20_000 * share) < 4 * np.sqrt(20_000 * share * (1 - share))


def test_subsampling_drops_the_words_of_a_line_independently():
    lines = lines_of(*[[0, 1]] * 20_000)
    rows = words_of(subsampled(lines, np.array([0.5, 0.5]), 3))
    both = Counter(map(tuple, rows))
    # A quarter each: 5,000 +- 61.
    assert all(abs(both[kind] - 5000) < 245 for kind in ((), (0,), (1,), (0, 1)))


def test_subsampling_does_not_depend_on_the_pieces_that_lines_come_in():
    rng = np.random.default_rng(5)
    rows = random_lines(rng, n_lines=90)
    share = rng.random(40)
    whole = words_of(subsampled(lines_of(*rows), share, 17))
    pieces = [
        words_of(subsampled(lines_of(*rows[at : at + 7], numbers=range(at, min(at + 7, 90))), share, 17))
        for at in range(0, 90, 7)
    ]
    assert [row for piece in pieces for row in piece] == whole
    assert whole != words_of(subsampled(lines_of(*rows), share, 18))


def test_the_cap_keeps_that_many_words_of_a_longer_line_and_shorter_lines_whole():
    rows = [list(range(10)), [20, 21], [], list(range(30, 34)), list(range(5))]
    found = words_of(capped(lines_of(*rows), 4, 0))
    assert [len(row) for row in found] == [4, 2, 0, 4, 4]
    assert all(f == sorted(set(f) & set(row)) for f, row in zip(found, rows, strict=True))
    assert found[1:4] == rows[1:4]


def test_the_cap_leaves_lines_of_its_length_alone():
    lines = lines_of([1, 2, 3], [4])
    assert capped(lines, 3, 0) is lines


def test_the_cap_keeps_every_word_and_every_pair_of_words_equally_often():
    lines = lines_of(*[list(range(8))] * 4200)
    rows = words_of(capped(lines, 2, 17))
    words = Counter(w for row in rows for w in row)
    pairs = Counter(map(tuple, rows))
    assert len(pairs) == 28
    assert chi_square(words.values(), 1050) < 24.3  # 7 degrees of freedom, p = 0.001; without replacement it is smaller
    assert chi_square(pairs.values(), 150) < 55.5  # 27 degrees of freedom, p = 0.001


def test_the_cap_does_not_depend_on_the_pieces_that_lines_come_in():
    rows = random_lines(np.random.default_rng(6))
    whole = words_of(capped(lines_of(*rows), 3, 17))
    alone = [words_of(capped(lines_of(row, numbers=[i]), 3, 17))[0] for i, row in enumerate(rows)]
    assert alone == whole
    assert whole != words_of(capped(lines_of(*rows), 3, 18))


# -- All pairs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [2, 5, 30])
def test_all_pairs_are_given_once(longest):
    rows = random_lines(np.random.default_rng(longest), longest=longest)
    assert sorted(listed(pairs_of(lines_of(*rows)))) == brute_force(rows)


@pytest.mark.parametrize("at_once", [1, 2015, 2016, 2017, 5000])
def test_all_pairs_of_lines_of_64_words_are_given_once_whatever_is_made_at_once(monkeypatch, at_once):
    monkeypatch.setattr(positives, "_PAIRS_AT_ONCE", at_once)
    rng = np.random.default_rng(1)
    rows = [rng.choice(1000, n, replace=False).tolist() for n in (64, 2, 64, 0, 64, 1, 2, 63, 64)]
    blocks = list(all_pairs(lines_of(*rows)))
    found = [x for a, b, line in blocks for x in zip(line.tolist(), a.tolist(), b.tolist(), strict=True)]
    assert sorted(found) == brute_force(rows)
    assert max(len(a) for a, _, _ in blocks) <= max(at_once, 64 * 63 // 2)


@pytest.mark.parametrize("rows", [[], [[]], [[1], [], [2]]])
def test_lines_without_pairs_give_none(rows):
    assert list(all_pairs(lines_of(*rows))) == []
    assert len(pairs_of(lines_of(*rows))) == 0


# -- Priorities and samples --------------------------------------------------------------------------------------------


def test_a_priority_is_of_seed_line_and_words_and_of_nothing_else():
    rows = random_lines(np.random.default_rng(0))
    pairs = pairs_of(lines_of(*rows))
    whole = dict(zip(listed(pairs), pairs.priority.tolist(), strict=True))
    for k, row in enumerate(rows):
        alone = pairs_of(lines_of(row, numbers=[k]))
        assert {x: int(p) for x, p in zip(listed(alone), alone.priority, strict=True)} == {
            x: p for x, p in whole.items() if x[0] == k
        }
    assert len(set(whole.values())) == len(whole)
    other = pairs_of(lines_of(*rows), seed=18)
    assert not set(other.priority.tolist()) & set(whole.values())


def test_either_word_is_the_anchor_half_of_the_time():
    pairs = pairs_of(lines_of(*[[1, 2]] * 10_000))
    anchor, positive = pairs.anchors_and_positives()
    assert abs(int((anchor == 1).sum()) - 5000) < 200  # four standard deviations
    assert (anchor + positive == 3).all()


def test_each_pair_is_drawn_equally_often():
    rows = [[0, 1, 2, 3, 4], [], [5], [6, 7], [8, 9, 10]]  # 10 + 1 + 3 = 14 pairs
    lines = lines_of(*rows)
    counts = Counter(x for seed in range(2000) for x in listed(lowest(pairs_of(lines, seed), 7)))
    assert len(counts) == 14
    # Half of the pairs each time: 1,000 expected. Chi-square with 13 degrees of freedom stays below 35 (p = 0.001);
    # drawing without replacement makes it smaller still.
    assert chi_square(counts.values(), 1000) < 35


def test_the_order_of_drawn_pairs_is_that_of_lines_and_words():
    rows = random_lines(np.random.default_rng(2))
    pairs = pairs_of(lines_of(*rows))
    shuffled = pairs.chosen(np.random.default_rng(0).permutation(len(pairs)))
    assert listed(shuffled.by_line()) == brute_force(rows)
    assert dict(zip(listed(shuffled.by_line()), shuffled.by_line().priority.tolist(), strict=True)) == dict(
        zip(listed(pairs), pairs.priority.tolist(), strict=True)
    )


def test_of_equal_pairs_the_occurrence_of_the_lowest_priority_stays():
    rows = random_lines(np.random.default_rng(3), n_words=8)
    pairs = pairs_of(lines_of(*rows))
    best = {}
    for (line, a, b), priority in sorted(zip(listed(pairs), pairs.priority.tolist(), strict=True), key=lambda x: -x[1]):
        best[a, b] = (line, priority)
    found = distinct(pairs)
    assert {(a, b): (line, int(p)) for (line, a, b), p in zip(listed(found), found.priority, strict=True)} == best
    assert len(found) == len(best) < len(pairs)


def test_no_pairs_stay_none():
    assert len(distinct(NO_PAIRS)) == len(lowest(NO_PAIRS, 5)) == len(joined([])) == len(NO_PAIRS.by_line()) == 0


def with_given_priorities(priorities):
    n = len(priorities)
    ids = np.arange(n, dtype=np.uint32)
    return DrawnPairs(ids, ids + 1, np.arange(n, dtype=np.uint64), np.array(priorities, np.uint64))


@pytest.mark.parametrize(("n", "expected"), [(1, [1]), (2, [1, 3]), (5, [1, 3, 5, 7, 9]), (9, None), (None, None)])
def test_the_lowest_are_those_of_the_lowest_priorities(n, expected):
    pairs = with_given_priorities([9, 3, 7, 1, 5])
    assert sorted(lowest(pairs, n).priority.tolist()) == (expected or [1, 3, 5, 7, 9])


@pytest.mark.parametrize("of_distinct", [False, True])
@pytest.mark.parametrize("n", [1, 10, 100, 10_000])
def test_a_sample_is_the_lowest_of_all_whatever_the_order_and_the_pieces(monkeypatch, n, of_distinct):
    monkeypatch.setattr(positives, "_PAIRS_AT_ONCE", 20)
    pairs = pairs_of(lines_of(*random_lines(np.random.default_rng(4), n_lines=200, n_words=15)))
    whole = lowest(distinct(pairs) if of_distinct else pairs, n)
    rng = np.random.default_rng(n)
    for _ in range(4):
        sample = Sample(n, of_distinct=of_distinct)
        order = rng.permutation(len(pairs))
        for some in np.array_split(order, rng.integers(1, 60)):
            sample.add(pairs.chosen(some))
        assert listed(sample.taken().by_line()) == listed(whole.by_line())


def test_a_sample_may_be_looked_at_and_filled_on():
    pairs = pairs_of(lines_of(*random_lines(np.random.default_rng(4), n_words=15)))
    sample = Sample(20, of_distinct=True)
    for some in np.array_split(np.arange(len(pairs)), 5):
        sample.add(pairs.chosen(some))
        sample.taken()
    assert listed(sample.taken().by_line()) == listed(lowest(distinct(pairs), 20).by_line())


def test_the_memory_of_a_sample_follows_its_size(monkeypatch):
    monkeypatch.setattr(positives, "_PAIRS_AT_ONCE", 50)
    sample = Sample(10, of_distinct=False)
    rng = np.random.default_rng(0)
    for _ in range(100):
        sample.add(with_given_priorities(rng.integers(0, 2**63, 40)))
        assert sum(map(len, sample._parts)) <= 2 * 10 + 50 + 40


def test_a_sample_of_nothing_is_empty():
    assert len(Sample(5, of_distinct=True).taken()) == 0


# -- Sets of keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waiting", [0, 10, 10**6])
def test_a_key_set_is_the_union_of_what_was_added(monkeypatch, waiting):
    monkeypatch.setattr(keys_module, "_WAITING", waiting)
    rng = np.random.default_rng(waiting)
    keys, expected = KeySet(), set()
    for size in rng.integers(0, 60, 80):
        some = rng.integers(0, 500, size).astype(np.uint64) << np.uint64(40)
        keys.add(some)
        expected |= set(some.tolist())
    assert keys.sorted().tolist() == sorted(expected)
    assert keys.sorted().dtype == np.uint64


def test_the_memory_of_a_key_set_follows_its_size(monkeypatch):
    monkeypatch.setattr(keys_module, "_WAITING", 100)
    keys = KeySet()
    for _ in range(200):
        keys.add(np.arange(50, dtype=np.uint64))
        assert sum(map(len, keys._parts)) <= 100 + 3 * 50


def test_a_key_set_of_nothing_is_empty():
    assert KeySet().sorted().tolist() == []


def stream_of(keys, sizes, rng):
    at = 0
    while at < len(keys):
        size = int(rng.choice(sizes))
        yield keys[at : at + size]
        at += size


@pytest.mark.parametrize("sizes", [[1], [1, 2, 3], [1, 50], [1000]])
def test_merged_streams_are_the_sorted_union_of_sets(sizes):
    rng = np.random.default_rng(len(sizes))
    for _ in range(60):
        sets = [
            np.unique(rng.integers(0, 120, rng.integers(0, 60)).astype(np.uint64)) for _ in range(rng.integers(0, 6))
        ]
        pieces = list(merged([stream_of(keys, sizes, rng) for keys in sets]))
        found = np.concatenate([np.empty(0, np.uint64), *pieces])
        assert found.tolist() == sorted(set().union(*(s.tolist() for s in sets)))
        assert all(len(p) for p in pieces)


def test_merging_reads_no_stream_further_than_it_must():
    read = []

    def stream():
        for i in range(100):
            read.append(i)
            yield np.array([i], np.uint64)

    next(merged([stream(), iter([np.array([0], np.uint64)])]))
    assert len(read) <= 2


def test_empty_streams_are_merged_to_nothing():
    assert list(merged([])) == list(merged([iter([]), iter([np.empty(0, np.uint64)])])) == []
    [one] = merged([iter([]), iter([np.array([3, 2**64 - 1], np.uint64)]), iter([])])
    assert one.tolist() == [3, 2**64 - 1]


# -- Negatives ---------------------------------------------------------------------------------------------------------


def drawn_anchors(n_words=60):
    rows = random_lines(np.random.default_rng(4), n_lines=200, n_words=n_words)
    pairs = pairs_of(lines_of(*rows))
    anchor, positive = pairs.anchors_and_positives()
    known = np.unique(pairs.keys)
    return anchor, positive, known, Draws(pairs.priority, 6), [set(r) for r in rows]


def draws_of(n, seed=0):
    return Draws(np.arange(n, dtype=np.uint64), seed)


def test_a_drawn_negative_is_neither_anchor_nor_positive_and_never_shares_a_line_with_its_anchor():
    anchor, positive, known, draws, rows = drawn_anchors()
    pool = np.arange(30, 80, dtype=np.uint32)
    negative = draw_from(pool, anchor, positive, KnownPairs(known), draws, kind="english")
    for a, p, n in zip(anchor.tolist(), positive.tolist(), negative.tolist(), strict=True):
        assert n in pool
        assert n not in (a, p)
        assert not any({a, n} <= row for row in rows)


def test_an_anchor_that_shares_a_line_with_the_whole_pool_gets_no_word():
    anchor, positive = np.array([1, 7], np.uint32), np.array([2, 8], np.uint32)
    known = np.sort(pair_keys(anchor[:1], np.array([2, 3], np.uint32)))
    found = draw_from(np.array([1, 2, 3], np.uint32), anchor, positive, KnownPairs(known), draws_of(2), kind="english")
    assert found[0] == NO_WORD
    assert found[1] in (1, 2, 3)


def test_a_pool_of_the_anchor_and_its_positive_gives_no_word():
    a, b = np.array([1, 2], np.uint32), np.array([2, 1], np.uint32)
    found = draw_from(np.array([1, 2], np.uint32), a, b, KnownPairs(NONE_KNOWN), draws_of(2), kind="x")
    assert found.tolist() == [NO_WORD, NO_WORD]


def test_an_empty_pool_gives_no_word():
    a, b = np.array([1, 2], np.uint32), np.array([2, 1], np.uint32)
    known = np.array([pair_keys(1, 2)])
    assert draw_from(np.empty(0, np.uint32), a, b, KnownPairs(known), draws_of(2), kind="x").tolist() == [NO_WORD] * 2


def test_no_anchors_get_no_negatives():
    none = np.empty(0, np.uint32)
    assert draw_from(np.array([1], np.uint32), none, none, KnownPairs(NONE_KNOWN), draws_of(0), kind="x").tolist() == []


def test_negatives_are_drawn_evenly_from_what_is_allowed():
    anchor, positive = np.full(6000, 1, np.uint32), np.full(6000, 2, np.uint32)
    negative = draw_from(
        np.arange(1, 6, dtype=np.uint32), anchor, positive, KnownPairs(NONE_KNOWN), draws_of(6000), kind="x"
    )
    counts = Counter(negative.tolist())
    assert sorted(counts) == [3, 4, 5]
    assert chi_square(counts.values(), 2000) < 14  # 2 degrees of freedom, p = 0.001


def test_a_negative_does_not_depend_on_what_is_drawn_beside_it():
    anchor, positive, known, draws, _ = drawn_anchors()
    pool = np.arange(30, 80, dtype=np.uint32)
    whole = draw_from(pool, anchor, positive, KnownPairs(known), draws, kind="english")
    order = np.random.default_rng(0).permutation(len(anchor))
    for some in np.array_split(order, 9):
        part = Draws(draws.number[some], draws.seed)
        found = draw_from(pool, anchor[some], positive[some], KnownPairs(known), part, kind="english")
        assert found.tolist() == whole[some].tolist()


@pytest.mark.parametrize(("seed", "kind"), [(7, "english"), (6, "random code")])
def test_negatives_of_another_seed_or_kind_are_others(seed, kind):
    anchor, positive, known, draws, _ = drawn_anchors()
    pool = np.arange(100, 1100, dtype=np.uint32)
    one = draw_from(pool, anchor, positive, KnownPairs(known), draws, kind="english")
    two = draw_from(pool, anchor, positive, KnownPairs(known), Draws(draws.number, seed), kind=kind)
    assert (one == two).mean() < 0.02


def zipf_pairs(n_pairs=4000, n_words=1500):
    rng = np.random.default_rng(8)
    weight = 1 / np.arange(1, n_words + 1)
    frequency = (1e5 * weight).astype(np.uint64) + np.uint64(1)
    a, b = (rng.choice(n_words, n_pairs, p=weight / weight.sum()).astype(np.uint32) for _ in range(2))
    keep = a != b
    known = np.unique(pair_keys(a[keep], b[keep]))
    return a[keep], b[keep], frequency, known


def test_matched_negatives_keep_the_marginal_of_the_frequency():
    a, b, frequency, known = zipf_pairs()
    negative = by_frequency(a, b, frequency, KnownPairs(known), np.random.default_rng(9))
    found = negative != NO_WORD
    assert found.mean() > 0.5
    scores = np.concatenate([frequency[b[found]], frequency[negative[found]]])
    labels = np.repeat([1, 0], int(found.sum()))
    assert roc_auc_score(labels, scores) == pytest.approx(0.5, abs=1e-12)


def test_random_negatives_do_not_keep_the_marginal_of_the_frequency():
    # The control of the test above: it can fail.
    a, b, frequency, known = zipf_pairs()
    negative = draw_from(np.arange(1500, dtype=np.uint32), a, b, KnownPairs(known), draws_of(len(a)), kind="x")
    found = negative != NO_WORD
    scores = np.concatenate([frequency[b[found]], frequency[negative[found]]])
    assert roc_auc_score(np.repeat([1, 0], int(found.sum())), scores) > 0.7


def test_matched_negatives_hold_the_words_of_the_positives_equally_often():
    a, b, frequency, known = zipf_pairs()
    negative = by_frequency(a, b, frequency, KnownPairs(known), np.random.default_rng(9))
    found = negative != NO_WORD
    ours, theirs = Counter(negative[found].tolist()), Counter(b[found].tolist())
    overlap = sum((ours & theirs).values()) / int(found.sum())
    control = draw_from(np.arange(1500, dtype=np.uint32), a, b, KnownPairs(known), draws_of(len(a)), kind="x")
    by_chance = sum((Counter(control[found].tolist()) & theirs).values()) / int(found.sum())
    assert overlap == 1.0
    assert overlap > 2 * by_chance


def test_matched_negatives_are_words_of_the_positives_and_share_no_line():
    a, b, frequency, known = zipf_pairs()
    negative = by_frequency(a, b, frequency, KnownPairs(known), np.random.default_rng(9))
    found = negative != NO_WORD
    assert set(negative[found].tolist()) <= set(b.tolist())
    assert not contains(known, pair_keys(a[found], negative[found])).any()
    assert not (negative[found] == a[found]).any()
    assert not (negative[found] == b[found]).any()


def test_matched_negatives_are_near_in_frequency():
    a, b, frequency, known = zipf_pairs()
    negative = by_frequency(a, b, frequency, KnownPairs(known), np.random.default_rng(9))
    found = negative != NO_WORD
    far = np.abs(np.log(frequency[b[found]] / frequency[negative[found]]))
    assert np.median(far) < 0.35


def test_most_pairs_find_a_matched_negative_where_words_are_many():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 3000, 4000).astype(np.uint32), rng.integers(3000, 6000, 4000).astype(np.uint32)
    frequency = rng.integers(1, 1000, 6000).astype(np.uint64)
    negative = by_frequency(a, b, frequency, KnownPairs(np.unique(pair_keys(a, b))), rng)
    assert (negative != NO_WORD).mean() > 0.99


NAMES = ["harq_id", "harq_round", "pdcch_dci", "dci_size", "id", "round_up", "pdcch", "size_t", "zz", "dci"]


def named_pairs(*pairs):
    word_id = {name: i for i, name in enumerate(NAMES)}
    return tuple(np.array([word_id[pair[side]] for pair in pairs], np.uint32) for side in (0, 1))


def test_sub_word_negatives_by_hand():
    # harq_id may take harq_round of the second pair, pdcch_dci its dci_size of the first; the third shares nothing.
    a, b = named_pairs(("harq_id", "dci_size"), ("pdcch_dci", "harq_round"), ("zz", "id"))
    known = KnownPairs(np.sort(pair_keys(a, b)))
    found = by_sub_word(a, b, sub_word_matrix(NAMES), known, np.random.default_rng(0))
    assert [NAMES[i] if i != NO_WORD else None for i in found] == ["harq_round", "dci_size", None]


def test_sub_word_negatives_never_share_a_line():
    a, b = named_pairs(("harq_id", "dci_size"), ("pdcch_dci", "harq_round"))
    also = pair_keys(*named_pairs(("harq_id", "harq_round")))
    known = KnownPairs(np.sort(np.concatenate([pair_keys(a, b), also])))
    found = by_sub_word(a, b, sub_word_matrix(NAMES), known, np.random.default_rng(0))
    assert (found == NO_WORD).all()


def test_an_exchange_covers_as_many_pairs_as_an_exhaustive_search_finds():
    rng = np.random.default_rng(3)
    for _ in range(40):
        n = 6
        parts = csr_array((rng.random((2 * n, 4)) < 0.3).astype(np.int32))
        a, b = np.arange(n, dtype=np.uint32), np.arange(n, 2 * n, dtype=np.uint32)
        extra = pair_keys(rng.integers(0, n, 4), rng.integers(n, 2 * n, 4))
        known = KnownPairs(np.unique(np.concatenate([pair_keys(a, b), extra])))
        found = by_sub_word(a, b, parts, known, rng)
        moved = found != NO_WORD
        shares = (parts @ parts.T).toarray() > 0
        fits = [[shares[i, n + j] and int(pair_keys(i, n + j)) not in known for j in range(n)] for i in range(n)]
        best = max(
            sum(i != j for i, j in enumerate(p))
            for p in permutations(range(n))
            if all(i == j or fits[i][j] for i, j in enumerate(p))
        )
        assert moved.sum() == best
        assert sorted(found[moved]) == sorted(b[moved])
        assert all(fits[i][found[i] - n] for i in np.flatnonzero(moved))


def test_groups_exchange_among_themselves_only():
    a, b, frequency, known = zipf_pairs()
    groups = np.arange(len(a)) % 3 == 0
    found = within(
        groups,
        lambda rows: by_frequency(a[rows], b[rows], frequency, KnownPairs(known), np.random.default_rng(1)),
    )
    for group in (True, False):
        moved = (found != NO_WORD) & (groups == group)
        assert moved.sum() > 100
        assert sorted(found[moved]) == sorted(b[moved])


def test_sub_word_negatives_are_the_same_for_the_same_seed_and_drawn_evenly_otherwise():
    rng = np.random.default_rng(5)
    parts = csr_array((rng.random((3000, 40)) < 0.05).astype(np.int32))
    a, b = rng.integers(0, 3000, 1000).astype(np.uint32), rng.integers(0, 3000, 1000).astype(np.uint32)
    known = KnownPairs(np.unique(pair_keys(a, b)))
    one, again, other = (by_sub_word(a, b, parts, known, np.random.default_rng(s)) for s in (1, 1, 2))
    assert (one == again).all()
    assert (one != NO_WORD).mean() > 0.7
    assert (one != other).mean() > 0.5
    # No early row, and no early column, is preferred.
    assert abs(np.flatnonzero(one != NO_WORD).mean() - 500) < 60


@pytest.mark.parametrize("n", [1, 2, 3])
def test_matched_negatives_of_very_few_pairs_are_found_or_left_out(n):
    a, b = np.arange(n, dtype=np.uint32), np.arange(10, 10 + n, dtype=np.uint32)
    frequency = np.ones(20, np.uint64)
    negative = by_frequency(a, b, frequency, KnownPairs(np.sort(pair_keys(a, b))), np.random.default_rng(0))
    assert (negative != NO_WORD).tolist() == [n > 1] * n


def test_weighted_negatives_are_drawn_in_proportion_to_their_weight():
    n = 14_000
    anchor, positive = np.full(n, 9, np.uint32), np.full(n, 8, np.uint32)
    pool, weight = np.array([3, 5, 8, 1], np.uint32), np.array([1.0, 2.0, 7.0, 4.0])
    found = draw_from(pool, anchor, positive, KnownPairs(NONE_KNOWN), draws_of(n), kind="x", weight=weight)
    counts = Counter(found.tolist())
    # Without 8, the positive: 1, 2 and 4 of 7. Chi-square with 2 degrees of freedom, p = 0.001.
    assert sorted(counts) == [1, 3, 5]
    assert sum((counts[w] - n * k / 7) ** 2 / (n * k / 7) for w, k in ((3, 1), (5, 2), (1, 4))) < 14


def test_weighted_negatives_do_not_depend_on_what_is_drawn_beside_them_and_never_share_a_line():
    anchor, positive, known, draws, rows = drawn_anchors()
    pool, weight = np.arange(30, 80, dtype=np.uint32), np.arange(1, 51) ** 0.75
    whole = draw_from(pool, anchor, positive, KnownPairs(known), draws, kind="x", weight=weight)
    for a, p, n in zip(anchor.tolist(), positive.tolist(), whole.tolist(), strict=True):
        assert n not in (a, p)
        assert not any({a, n} <= row for row in rows)
    for some in np.array_split(np.random.default_rng(0).permutation(len(anchor)), 9):
        part = Draws(draws.number[some], draws.seed)
        found = draw_from(pool, anchor[some], positive[some], KnownPairs(known), part, kind="x", weight=weight)
        assert found.tolist() == whole[some].tolist()
