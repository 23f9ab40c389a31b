from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from commbert.known import contains, pair_keys
from commbert.pairs.negatives import NO_WORD, draw_from, draw_matched
from commbert.pairs.positives import (
    LineWords,
    _unrank,
    all_pair_keys,
    capped,
    draw_pairs,
    kept,
    subsampled,
)

NONE_KNOWN = np.empty(0, np.uint64)


def lines_of(*rows):
    ids = np.array([w for row in rows for w in row], np.uint32)
    return LineWords(ids, np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64))


def rows_of(lines):
    return [lines.word_ids[a:b].tolist() for a, b in zip(lines.offsets[:-1], lines.offsets[1:], strict=True)]


def random_lines(rng, *, n_lines=60, n_words=40, longest=9):
    return [rng.choice(n_words, rng.integers(0, longest), replace=False).tolist() for _ in range(n_lines)]


def unordered(drawn):
    both = zip(drawn.line, drawn.word_id_a, drawn.word_id_b, strict=True)
    return [(int(line), *sorted((int(a), int(b)))) for line, a, b in both]


def test_unrank_is_exhaustive_for_up_to_fifty_words():
    for n in range(2, 51):
        i, j = _unrank(np.arange(n * (n - 1) // 2))
        assert list(zip(i.tolist(), j.tolist(), strict=True)) == sorted(
            combinations(range(n), 2), key=lambda pair: (pair[1], pair[0])
        )


def test_unrank_is_exact_at_the_edges_of_very_long_lines():
    j = np.array([2, 1000, 94_906_267, 2**31], np.int64)
    first = j * (j - 1) // 2
    assert [x.tolist() for x in _unrank(first)] == [[0, 0, 0, 0], j.tolist()]
    assert [x.tolist() for x in _unrank(first - 1)] == [(j - 2).tolist(), (j - 1).tolist()]


def test_all_pairs_are_drawn_where_no_number_is_given():
    rows = random_lines(np.random.default_rng(0))
    expected = sorted((k, *sorted(p)) for k, row in enumerate(rows) for p in combinations(row, 2))
    assert sorted(unordered(draw_pairs(lines_of(*rows), None, np.random.default_rng(1)))) == expected


def test_more_pairs_than_there_are_gives_all_of_them_once():
    drawn = draw_pairs(lines_of([1, 2, 3], [4, 5]), 1000, np.random.default_rng(1))
    assert sorted(unordered(drawn)) == [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 4, 5)]


@pytest.mark.parametrize("rows", [[], [[]], [[1], [], [2]]])
def test_lines_without_pairs_give_none(rows):
    assert len(draw_pairs(lines_of(*rows), 5, np.random.default_rng(1)).line) == 0


def test_each_pair_is_drawn_equally_often_and_none_twice():
    rows = [[0, 1, 2, 3, 4], [], [5], [6, 7], [8, 9, 10]]  # 10 + 1 + 3 = 14 pairs
    counts: Counter = Counter()
    rng = np.random.default_rng(17)
    for _ in range(2000):
        pairs = unordered(draw_pairs(lines_of(*rows), 7, rng))
        assert len(set(pairs)) == 7
        counts.update(pairs)
    assert len(counts) == 14
    # Half of the pairs each time: 1,000 +- 22 expected. Chi-square with 13 degrees of freedom stays below 35
    # (p = 0.001); drawing without replacement makes it smaller still.
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 35


def test_either_word_is_the_anchor_half_of_the_time():
    rng = np.random.default_rng(17)
    first = [int(draw_pairs(lines_of([1, 2]), None, rng).word_id_a[0]) for _ in range(1000)]
    assert 440 < first.count(1) < 560


def test_the_same_seed_draws_the_same_pairs():
    lines = lines_of(*random_lines(np.random.default_rng(0)))
    one, two = (draw_pairs(lines, 50, np.random.default_rng(5)) for _ in range(2))
    assert unordered(one) == unordered(two)
    assert one.word_id_a.tolist() == two.word_id_a.tolist()


def test_the_cap_keeps_that_many_words_of_a_longer_line_and_shorter_lines_whole():
    rows = [list(range(10)), [20, 21], [], list(range(30, 34))]
    found = rows_of(capped(lines_of(*rows), 4, np.random.default_rng(0)))
    assert [len(row) for row in found] == [4, 2, 0, 4]
    assert found[0] == sorted(set(found[0]) & set(rows[0]))
    assert found[1:] == rows[1:]


def test_the_cap_keeps_every_word_equally_often():
    rng = np.random.default_rng(0)
    lines = lines_of(list(range(8)))
    counts = Counter(w for _ in range(2000) for w in rows_of(capped(lines, 2, rng))[0])
    assert sum((counts[w] - 500) ** 2 / 500 for w in range(8)) < 24  # 7 degrees of freedom, p = 0.001


def test_kept_words_stay_in_their_lines():
    lines = lines_of([1, 2, 3], [], [4], [5, 6])
    keep = np.array([True, False, True, False, False, True])
    assert rows_of(kept(lines, keep)) == [[1, 3], [], [], [6]]


def test_subsampling_keeps_every_rare_word():
    # Word 0 is 99.8 % of all occurrences, words 1 and 2 are 0.1 % each: at the threshold, so never dropped.
    n_lines = np.array([998, 1, 1], np.uint64)
    lines = lines_of(*[[0, 1, 2]] * 1000)
    counts = Counter(subsampled(lines, n_lines, 1e-3, np.random.default_rng(0)).word_ids.tolist())
    assert (counts[1], counts[2]) == (1000, 1000)


def test_subsampling_keeps_a_frequent_word_with_the_probability_of_the_paper():
    # f = 0.4, threshold 0.001: kept with sqrt(0.001 / 0.4) = 0.05.
    n_lines = np.array([400, 300, 300], np.uint64)
    lines = lines_of(*[[0]] * 20_000)
    n_kept = len(subsampled(lines, n_lines, 1e-3, np.random.default_rng(0)).word_ids)
    assert n_kept == pytest.approx(1000, abs=100)  # three standard deviations are 92


def test_subsampling_keeps_a_word_that_training_lacks():
    n_lines = np.array([1000, 0], np.uint64)
    lines = lines_of(*[[0, 1]] * 100)
    assert Counter(subsampled(lines, n_lines, 1e-3, np.random.default_rng(0)).word_ids.tolist())[1] == 100


def test_all_pair_keys_equal_brute_force():
    rng = np.random.default_rng(3)
    for longest in (2, 5, 30):
        rows = random_lines(rng, longest=longest)
        expected = sorted({min(p) * 2**32 + max(p) for row in rows for p in combinations(row, 2)})
        assert all_pair_keys(lines_of(*rows)).tolist() == expected


def test_no_lines_have_no_pair_keys():
    assert all_pair_keys(lines_of()).tolist() == []


def drawn_anchors(n_words=60):
    rows = random_lines(np.random.default_rng(4), n_lines=200, n_words=n_words)
    lines = lines_of(*rows)
    drawn = draw_pairs(lines, None, np.random.default_rng(5))
    return drawn.word_id_a, drawn.word_id_b, all_pair_keys(lines), [set(r) for r in rows]


def test_a_drawn_negative_never_shares_a_line_with_its_anchor():
    anchor, positive, known, rows = drawn_anchors()
    pool = np.arange(30, 80, dtype=np.uint32)
    negative = draw_from(pool, anchor, positive, known, np.random.default_rng(6))
    for a, n in zip(anchor.tolist(), negative.tolist(), strict=True):
        assert n == NO_WORD or (n in pool and n != a and not any({a, n} <= row for row in rows))


def test_an_anchor_that_shares_a_line_with_the_whole_pool_gets_no_word():
    anchor, positive = np.array([1], np.uint32), np.array([2], np.uint32)
    known = np.sort(pair_keys(anchor, np.array([2, 3], np.uint32)))
    assert draw_from(np.array([1, 2, 3], np.uint32), anchor, positive, known, np.random.default_rng(0)) == [NO_WORD]


def test_negatives_are_drawn_evenly_from_what_is_allowed():
    anchor, positive = np.full(6000, 1, np.uint32), np.full(6000, 2, np.uint32)
    negative = draw_from(np.arange(1, 6, dtype=np.uint32), anchor, positive, NONE_KNOWN, np.random.default_rng(0))
    counts = Counter(negative.tolist())
    assert sorted(counts) == [3, 4, 5]
    assert sum((n - 2000) ** 2 / 2000 for n in counts.values()) < 14  # 2 degrees of freedom, p = 0.001


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
    negative = draw_matched(a, b, frequency, known, np.random.default_rng(9))
    found = negative != NO_WORD
    assert found.mean() > 0.5
    scores = np.concatenate([frequency[b[found]], frequency[negative[found]]])
    labels = np.repeat([1, 0], int(found.sum()))
    assert roc_auc_score(labels, scores) == pytest.approx(0.5, abs=0.05)


def test_random_negatives_do_not_keep_the_marginal_of_the_frequency():
    # The control of the test above: it can fail.
    a, b, frequency, known = zipf_pairs()
    negative = draw_from(np.arange(1500, dtype=np.uint32), a, b, known, np.random.default_rng(9))
    found = negative != NO_WORD
    scores = np.concatenate([frequency[b[found]], frequency[negative[found]]])
    assert roc_auc_score(np.repeat([1, 0], int(found.sum())), scores) > 0.7


def test_matched_negatives_are_words_of_the_positives_and_share_no_line():
    a, b, frequency, known = zipf_pairs()
    negative = draw_matched(a, b, frequency, known, np.random.default_rng(9))
    found = negative != NO_WORD
    assert set(negative[found].tolist()) <= set(b.tolist())
    assert not contains(known, pair_keys(a[found], negative[found])).any()
    assert not (negative[found] == a[found]).any()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_matched_negatives_of_very_few_pairs_are_found_or_left_out(n):
    a, b = np.arange(n, dtype=np.uint32), np.arange(10, 10 + n, dtype=np.uint32)
    frequency = np.ones(20, np.uint64)
    negative = draw_matched(a, b, frequency, np.sort(pair_keys(a, b)), np.random.default_rng(0))
    assert (negative != NO_WORD).tolist() == [n > 1] * n
