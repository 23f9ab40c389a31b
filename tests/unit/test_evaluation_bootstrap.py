import math

import numpy as np
import pytest

from commbert.evaluation.bootstrap import Estimate, auc_resamples, estimate, mean_resamples, resample_weights
from commbert.nn.measures import auc


def _scores(n=300, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0.5, 1, n).round(1), rng.normal(0, 1, n).round(1), rng.integers(0, 80, n)


def test_a_resample_that_draws_all_once_is_the_auc():
    positive, negative, _ = _scores()
    found = auc_resamples(positive, negative, np.zeros(300, np.int64), n_resamples=3, seed=0)
    assert found == pytest.approx([auc(positive, negative)] * 3, rel=1e-12)


def test_a_resample_is_the_auc_of_its_repeated_rows():
    positive, negative, clusters = _scores()
    index, drawn = resample_weights(clusters, 5, 1)
    found = auc_resamples(positive, negative, clusters, n_resamples=5, seed=1)
    for value, weight in zip(found, drawn, strict=True):
        rows = np.repeat(np.arange(300), weight[index])
        assert value == pytest.approx(auc(positive[rows], negative[rows]), rel=1e-12)


def test_a_resample_draws_as_many_clusters_as_there_are():
    _, drawn = resample_weights(np.array([5, 5, 9, 7]), 50, 0)
    assert drawn.shape == (50, 3)
    assert (drawn.sum(1) == 3).all()


def test_rows_of_one_cluster_are_drawn_together():
    # Two clusters of equal rows inside: a resample's mean can only be 0, 1/2 or 1.
    values, clusters = np.repeat([0.0, 1.0], 50), np.repeat([0, 1], 50)
    found = mean_resamples(values, clusters, weights=None, n_resamples=200, seed=0)
    assert set(found.tolist()) == {0.0, 0.5, 1.0}


def test_a_mean_by_weights_is_a_sum_over_a_sum():
    values, weights = np.array([6.0, 2.0]), np.array([3.0, 1.0])
    found = mean_resamples(values, np.zeros(2, np.int64), weights=weights, n_resamples=2, seed=0)
    assert found.tolist() == [2.0, 2.0]


def test_the_interval_covers_the_truth_19_times_of_20():
    rng = np.random.default_rng(0)
    n, hits = 60, 0
    for run in range(300):
        values = rng.normal(1.0, 1.0, n)
        draws = mean_resamples(values, np.arange(n), weights=None, n_resamples=300, seed=run)
        found = estimate(float(values.mean()), draws, n)
        hits += found.low <= 1.0 <= found.high
    assert abs(hits - 285) < 4 * math.sqrt(300 * 0.95 * 0.05)


def test_the_interval_of_an_auc_covers_the_truth():
    # Normal scores one apart: the true AUC is Phi(1 / sqrt 2) = 0.7602.
    rng = np.random.default_rng(0)
    hits = 0
    for run in range(100):
        positive, negative = rng.normal(1, 1, 80), rng.normal(0, 1, 80)
        draws = auc_resamples(positive, negative, np.arange(80), n_resamples=200, seed=run)
        found = estimate(auc(positive, negative), draws, 80)
        hits += found.low <= 0.7602 <= found.high
    assert hits >= 86


def test_clustered_rows_widen_the_interval():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(20), 20)
    values = rng.normal(size=20)[clusters]
    widths = []
    for groups in (clusters, np.arange(400)):
        found = estimate(0.0, mean_resamples(values, groups, weights=None, n_resamples=500, seed=0), 400)
        widths.append(found.high - found.low)
    # sqrt(20) times as wide.
    assert widths[0] > 3 * widths[1]


def test_equal_seeds_give_equal_resamples():
    positive, negative, clusters = _scores()
    a, b, c = (auc_resamples(positive, negative, clusters, n_resamples=9, seed=s) for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_nothing_has_no_interval():
    draws = mean_resamples(np.empty(0), np.empty(0, np.int64), weights=None, n_resamples=5, seed=0)
    assert estimate(float("nan"), draws, 0).as_dict() == {"value": None, "low": None, "high": None, "n": 0}


def test_percentiles_by_hand():
    found = estimate(50.0, np.arange(101.0), 7)
    assert found == Estimate(50.0, 2.5, 97.5, 7)
