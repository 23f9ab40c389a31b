"""The curves of a training: losses, validations, learning rate, gradient norm, speed."""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from commbert.reporting.figures import COLOURS, LIGHT, MARKERS, STYLE, svg
from commbert.reporting.training import FURTHER

_MOST_POINTS = 600
"""Longer curves are drawn as mean, least and most of so many stretches: pictures stay small, no peak is lost."""
_FEW_POINTS = 30
_LABEL_LETTERS = 24
"""Of a line of an axis label: more would run into the panel above."""

Array = np.ndarray[Any, np.dtype[np.float64]]
Rows = Sequence[dict[str, Any]]


_LOSSES = (
    ("loss", "joint loss"),
    ("mlm_loss", "MLM"),
    ("contrastive_loss", "word pairs (InfoNCE)"),
    ("nsp_loss", "next sentence (NSP)"),
)


def loss_figure(steps: Rows, validations: Rows) -> str:
    """Return the loss curves: steps thin, the mean over the steps around thick; below, what the validations found."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 6.2), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        for i, (key, label) in enumerate(_LOSSES):
            _curve(top, steps, key, label, COLOURS[i], is_smoothed=True)
        top.set_ylabel("loss (nats)")
        _legend(top)
        _validation_axes(bottom, validations)
        bottom.set_xlabel("step")
        told = f"Loss of {len(steps)} steps, joint and per objective, and {len(validations)} validations"
        return svg(figure, title="Loss curves", description=told)


def optimizer_figure(steps: Rows, *, max_gradient_norm: float) -> str:
    """Return learning rate, gradient norm before clipping, tokens per second, and further figures of the record."""
    further = [(key, label) for key, label in FURTHER if any(s.get(key) is not None for s in steps)]
    with mpl.rc_context(STYLE):
        n = 3 + len(further)
        figure = Figure(figsize=(7.5, 1.7 * n + 0.5), layout="constrained")
        axes: list[Axes] = list(figure.subplots(n, 1, sharex=True))
        _curve(axes[0], steps, "learning_rate", "learning rate", COLOURS[0])
        axes[0].set_ylabel("learning rate")
        _curve(axes[1], steps, "gradient_norm", "gradient norm", COLOURS[1])
        axes[1].axhline(max_gradient_norm, color=LIGHT["soft"], linewidth=1, linestyle="--")
        axes[1].set_ylabel("gradient norm\n(dashed: limit)")
        norms = [s["gradient_norm"] for s in steps]
        if min(norms) > 0 and max(norms) > 20 * min(norms):
            axes[1].set_yscale("log")
        _curve(axes[2], steps, "tokens_per_s", "tokens", COLOURS[2])
        axes[2].set_ylabel("tokens (1/s)")
        for i, (key, label) in enumerate(further):
            _curve(axes[3 + i], steps, key, label, COLOURS[3 + i])
            axes[3 + i].set_ylabel("\n".join(wrap(label, _LABEL_LETTERS)), fontsize=8)
        axes[-1].set_xlabel("step")
        told = f"Learning rate, gradient norm and speed over {len(steps)} steps"
        return svg(figure, title="Learning rate, gradient norm, speed", description=told)


def _curve(axes: Axes, rows: Rows, key: str, label: str, colour: str, *, is_smoothed: bool = False) -> None:
    points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    if not points:
        return
    x, y = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    thin: dict[str, Any] = {"color": colour, "alpha": 0.3, "linewidth": 0.8}
    marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(points) < _FEW_POINTS else {}
    thick = _running_mean(y) if is_smoothed else y
    if len(points) > _MOST_POINTS:
        parts = np.array_split(np.arange(len(points)), _MOST_POINTS)
        low, high = (np.array([f(y[p]) for p in parts]) for f in (np.min, np.max))
        at = np.array([x[p].mean() for p in parts])
        axes.fill_between(at, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(at, [thick[p].mean() for p in parts], color=colour, linewidth=1.6, label=label)
        return
    if is_smoothed:
        axes.plot(x, y, **thin)
    axes.plot(x, thick, color=colour, linewidth=1.6, label=label, **marker)


def _validation_axes(axes: Axes, validations: Rows) -> None:
    names = (
        ("auc_frequency_matched", "AUC, frequency-matched"),
        ("auc_frequency_matched_novel", "same, novel pairs"),
        ("retrieval_mrr", "retrieval MRR"),
        ("mlm_top1", "MLM top-1 accuracy"),
        ("nsp_accuracy", "NSP accuracy"),
    )
    for i, (key, label) in enumerate(names):
        points = [(v["step"], v[key]) for v in validations if v.get(key) is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker=MARKERS[i], color=COLOURS[i], label=label)
    axes.set_ylabel("on validation")
    if axes.lines:
        axes.set_ylim(0, 1)
        _legend(axes, columns=2)
    else:
        axes.text(0.5, 0.5, "no validation was made", ha="center", va="center", transform=axes.transAxes)


def _legend(axes: Axes, columns: int = 1) -> None:
    if axes.lines:
        axes.legend(loc="best", fontsize=9, ncols=columns)


def _running_mean(values: Array) -> Array:
    """Return the mean over the twentieth of the steps that lies around each: it neither lags nor starts elsewhere."""
    n = len(values)
    half = max(1, n // 40)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(n)
    reach = np.minimum(half, np.minimum(at, n - 1 - at))
    return np.asarray((sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1))
