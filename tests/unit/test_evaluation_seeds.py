"""Figures over seeds of training, against a bootstrap in plain loops."""

import numpy as np
import pytest

from commbert.evaluation.scores import Column, Draws, draws_of
from commbert.evaluation.seeds import over_seeds


def _draws(rng, value, n=40, n_resamples=200):
    return Draws(value, value + rng.normal(scale=0.1, size=n_resamples), n)


@pytest.fixture
def ours():
    rng = np.random.default_rng(1)
    return [_draws(rng, value) for value in (0.5, 0.6, 0.9)]


@pytest.fixture
def theirs():
    rng = np.random.default_rng(2)
    return [_draws(rng, value) for value in (0.4, 0.3, 0.35)]


def _oracle(values, resamples, seed):
    """Draw seeds with replacement for each resample and average theirs, one number at a time."""
    n_seeds, n_resamples = len(values), len(resamples[0])
    chosen = np.random.default_rng([seed, 8]).integers(0, n_seeds, (n_seeds, n_resamples)).tolist()
    means = [sum(resamples[chosen[s][i]][i] for s in range(n_seeds)) / n_seeds for i in range(n_resamples)]
    mean = sum(values) / n_seeds
    low, high = np.percentile(means, [2.5, 97.5])
    return mean, low, high, (sum((v - mean) ** 2 for v in values) / (n_seeds - 1)) ** 0.5


def test_a_figure_over_seeds_is_that_of_a_plain_two_level_bootstrap(ours):
    found = over_seeds(ours, seed=7)
    expected = _oracle([d.value for d in ours], [d.resamples.tolist() for d in ours], 7)
    assert (found.value, found.low, found.high, found.seed_sd) == pytest.approx(expected, rel=1e-12)
    assert (found.n_seeds, found.n) == (3, 40)


def test_a_difference_over_seeds_is_paired_seed_by_seed_and_resample_by_resample(ours, theirs):
    found = over_seeds(ours, theirs, seed=7)
    values = [a.value - b.value for a, b in zip(ours, theirs, strict=True)]
    resamples = [(a.resamples - b.resamples).tolist() for a, b in zip(ours, theirs, strict=True)]
    expected = _oracle(values, resamples, 7)
    assert (found.value, found.low, found.high, found.seed_sd) == pytest.approx(expected, rel=1e-12)


def test_runs_differ_from_themselves_by_nothing(ours):
    found = over_seeds(ours, ours, seed=0)
    assert (found.value, found.low, found.high, found.seed_sd) == (0.0, 0.0, 0.0, 0.0)


def test_one_model_stands_for_each_seed_of_the_other(ours, theirs):
    assert over_seeds(ours, theirs[:1], seed=3) == over_seeds(ours, theirs[:1] * 3, seed=3)


def test_one_seed_has_the_interval_of_its_items_and_no_spread(ours):
    found = over_seeds(ours[:1], seed=3)
    assert (found.low, found.high) == tuple(np.percentile(ours[0].resamples, [2.5, 97.5]))
    assert (found.value, found.seed_sd, found.n_seeds) == (0.5, None, 1)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(4)
    alike = [Draws(0.5, 0.5 + rng.normal(scale=0.01, size=500), 9)] * 3
    apart = [Draws(v, d.resamples + v - 0.5, 9) for v, d in zip((0.3, 0.5, 0.7), alike, strict=True)]
    narrow, wide = over_seeds(alike, seed=0), over_seeds(apart, seed=0)
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("n_ours", "n_theirs"), [(0, None), (0, 2), (2, 0), (3, 2), (1, 2)])
def test_what_cannot_be_paired_is_not_compared(ours, theirs, n_ours, n_theirs):
    assert over_seeds(ours[:n_ours], None if n_theirs is None else theirs[:n_theirs], seed=0) is None


def test_figures_of_other_items_are_not_compared(ours, theirs):
    other = [Draws(d.value, d.resamples, 41) for d in theirs]
    assert over_seeds(ours, other, seed=0) is None


def test_draws_are_of_the_figures_that_the_scores_have():
    rng = np.random.default_rng(0)
    rows = np.arange(30)
    scores = {
        "retrieval_mrr": Column(rows, rows, rng.random(30), np.ones(30)),
        "general_similarity": Column(rows, rows, np.ones(30), rng.random(30)),
    }
    names = ["retrieval_mrr", "general_similarity", "mlm_loss"]
    found = draws_of(scores, names, n_resamples=50, seed=5)
    assert list(found) == ["retrieval_mrr"]  # a correlation with a constant is no number, the other was not measured
    assert found["retrieval_mrr"].value == pytest.approx(scores["retrieval_mrr"].value.mean(), rel=1e-12)
    assert (len(found["retrieval_mrr"].resamples), found["retrieval_mrr"].n) == (50, 30)
    again = draws_of(scores, names, n_resamples=50, seed=5)
    assert (again["retrieval_mrr"].resamples == found["retrieval_mrr"].resamples).all()
