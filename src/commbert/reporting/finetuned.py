"""The report, the pictures and the model card of a fine-tuning, all from the figures that it left (JSON)."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from commbert.reporting.escaping import one_line
from commbert.reporting.figures import COLOURS, LIGHT, MARKERS, STYLE, svg
from commbert.reporting.rendering import render_markdown

MOST_CLASSES = 25
"""Of a confusion picture; of more, those with most test rows."""
_FIGURES = {
    "classification": (
        ("accuracy", "accuracy"),
        ("macro_f1", "F1, macro"),
        ("weighted_f1", "F1, weighted"),
        ("macro_precision", "precision, macro"),
        ("macro_recall", "recall, macro"),
        ("weighted_precision", "precision, weighted"),
        ("weighted_recall", "recall, weighted"),
    ),
    "scoring": (("mae", "MAE"), ("rmse", "RMSE"), ("spearman", "Spearman's correlation")),
}


def render_finetune_report(found: dict[str, Any], pictures: dict[str, str]) -> str:
    """Return the report.

    Args:
        found: What the stage ``finetune`` wrote.
        pictures: Paths of the pictures ``outcome`` and ``curves``, from the report's folder.
    """
    classes = found["classes"]
    metric = found["settings"]["best_metric"] or ("macro_f1" if classes else "mae")
    context = {"rows": _rows(found), "pictures": pictures, "metric": metric, "n_shown": min(len(classes), MOST_CLASSES)}
    return render_markdown("finetune_report.md.j2", {**found, **context})


def render_classifier_card(found: dict[str, Any], kind: str, step: int) -> str:
    """Return the card of a folder: ``kind`` is ``best`` or ``final``, ``step`` that of its weights."""
    rows = [{"label": row["label"], "cell": row[kind]} for row in _rows(found)]
    return render_markdown("finetune_card.md.j2", {**found, "rows": rows, "kind": kind, "step": step})


def _rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per figure: of the best and the final model, and of what they are measured against."""
    return [
        {
            "label": label,
            **{name: found["test"][name]["figures"][key] for name in ("best", "final")},
            **{name: found["baselines"][name][key] for name in ("constant", "bag_of_tokens")},
        }
        for key, label in _FIGURES[found["task"]]
    ]


def outcome_figure(found: dict[str, Any]) -> str:
    """Return the test rows as the best model sees them: a confusion table, or its scores beside the true ones."""
    if found["task"] == "scoring":
        return _scatter(np.array(found["points"], float).reshape(-1, 2))
    table = np.array(found["test"]["best"]["confusion"])
    shown = np.sort(np.argsort(-table.sum(1), kind="stable")[:MOST_CLASSES])
    return _confusion(table[np.ix_(shown, shown)], [found["classes"][i] for i in shown])


def _confusion(table: np.ndarray, names: list[str]) -> str:
    n, rows = len(names), np.maximum(table.sum(1), 1)
    with mpl.rc_context(STYLE):
        side = 2.0 + 0.5 * max(n, 4)
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.subplots()
        for i, j in np.argwhere(table > 0):
            # Shades of one colour, light enough for numbers to be read on them: the picture has a dark palette too.
            shade = 0.1 + 0.5 * table[i, j] / rows[i]
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=COLOURS[0 if i == j else 1], alpha=shade))
            axes.text(j, i, f"{table[i, j]:,}", ha="center", va="center", fontsize=9)
        labels = [one_line(name, max_chars=24) for name in names]
        axes.set_xticks(range(n), labels, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), labels)
        axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), xlabel="what the model says", ylabel="what is true")
        axes.grid(visible=False)
        axes.set_aspect("equal")
        told = f"Confusion table of {n} classes: {int(np.trace(table))} of {int(table.sum())} test rows are right"
        return svg(figure, title="Confusion table", description=told)


def _scatter(points: np.ndarray) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 5.0), layout="constrained")
        axes = figure.subplots()
        axes.plot(points[:, 0], points[:, 1], "o", color=COLOURS[0], markersize=4, alpha=0.4)
        ends = [points[:, 0].min(), points[:, 0].max()]
        axes.plot(ends, ends, color=LIGHT["soft"], linewidth=1, linestyle="--")
        axes.set(xlabel="true score", ylabel="what the model says")
        return svg(figure, title="Scores", description=f"True and predicted scores of {len(points)} test rows")


def curves_figure(found: dict[str, Any]) -> str:
    """Return the losses of training and validation, and below them the validation figures by epoch."""
    training = found["training"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 5.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        losses, epochs = training["losses"], training["epochs"]
        top.plot([e["step"] for e in losses], [e["loss"] for e in losses], color=COLOURS[0], label="training")
        steps = [e["step"] for e in epochs]
        top.plot(steps, [e["validation"]["loss"] for e in epochs], "o-", color=COLOURS[1], label="validation")
        top.set_ylabel("loss")
        top.legend(loc="best", fontsize=9)
        _validations(bottom, found["task"], steps, epochs)
        for axes in (top, bottom):
            axes.axvline(training["best_step"], color=LIGHT["soft"], linewidth=1, linestyle="--")
        bottom.set_xlabel("step (dashed: the best model)")
        told = f"Losses of {len(epochs)} epochs in training and validation, and the validation figures"
        return svg(figure, title="Loss curves", description=told)


def _validations(axes: Axes, task: str, steps: list[int], epochs: list[dict[str, Any]]) -> None:
    shown = [(key, label) for key, label in _FIGURES[task][:3] if key in epochs[0]["validation"]]
    for i, (key, label) in enumerate(shown):
        values = [e["validation"][key] for e in epochs]
        axes.plot(steps, values, marker=MARKERS[i], color=COLOURS[i], label=label)
    axes.set_ylabel("on validation rows")
    axes.legend(loc="best", fontsize=9)
