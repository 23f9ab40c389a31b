import re
from collections import Counter
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from commbert.known import KnownPairs, pair_keys
from commbert.pairs.lexical import SubWords
from commbert.pairs.negatives import NO_WORD, Draws

NOTHING = KnownPairs(np.empty(0, np.uint64))
NAMES = ["pusch_config", "pusch_symbols", "config", "a_b", "ldpc5g", "LDPC_x2", "n15", "m_15", "é_größe", "größe9"]


def ids(*values):
    return np.array(values, np.uint32)


def everything(words):
    return np.arange(len(words), dtype=np.uint32)


def draws_of(n, seed=0):
    return Draws(np.arange(n, dtype=np.uint64), seed)


def parts_of(word):
    """Split at ``_``, then between letters and digits, by hand."""
    pieces = [p for w in word.lower().split("_") for p in re.split(r"(?<=\d)(?=\D)|(?<=\D)(?=\d)", w)]
    return {p for p in pieces if len(p) >= 2}


def drawn_often(words, anchor, *, pool=None, n=400, known=NOTHING, positive=NO_WORD):
    found = SubWords(words, everything(words) if pool is None else pool).candidates(
        np.full(n, anchor, np.uint32), np.full(n, positive, np.uint32), known, draws_of(n)
    )
    return set(found.ravel().tolist()) - {int(NO_WORD)}


@pytest.mark.parametrize("anchor", range(len(NAMES)))
def test_the_words_drawn_are_all_that_share_a_sub_word_and_no_others(anchor):
    expected = {i for i, w in enumerate(NAMES) if i != anchor and parts_of(w) & parts_of(NAMES[anchor])}
    assert drawn_often(NAMES, anchor) == expected


def test_sub_words_by_hand():
    assert [drawn_often(NAMES, i) for i in range(8)] == [{1, 2}, {0}, {0}, set(), {5}, {4}, {7}, {6}]


def test_parts_of_one_character_are_shared_by_nobody():
    assert drawn_often(["a_b_c", "a_b_d", "x1_y2", "x1_y3"], 0) == set()
    assert drawn_often(["a_b_c", "a_b_d", "x1_y2", "x1_y3"], 2) == set()


def test_only_words_of_the_pool_are_drawn_and_any_word_may_be_an_anchor():
    words = ["rx_power", "tx_power", "power", "power_dbm"]
    for anchor in range(4):
        assert drawn_often(words, anchor, pool=ids(1, 3)) == {1, 3} - {anchor}


def test_neither_the_positive_nor_a_word_of_the_same_line_is_drawn():
    words = ["rx_power", "tx_power", "power", "power_dbm", "power_max"]
    known = KnownPairs(np.sort(pair_keys(0, ids(3))))
    assert drawn_often(words, 0, known=known, positive=1) == {2, 4}


def random_names(n=120, seed=0):
    rng = np.random.default_rng(seed)
    parts = ["harq", "rlc", "mac", "ue", "slot", "beam", "x", "rx", "tx", "28"]
    return sorted({"_".join(rng.choice(parts, rng.integers(1, 4))) for _ in range(n)})


def random_case(n=500, seed=1):
    names, rng = random_names(), np.random.default_rng(seed)
    pairs = np.array([rng.choice(len(names), 2, replace=False) for _ in range(n)], np.uint32)
    further = np.array(list(combinations(range(len(names)), 2)), np.uint32)
    further = further[rng.random(len(further)) < 0.4]
    known = np.unique(pair_keys(*np.concatenate([pairs, further]).T))
    return names, pairs[:, 0], pairs[:, 1], known, Draws(rng.integers(0, 2**63, n).astype(np.uint64), 3)


