"""Figures over seeds of training, against a bootstrap in plain loops."""

import numpy as np
import pytest

from commbert.evaluation.scores import Column, Draws, draws_of
from commbert.evaluation.seeds import SeedSpread, over_seeds, pooled_spread


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


def _oracle(values, resamples, spread=None):
    """Average the resamples over seeds one by one; widen their interval by Student's t of the seeds' spread."""
    n = len(values)
    mean = sum(values) / n
    items = [sum(of_seeds) / n for of_seeds in zip(*resamples, strict=True)]
    low, high = np.percentile(items, [2.5, 97.5])
    sd = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
    variance, df = spread or (sd**2, n - 1)
    margin = {2: 4.302652729911275, 8: 2.306004135033371}[df] * (variance / n) ** 0.5
    return mean, mean - ((mean - low) ** 2 + margin**2) ** 0.5, mean + ((high - mean) ** 2 + margin**2) ** 0.5, sd


def _numbers(found):
    return found.value, found.low, found.high, found.seed_sd


def test_the_interval_over_seeds_adds_that_of_the_items_and_that_of_the_seeds_as_squares(ours):
    found = over_seeds(ours)
    assert _numbers(found) == pytest.approx(_oracle([d.value for d in ours], [d.resamples.tolist() for d in ours]))
    assert (found.n_seeds, found.n) == (3, 40)


def test_a_difference_over_seeds_is_paired_seed_by_seed_and_resample_by_resample(ours, theirs):
    values = [a.value - b.value for a, b in zip(ours, theirs, strict=True)]
    resamples = [(a.resamples - b.resamples).tolist() for a, b in zip(ours, theirs, strict=True)]
    assert _numbers(over_seeds(ours, theirs)) == pytest.approx(_oracle(values, resamples), rel=1e-9)
    spread = SeedSpread(0.25, 8)
    assert _numbers(over_seeds(ours, theirs, spread=spread)) == pytest.approx(
        _oracle(values, resamples, spread), rel=1e-9
    )


def test_the_spread_of_runs_is_pooled_and_loses_freedom_by_the_reference_that_they_share():
    rows = [[0.1, 0.2, 0.6], [0.4, 0.0], [7.0]]
    variances = [np.var(rows[0], ddof=1), np.var(rows[1], ddof=1)]
    found = pooled_spread(rows)
    assert found.variance == pytest.approx((2 * variances[0] + variances[1]) / 3, rel=1e-12)
    assert found.df == pytest.approx(3 / 1.25, rel=1e-12)
    assert pooled_spread([[1.0, 2.0, 3.0]]) == SeedSpread(1.0, 2.0)
    assert pooled_spread([[7.0]]) is None
    assert pooled_spread([]) is None


def test_the_intervals_of_a_table_without_any_effect_hold_0_nineteen_times_in_twenty():
    rng = np.random.default_rng(11)
    n_tables, n_rows, n_items, noise, item_noise = 300, 8, 50, 0.02, 0.03
    holds = {1: [], 3: []}
    for _ in range(n_tables):
        reference = rng.normal(scale=noise, size=3)
        runs = rng.normal(scale=noise, size=(n_rows, 3)) - reference
        seeds = [3] * (n_rows - 3) + [1] * 3
        spread = pooled_spread([row[:n].tolist() for row, n in zip(runs, seeds, strict=True)])
        for row, n in zip(runs, seeds, strict=True):
            # What the items add, the same for all seeds: their error, and resamples that show its size.
            error, resamples = rng.normal(scale=item_noise), rng.normal(scale=item_noise, size=100)
            found = over_seeds([Draws(v + error, v + error + resamples, n_items) for v in row[:n]], spread=spread)
            holds[n].append(found.low <= 0 <= found.high)
    for found in holds.values():
        assert 0.92 < np.mean(found) < 0.98


def test_runs_differ_from_themselves_by_nothing(ours):
    found = over_seeds(ours, ours)
    assert (found.value, found.low, found.high, found.seed_sd) == (0.0, 0.0, 0.0, 0.0)


def test_one_model_stands_for_each_seed_of_the_other(ours, theirs):
    assert over_seeds(ours, theirs[:1]) == over_seeds(ours, theirs[:1] * 3)


def test_one_seed_has_the_interval_of_its_items_and_no_spread(ours):
    found = over_seeds(ours[:1])
    assert (found.low, found.high) == tuple(np.percentile(ours[0].resamples, [2.5, 97.5]))
    assert (found.value, found.seed_sd, found.n_seeds) == (0.5, None, 1)


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(4)
    alike = [Draws(0.5, 0.5 + rng.normal(scale=0.01, size=500), 9)] * 3
    apart = [Draws(v, d.resamples + v - 0.5, 9) for v, d in zip((0.3, 0.5, 0.7), alike, strict=True)]
    narrow, wide = over_seeds(alike), over_seeds(apart)
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("n_ours", "n_theirs"), [(0, None), (0, 2), (2, 0), (3, 2), (1, 2)])
def test_what_cannot_be_paired_is_not_compared(ours, theirs, n_ours, n_theirs):
    assert over_seeds(ours[:n_ours], None if n_theirs is None else theirs[:n_theirs]) is None


def test_figures_of_other_items_are_not_compared(ours, theirs):
    other = [Draws(d.value, d.resamples, 41) for d in theirs]
    assert over_seeds(ours, other) is None


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
