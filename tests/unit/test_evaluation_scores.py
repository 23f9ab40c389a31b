from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from commbert import counters
from commbert.evaluation.pairs import HeldOutPairs, rung_scores
from commbert.evaluation.scores import Column, difference, figure, read_scores, resampled, write_scores
from commbert.evaluation.unigram import unigram
from commbert.known import KnownPairs, pair_keys
from commbert.nn.measures import auc
from commbert.pairs.exchange import by_frequency
from commbert.pairs.negatives import NO_WORD, Draws, draw_from

torch.set_num_threads(1)
OPTIONS = {"n_resamples": 200, "seed": 1}


def _column(values, weights=None, clusters=None):
    n = len(values)
    ones = np.ones(n) if weights is None else np.array(weights, float)
    return Column(np.arange(n), np.arange(n) if clusters is None else clusters, np.array(values, float), ones)


def _scores(shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 60, 200)
    return {
        "auc_english:positive": _column(rng.normal(0.5 + shift, 1, 200), clusters=clusters),
        "auc_english:negative": _column(rng.normal(0, 1, 200), clusters=clusters),
        "mlm_loss": _column(rng.gamma(2.0, 1.0, 200), weights=rng.integers(1, 9, 200), clusters=clusters),
    }


def test_a_mean_by_hand():
    assert figure({"mlm_top1": _column([1, 0, 0, 1])}, "mlm_top1", **OPTIONS).value == 0.5


def test_loss_per_character_is_a_sum_over_a_sum():
    scores = {"mlm_loss": _column([3.0, 1.0], weights=[5, 3])}
    assert figure(scores, "mlm_loss_per_char", **OPTIONS).value == 0.5


def test_the_figure_of_a_rung_is_its_auc():
    scores = _scores()
    expected = auc(scores["auc_english:positive"].value, scores["auc_english:negative"].value)
    assert figure(scores, "auc_english", **OPTIONS).value == pytest.approx(expected, rel=1e-12)


def test_a_figure_that_was_not_measured_is_none():
    assert figure({}, "mlm_loss", **OPTIONS) is None
    assert figure({}, "auc_english", **OPTIONS) is None
    assert difference(_scores(), {}, "mlm_loss", **OPTIONS) is None


@pytest.mark.parametrize("name", ["auc_english", "mlm_loss", "mlm_loss_per_char"])
def test_a_model_differs_from_itself_by_nothing(name):
    found = difference(_scores(), _scores(), name, **OPTIONS)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_difference_has_the_sign_of_ours_minus_theirs():
    better, worse = _scores(shift=1.0), _scores()
    found = difference(better, worse, "auc_english", **OPTIONS)
    assert found.value > 0
    assert found.low > 0


def test_a_paired_difference_is_narrower_than_two_intervals():
    ours = _scores()
    theirs = {"mlm_loss": replace(ours["mlm_loss"], value=ours["mlm_loss"].value + 0.1)}
    paired = difference(theirs, ours, "mlm_loss", **OPTIONS)
    alone = figure(ours, "mlm_loss", **OPTIONS)
    assert paired.value == pytest.approx(0.1, rel=1e-9)
    assert paired.high - paired.low < 0.01 * (alone.high - alone.low)


def test_models_measured_on_other_items_are_not_compared():
    short = {"mlm_loss": _column([1.0, 2.0])}
    assert difference(_scores(), short, "mlm_loss", **OPTIONS) is None


def test_scores_read_are_scores_written(tmp_path):
    scores = _scores()
    write_scores(tmp_path / "scores.parquet", scores, {"inputs": "x"})
    again = read_scores(tmp_path / "scores.parquet")
    assert again.keys() == scores.keys()
    for name, column in scores.items():
        assert all(np.array_equal(v, getattr(again[name], k)) for k, v in vars(column).items())


def test_resamples_are_as_many_as_asked():
    value, draws, n = resampled(_scores(), "mlm_loss", n_resamples=123, seed=0)
    assert (len(draws), n) == (123, 200)
    assert draws.min() < value < draws.max()


def test_unigram_by_hand():
    # Counts 3, 0, 1 of three tokens, one added to each: 4/7, 1/7, 2/7.
    found = unigram(np.array([3, 0, 1]))
    assert np.exp(found.log_probability) == pytest.approx([4 / 7, 1 / 7, 2 / 7], rel=1e-12)
    assert found.rank.tolist() == [0, 2, 1]


