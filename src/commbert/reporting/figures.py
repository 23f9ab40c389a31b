"""Pictures of a report, as SVG that is the same for the same values."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE: Any = {
    "svg.hashsalt": "commbert",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "text.parse_math": False,
}
COLOURS = ("#1f5fa8", "#c2571a", "#2c7d4f", "#7a3f98", "#555555")
_SMOOTH = 0.1


def loss_figure(steps: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]) -> str:
    """Return the loss curves: every step thin, a running mean thick; below, what the validations found."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 6.2), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        names = (("loss", "joint loss"), ("mlm_loss", "MLM"), ("contrastive_loss", "word pairs (InfoNCE)"))
        for (key, label), colour in zip(names, COLOURS, strict=False):
            points = [(s["step"], s[key]) for s in steps if s[key] is not None]
            if points:
                x, y = zip(*points, strict=True)
                top.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
                top.plot(x, _running_mean(y), color=colour, linewidth=1.8, label=label)
        top.set_ylabel("loss (nats)")
        top.legend(frameon=False)
        _validation_axes(bottom, validations)
        bottom.set_xlabel("step")
        return svg(figure)


def _validation_axes(axes: Any, validations: Sequence[dict[str, Any]]) -> None:
    for key, label, marker, colour in (
        ("auc_frequency_matched", "AUC, frequency-matched", "o", COLOURS[3]),
        ("auc_frequency_matched_novel", "same, novel pairs", "^", COLOURS[0]),
        ("retrieval_mrr", "retrieval MRR", "D", COLOURS[2]),
        ("mlm_top1", "MLM top-1 accuracy", "s", COLOURS[1]),
    ):
        points = [(v["step"], v[key]) for v in validations if v.get(key) is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker=marker, color=colour, label=label)
    axes.set_ylabel("on validation")
    if axes.lines:
        axes.legend(frameon=False)


def comparison_figure(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return the figures of all columns with their intervals, one line per figure; only those between 0 and 1."""
    shown = [r for r in rows if "mlm_loss" not in r["key"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 0.55 * len(shown) + 1.2), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(columns):
            colour = COLOURS[place % len(COLOURS)]
            offset = (place - (len(columns) - 1) / 2) * 0.2
            points = [
                (i + offset, r["cells"][name]) for i, r in enumerate(shown) if r["cells"][name]["value"] is not None
            ]
            for y, cell in points:
                axes.plot([cell["low"], cell["high"]], [y, y], color=colour, linewidth=2, alpha=0.6)
            axes.plot(
                [cell["value"] for _, cell in points],
                [y for y, _ in points],
                "o",
                color=colour,
                markersize=5,
                label=name,
            )
        axes.axvline(0.5, color="#999999", linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(shown)), [r["label"] for r in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("value with 95 % interval (dashed: chance level of an AUC)")
        axes.legend(frameon=False, loc="lower right")
        return svg(figure)


def _running_mean(values: Sequence[float]) -> list[float]:
    out: list[float] = []
    for value in values:
        out.append(value if not out else (1 - _SMOOTH) * out[-1] + _SMOOTH * value)
    return out


def svg(figure: Figure) -> str:
    """Return the picture as SVG, the same for the same picture."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "commbert"})
    return buffer.getvalue()
