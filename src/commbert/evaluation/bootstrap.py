"""Bootstrap intervals by cluster; equal clusters and seed give equal resamples, so differences can be paired."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and the number of items it rests on."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return JSON-ready fields; a figure of nothing is None."""
        return json_ready(vars(self))


def json_ready(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for JSON: a figure of nothing is None."""
    return {name: None if isinstance(v, float) and np.isnan(v) else v for name, v in values.items()}


def resample_weights(clusters: Ints, n_resamples: int, seed: int) -> tuple[Ints, NDArray[np.int32]]:
    """Return (index of each item's cluster, [n_resamples, n_clusters] how often each cluster is drawn)."""
    distinct, index = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng([seed, 3])
    n = len(distinct)
    if n == 0:
        return index, np.zeros((n_resamples, 0), np.int32)
    return index, rng.multinomial(n, np.full(n, 1.0 / n), size=n_resamples).astype(np.int32)


def estimate(value: float, resampled: Floats, n: int) -> Estimate:
    """Return a figure with the 2.5th and 97.5th percentile of its resamples."""
    good = resampled[~np.isnan(resampled)]
    if not len(good):
        return Estimate(value, float("nan"), float("nan"), n)
    low, high = np.percentile(good, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n)


def mean_resamples(values: Floats, clusters: Ints, *, weights: Floats | None, n_resamples: int, seed: int) -> Floats:
    """Return the (weighted: sum of values over sum of weights) mean of each resample."""
    index, drawn = resample_weights(clusters, n_resamples, seed)
    n = drawn.shape[1]
    top = np.bincount(index, values, n)
    bottom = np.bincount(index, weights if weights is not None else np.ones_like(values), n)
    with np.errstate(invalid="ignore"):
        return np.asarray((drawn @ top) / (drawn @ bottom))


def auc_resamples(positive: Floats, negative: Floats, clusters: Ints, *, n_resamples: int, seed: int) -> Floats:
    """Return the AUC of each resample.

    Args:
        positive: [n] score of each positive.
        negative: [n] score of its negative.
        clusters: [n] what is resampled (the anchor word).
        n_resamples: How many.
        seed: Of the draws.
    """
    out = np.empty(n_resamples)
    for i, (w_pos, w_neg) in enumerate(_tallies(positive, negative, clusters, n_resamples, seed)):
        below = np.cumsum(w_neg) - w_neg / 2
        out[i] = (w_pos @ below) / max(w_pos.sum() * w_neg.sum(), 1e-12)
    return out


def ap_resamples(positive: Floats, negative: Floats, clusters: Ints, *, n_resamples: int, seed: int) -> Floats:
    """Return the average precision of each resample: the mean, over positives, of the precision at their score.

    Equal scores are one threshold, as in scikit-learn. Arguments as of ``auc_resamples``; with one negative for each
    positive, a rule that knows nothing has 0.5.
    """
    out = np.empty(n_resamples)
    for i, (w_pos, w_neg) in enumerate(_tallies(positive, negative, clusters, n_resamples, seed)):
        found = np.cumsum(w_pos[::-1])
        precision = found / np.maximum(found + np.cumsum(w_neg[::-1]), 1e-12)
        out[i] = (w_pos[::-1] @ precision) / max(found[-1], 1e-12)
    return out


def spearman_resamples(values: Floats, grades: Floats, *, n_resamples: int, seed: int) -> Floats:
    """Return Spearman's correlation of two columns [n] in each resample of their rows."""
    rows = np.random.default_rng([seed, 7]).integers(0, len(values), (n_resamples, len(values)))
    return spearman(values[rows], grades[rows])


def spearman(a: Floats, b: Floats) -> Floats:
    """Return Spearman's correlation of each row of two arrays [rows, n]; NaN where one side is constant.

    scipy's own takes one sample at a time and warns of constant ones; mean ranks are its own.
    """
    ranks = [rankdata(side, axis=1) for side in (a, b)]
    x, y = (r - r.mean(1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1)))


def _tallies(
    positive: Floats, negative: Floats, clusters: Ints, n_resamples: int, seed: int
) -> Iterator[tuple[Floats, Floats]]:
    """Yield for each resample how many positives, and how many negatives, have each score, scores ascending."""
    index, drawn = resample_weights(clusters, n_resamples, seed)
    scores, place = np.unique(np.concatenate([positive, negative]), return_inverse=True)
    at_positive, at_negative = place[: len(positive)], place[len(positive) :]
    for weight_of_cluster in drawn:
        weight = weight_of_cluster[index].astype(np.float64)
        both = [np.bincount(at, weight, len(scores)).astype(np.float64) for at in (at_positive, at_negative)]
        yield both[0], both[1]
