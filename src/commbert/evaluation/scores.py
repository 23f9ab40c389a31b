"""Scores of a model item by item, and the figures that follow from them: one function, so that any two compare."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from commbert import tables
from commbert.evaluation.bootstrap import (
    Estimate,
    ap_resamples,
    auc_resamples,
    estimate,
    mean_resamples,
    spearman,
    spearman_resamples,
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

MEANS = (
    "retrieval_mrr",
    "retrieval_map",
    "retrieval_r1",
    "retrieval_r5",
    "retrieval_r10",
    "function_mrr",
    "function_map",
    "function_r1",
    "function_r5",
    "function_r10",
    "acronym_mrr",
    "acronym_r1",
    "acronym_mrr_novel",
    "acronym_r1_novel",
    "term_mrr",
    "term_r1",
    "brief_mrr",
    "brief_r1",
    "mlm_top1",
    "mlm_top5",
    "mlm_loss",
    "nsp_accuracy",
    "nsp_loss",
    "general_mlm_top1",
    "general_mlm_loss",
)
"""Metrics that are means over items."""

RATIOS = ("mlm_loss_per_char", "mlm_loss_per_word", "general_mlm_loss_per_char", "general_mlm_loss_per_word")
"""Metrics that are sums of values over sums of weights: nats over the characters or words that hidden tokens cover."""

CORRELATION = "general_similarity"
"""Spearman's correlation of values with weights: cosines with graded relations."""

PAIR_STATISTICS = {"auc": auc_resamples, "ap": ap_resamples}
STRATA = ("novel", "seen")
"""Whether a held-out pair shares no training line, or one."""


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


class Draws(NamedTuple):
    """One figure of one model: its value and its resamples, equal resamples for equal seeds of evaluation."""

    value: float
    resamples: Floats
    n: int
    """Items."""


def pair_figures(rungs: Sequence[str]) -> list[str]:
    """Return the names of all figures of rungs: of all pairs, of novel ones, of seen ones."""
    return [f"{kind}_{rung}{end}" for rung in rungs for kind in PAIR_STATISTICS for end in ("", "_novel", "_seen")]


def resampled(scores: Scores, name: str, *, n_resamples: int, seed: int) -> Draws | None:
    """Return the draws of a figure; None if the scores lack it, or it is a correlation of a constant.

    Args:
        scores: A model's scores.
        name: One of ``MEANS``, ``RATIOS``, ``CORRELATION``, or ``auc_<rung>`` and ``ap_<rung>``, with ``_novel`` or
            ``_seen`` or without.
        n_resamples: Bootstrap resamples.
        seed: Of the resamples; the same seed pairs two models.
    """
    options: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed}
    kind, _, rung = name.partition("_")
    if kind in PAIR_STATISTICS:
        return _of_pairs(scores, kind, rung, options)
    column = scores.get(name)
    if column is None or not len(column.value):
        return None
    n = len(column.value)
    if name == CORRELATION:
        value = float(spearman(column.value[None], column.weight[None])[0])
        return None if np.isnan(value) else Draws(value, spearman_resamples(column.value, column.weight, **options), n)
    weights = column.weight if name in RATIOS else None
    bottom = column.weight.sum() if name in RATIOS else n
    draws = mean_resamples(column.value, column.cluster, weights=weights, **options)
    return Draws(float(column.value.sum() / bottom), draws, n)


def _of_pairs(scores: Scores, kind: str, rung: str, options: dict[str, Any]) -> Draws | None:
    ends = [end for end in STRATA if rung.endswith(f"_{end}")]
    rung = rung.removesuffix(f"_{ends[0]}") if ends else rung
    found = [(scores.get(f"{rung}_{e}:positive"), scores.get(f"{rung}_{e}:negative")) for e in ends or STRATA]
    both = [(p, n) for p, n in found if p is not None and n is not None]
    if not sum(len(p.value) for p, _ in both):
        return None
    positive, negative = (np.concatenate([pair[side].value for pair in both]) for side in (0, 1))
    cluster = np.concatenate([p.cluster for p, _ in both])
    statistic = PAIR_STATISTICS[kind]
    value = statistic(positive, negative, np.zeros(len(positive), np.int64), n_resamples=1, seed=0)
    return Draws(float(value[0]), statistic(positive, negative, cluster, **options), len(positive))


def figure(scores: Scores, name: str, *, n_resamples: int, seed: int) -> Estimate | None:
    """Return a figure with its interval; None if the scores lack it."""
    found = resampled(scores, name, n_resamples=n_resamples, seed=seed)
    return None if found is None else estimate(*found)


def difference(ours: Scores, theirs: Scores, name: str, *, n_resamples: int, seed: int) -> Estimate | None:
    """Return ours minus theirs with the interval of the paired difference; None if one of them lacks the figure."""
    a = resampled(ours, name, n_resamples=n_resamples, seed=seed)
    b = resampled(theirs, name, n_resamples=n_resamples, seed=seed)
    return between(a, b)


def draws_of(scores: Scores, names: Iterable[str], *, n_resamples: int, seed: int) -> dict[str, Draws]:
    """Return the figures that the scores have."""
    found = {name: resampled(scores, name, n_resamples=n_resamples, seed=seed) for name in names}
    return {name: draws for name, draws in found.items() if draws is not None}


def between(ours: Draws | None, theirs: Draws | None) -> Estimate | None:
    """Return the paired difference; None if one lacks the figure, or they rest on different numbers of items."""
    if ours is None or theirs is None or ours.n != theirs.n:
        return None
    return estimate(ours.value - theirs.value, ours.resamples - theirs.resamples, ours.n)
