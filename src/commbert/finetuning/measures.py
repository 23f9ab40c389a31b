"""Figures of a classifier or a scorer, and the same figures of resamples of its test rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from commbert.evaluation.bootstrap import Estimate, estimate, json_ready, spearman

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def confusion(truth: Ints, predicted: Ints, n_classes: int) -> Ints:
    """Return [n_classes, n_classes] how many rows of each class (row) were called each class (column)."""
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def class_figures(table: Ints) -> dict[str, Floats]:
    """Return precision, recall and F1 of each class, 0 where nothing was found or called so."""
    hits, of_class, called = np.diag(table).astype(float), table.sum(1), table.sum(0)
    return {
        "precision": hits / np.maximum(called, 1),
        "recall": hits / np.maximum(of_class, 1),
        "f1": 2 * hits / np.maximum(of_class + called, 1),
    }


def figures_of(table: Ints) -> dict[str, float]:
    """Return accuracy and the means over classes of a confusion table.

    Macro means count every class that stands in the rows or was called; weighted means count classes by their rows.
    """
    of = class_figures(table)
    n, rows = max(1, int(table.sum())), table.sum(1)
    there = (rows > 0) | (table.sum(0) > 0)
    out = {"accuracy": float(np.trace(table) / n)}
    for name, values in of.items():
        out[f"macro_{name}"] = float(values[there].mean()) if there.any() else 0.0
        out[f"weighted_{name}"] = float((values * rows).sum() / n)
    return out


def class_estimates(table: Ints, *, n_resamples: int, seed: int) -> dict[str, Any]:
    """Return the figures of a confusion table with 95 % bootstrap intervals.

    Rows that are drawn anew with replacement fall into the table's cells by a multinomial law (Efron and Tibshirani
    1993, section 5.2), so cells are drawn instead of rows: the same intervals, whatever the number of rows.
    """
    values, n = figures_of(table), int(table.sum())
    flat = table.ravel()
    cells = np.flatnonzero(flat)
    rng = np.random.default_rng([seed, 11])
    found: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(n_resamples):
        drawn = np.zeros_like(flat)
        drawn[cells] = rng.multinomial(n, flat[cells] / n)
        for name, value in figures_of(drawn.reshape(table.shape)).items():
            found[name].append(value)
    return {name: estimate(value, np.array(found[name]), n).as_dict() for name, value in values.items()}


def accuracy_gain(
    is_right: NDArray[np.bool_], is_other_right: NDArray[np.bool_], *, n_resamples: int, seed: int
) -> Any:
    """Return how much more accurate the first is than the other on the same rows, with its paired 95 % interval."""
    better, worse = int((is_right & ~is_other_right).sum()), int((~is_right & is_other_right).sum())
    n = len(is_right)
    shares = np.array([better, worse, n - better - worse]) / n
    drawn = np.random.default_rng([seed, 12]).multinomial(n, shares, n_resamples)
    return estimate((better - worse) / n, (drawn[:, 0] - drawn[:, 1]) / n, n).as_dict()


def score_figures(truth: Floats, predicted: Floats) -> dict[str, float]:
    """Return MAE, RMSE and Spearman's correlation (NaN where one side is constant)."""
    error = predicted - truth
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "spearman": float(spearman(truth[None], predicted[None])[0]),
    }


def score_estimates(truth: Floats, predicted: Floats, *, n_resamples: int, seed: int) -> dict[str, Any]:
    """Return the figures of scores with 95 % bootstrap intervals over the rows."""
    rng, n = np.random.default_rng([seed, 13]), len(truth)
    values = score_figures(truth, predicted)
    found: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(n_resamples):
        rows = rng.integers(0, n, n)
        for name, value in score_figures(truth[rows], predicted[rows]).items():
            found[name].append(value)
    return {name: Estimate.as_dict(estimate(v, np.array(found[name]), n)) for name, v in values.items()}


def per_class(table: Ints, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return one entry per class, JSON-ready: its rows, precision, recall and F1."""
    of = class_figures(table)
    return [
        {"name": name, "rows": int(table[i].sum()), **json_ready({k: float(v[i]) for k, v in of.items()})}
        for i, name in enumerate(classes)
    ]