def test_several_words_of_an_anchor_are_distinct_valid_and_missing_only_where_few_are_allowed():
    names, anchor, positive, known, draws = random_case()
    found = SubWords(names, everything(names)).candidates(anchor, positive, KnownPairs(known), draws, n=5)
    assert found.shape == (500, 5)
    keys = set(known.tolist())
    for a, p, row in zip(anchor.tolist(), positive.tolist(), found.tolist(), strict=True):
        words = [w for w in row if w != NO_WORD]
        allowed = {
            i
            for i, name in enumerate(names)
            if parts_of(name) & parts_of(names[a]) and i not in (a, p) and int(pair_keys(a, i)) not in keys
        }
        assert len(set(words)) == len(words)
        assert set(words) <= allowed
        assert len(words) > 0 or not allowed
        assert len(words) == 5 or len(allowed) < 10


def test_a_draw_does_not_depend_on_what_is_drawn_beside_it():
    names, anchor, positive, known, draws = random_case()
    sub_words = SubWords(names, everything(names))
    whole = sub_words.candidates(anchor, positive, KnownPairs(known), draws, n=3)
    order = np.random.default_rng(0).permutation(len(anchor))
    for some in np.array_split(order, 7):
        part = Draws(draws.number[some], draws.seed)
        found = sub_words.candidates(anchor[some], positive[some], KnownPairs(known), part, n=3)
        assert found.tolist() == whole[some].tolist()


def test_fewer_words_per_anchor_are_the_first_of_more():
    names, anchor, positive, known, draws = random_case()
    sub_words = SubWords(names, everything(names))
    one, three = (sub_words.candidates(anchor, positive, KnownPairs(known), draws, n=n) for n in (1, 3))
    assert one.tolist() == three[:, :1].tolist()


@pytest.mark.parametrize(("seed", "kind"), [(1, "lexical"), (0, "other")])
def test_another_seed_or_kind_draws_other_words(seed, kind):
    words = [f"harq_{'abcdefghijklmnopqrstuvwxyz'[i % 26]}{i}" for i in range(300)]
    sub_words = SubWords(words, everything(words))
    anchor, positive = np.zeros(200, np.uint32), np.ones(200, np.uint32)
    one = sub_words.candidates(anchor, positive, NOTHING, draws_of(200))
    two = sub_words.candidates(anchor, positive, NOTHING, draws_of(200, seed), kind=kind)
    assert (one == two).mean() < 0.03


def test_a_rare_sub_word_is_drawn_as_often_as_a_frequent_one():
    words = ["harq_beam", "harq_q", *(f"beam_x{i}" for i in range(9))]
    n = 6000
    found = SubWords(words, everything(words)).candidates(
        np.zeros(n, np.uint32), np.full(n, NO_WORD, np.uint32), NOTHING, draws_of(n)
    )
    counts = Counter(found.ravel().tolist())
    # The anchor itself is drawn 1/2 of the time by harq and 1/10 by beam, and drawn again: 5/14 and 9/14 remain.
    assert abs(counts[1] - n * 5 / 14) < 4 * np.sqrt(n * 5 * 9 / 14**2)
    assert all(abs(counts[w] - n / 14) < 4 * np.sqrt(n * 13 / 14**2) for w in range(2, 11))


@pytest.mark.parametrize("words", [[], ["a", "_"], ["harq"]])
def test_words_without_a_shared_part_give_no_word(words):
    n = len(words)
    found = SubWords(pl.Series(words, dtype=pl.String), everything(words)).candidates(
        everything(words), np.full(n, NO_WORD, np.uint32), NOTHING, draws_of(n), n=2
    )
    assert found.tolist() == [[NO_WORD, NO_WORD]] * n


def test_an_empty_pool_gives_no_word():
    assert drawn_often(["harq_a", "harq_b"], 0, pool=ids()) == set()


def test_hostile_names_are_taken_apart_in_linear_time():
    words = ["a1" * 50_000, "_" * 100_000, "harq" * 20_000, "\x00ab\x00", "ab", "9" * 99_999]
    assert drawn_often(words, 3, n=20) == {4}
