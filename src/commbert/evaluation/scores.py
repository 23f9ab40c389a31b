"""Scores of a model item by item, and the figures that follow from them: one function, so that any two compare."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commbert import tables
from commbert.evaluation.bootstrap import (
    Estimate,
    auc_resamples,
    estimate,
    mean_resamples,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """The items of one metric."""

    item: NDArray[np.int64]
    cluster: NDArray[np.int64]
    value: Floats
    weight: Floats


Scores = dict[str, Column]

MEANS = ("retrieval_mrr", "retrieval_r1", "retrieval_r5", "retrieval_r10", "mlm_top1", "mlm_top5", "mlm_loss")
"""Metrics that are means over items. ``mlm_loss_per_char`` is the sum of ``mlm_loss`` over characters."""


def write_scores(path: Path, scores: Scores, provenance: dict[str, str]) -> None:
    """Write the table evaluation/scores."""
    names = sorted(scores)
    columns: dict[str, Any] = {
        "metric": [name for name in names for _ in scores[name].item],
        **{
            field: np.concatenate([getattr(scores[name], field) for name in names])
            for field in ("item", "cluster", "value", "weight")
        },
    }
    columns["item"], columns["cluster"] = columns["item"].astype(np.uint32), columns["cluster"].astype(np.uint32)
    tables.write(path, tables.SCORES, columns, provenance=provenance)


def read_scores(path: Path) -> Scores:
    """Read the table evaluation/scores."""
    table = tables.read(path, tables.SCORES)
    metric = np.array(table["metric"].to_pylist(), dtype=object)
    arrays = {field: table[field].to_numpy() for field in ("item", "cluster", "value", "weight")}
    return {
        str(name): Column(
            *(arrays[f][metric == name].astype(np.float64 if f in ("value", "weight") else np.int64) for f in arrays)
        )
        for name in np.unique(metric)
    }


def resampled(scores: Scores, name: str, *, n_resamples: int, seed: int) -> tuple[float, Floats, int] | None:
    """Return (value, resamples, items) of a figure; None if the scores lack it.

    Args:
        scores: A model's scores.
        name: One of ``MEANS``, ``mlm_loss_per_char``, or ``auc_<rung>`` with ``_novel`` or without.
        n_resamples: Bootstrap resamples.
        seed: Of the resamples; the same seed pairs two models.
    """
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed}
    if name.startswith("auc_"):
        positive, negative = scores.get(f"{name}:positive"), scores.get(f"{name}:negative")
        if positive is None or negative is None or not len(positive.value):
            return None
        draws = auc_resamples(positive.value, negative.value, positive.cluster, **options)
        one = auc_resamples(
            positive.value, negative.value, np.zeros(len(positive.value), np.int64), n_resamples=1, seed=0
        )
        return float(one[0]), draws, len(positive.value)
    per_char = name == "mlm_loss_per_char"
    column = scores.get("mlm_loss" if per_char else name)
    if column is None or not len(column.value):
        return None
    weights = column.weight if per_char else None
    bottom = column.weight.sum() if per_char else len(column.value)
    draws = mean_resamples(column.value, column.cluster, weights=weights, **options)
    return float(column.value.sum() / bottom), draws, len(column.value)


def figure(scores: Scores, name: str, *, n_resamples: int, seed: int) -> Estimate | None:
    """Return a figure with its interval; None if the scores lack it."""
    found = resampled(scores, name, n_resamples=n_resamples, seed=seed)
    return None if found is None else estimate(*found)


def difference(ours: Scores, theirs: Scores, name: str, *, n_resamples: int, seed: int) -> Estimate | None:
    """Return ours minus theirs with the interval of the paired difference; None if one of them lacks the figure."""
    a = resampled(ours, name, n_resamples=n_resamples, seed=seed)
    b = resampled(theirs, name, n_resamples=n_resamples, seed=seed)
    if a is None or b is None or a[2] != b[2]:
        return None
    return estimate(a[0] - b[0], a[1] - b[1], a[2])