def test_unigram_probabilities_sum_to_one():
    rng = np.random.default_rng(0)
    counts = np.bincount(rng.integers(0, 50, 1000), minlength=80)
    assert np.exp(unigram(counts).log_probability).sum() == pytest.approx(1.0, rel=1e-12)


@pytest.fixture(scope="module")
def zipf():
    """A vocabulary whose words share lines by frequency alone, with vectors that know frequencies and nothing else."""
    rng = np.random.default_rng(0)
    n_words, n_pairs = 5000, 4000
    # Flatter than Zipf's 1 / rank: the pairs stage drops frequent words from lines.
    frequency = (3000 / np.arange(1, n_words + 1) ** 0.7).astype(np.uint64) + 1
    share = frequency / frequency.sum()
    anchor, positive = (rng.choice(n_words, n_pairs * 2, p=share).astype(np.uint32) for _ in range(2))
    keep = np.flatnonzero(anchor != positive)[:n_pairs]
    anchor, positive = anchor[keep], positive[keep]
    known = np.unique(pair_keys(anchor, positive))
    direction = torch.from_numpy(rng.normal(size=8))
    loud = torch.from_numpy(rankdata(frequency.astype(float)) / n_words)
    vectors = torch.from_numpy(rng.normal(size=(n_words, 8))) + 4 * loud[:, None] * direction
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    pool, draws = np.arange(n_words, dtype=np.uint32), Draws(counters.mixed(np.arange(n_pairs, dtype=np.uint64)), 0)
    pools = {
        "frequency_matched": by_frequency(anchor, positive, frequency, KnownPairs(known), rng),
        "random_code": draw_from(pool, anchor, positive, KnownPairs(known), draws, kind="random code"),
    }
    found = {rung: np.flatnonzero(ids != NO_WORD) for rung, ids in pools.items()}
    pairs = HeldOutPairs(
        anchor=anchor.astype(np.int64),
        positive=positive.astype(np.int64),
        is_novel=np.ones(len(anchor), np.bool_),
        group=found,
        negative={rung: pools[rung][found[rung]].astype(np.int64) for rung in pools},
    )
    assert len(found["frequency_matched"]) > 0.9 * n_pairs
    return {rung: rung_scores(pairs, rung, vectors, np.arange(n_words), frequency) for rung in pools}


def test_whoever_does_not_look_at_the_first_word_is_at_chance_on_matched_negatives(zipf):
    found = zipf["frequency_matched"]
    assert auc(found.blind_positive, found.blind_negative) == pytest.approx(0.5, abs=0.01)


def test_frequency_alone_is_at_chance_on_matched_negatives(zipf):
    found = zipf["frequency_matched"]
    assert auc(found.frequency_positive, found.frequency_negative) == pytest.approx(0.5, abs=1e-12)


def test_the_controls_see_that_random_words_are_rarer(zipf):
    found = zipf["random_code"]
    assert auc(found.blind_positive, found.blind_negative) > 0.65
    assert auc(found.frequency_positive, found.frequency_negative) > 0.7


def test_rung_scores_by_hand():
    # Pair (0, 1) with negative 2; pair (2, 1) with negative 0.
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    pairs = HeldOutPairs(
        anchor=np.array([0, 2]),
        positive=np.array([1, 1]),
        is_novel=np.array([True, False]),
        group={"english": np.array([0, 1])},
        negative={"english": np.array([2, 0])},
    )
    found = rung_scores(pairs, "english", vectors, np.arange(3), np.array([5, 3, 1], np.uint64))
    assert found.positive == pytest.approx([0.6, 0.8], abs=1e-7)
    assert found.negative == pytest.approx([0.0, 0.0], abs=1e-7)
    # The mean anchor is (0.5, 0.5).
    assert found.blind_positive == pytest.approx([0.7, 0.7], abs=1e-7)
    assert found.blind_negative == pytest.approx([0.5, 0.5], abs=1e-7)
    assert found.frequency_positive.tolist() == [3.0, 3.0]
    assert found.frequency_negative.tolist() == [1.0, 5.0]
    assert found.cluster.tolist() == [0, 2]
    assert found.is_novel.tolist() == [True, False]
