"""The table of ablations and its picture: what each setting brings to the code's words, and what it costs English."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from commbert.reporting.escaping import visible
from commbert.reporting.figures import COLOURS, LIGHT, STYLE, svg


@dataclass(frozen=True)
class SweptFigure:
    """A column of the table."""

    key: str
    label: str
    higher_is_better: bool = True


FIGURES = (
    SweptFigure("auc_frequency_matched_novel", "AUC matched"),
    SweptFigure("auc_lexical_novel", "AUC lexical"),
    SweptFigure("retrieval_mrr", "line MRR"),
    SweptFigure("function_mrr", "function MRR"),
    SweptFigure("acronym_mrr_novel", "acronym MRR"),
    SweptFigure("term_mrr", "3GPP term MRR"),
    SweptFigure("brief_mrr", "brief MRR"),
    SweptFigure("mlm_loss_per_char", "MLM nats/char", higher_is_better=False),
    SweptFigure("general_similarity", "general similarity"),
    SweptFigure("general_mlm_loss_per_char", "general nats/char", higher_is_better=False),
)
"""All on the validation split; AUC of novel pairs, acronyms that no training line defines."""

DOMAIN = ("auc_frequency_matched_novel", "retrieval_mrr")
"""What the domain gain is the mean of."""
GENERAL = "general_similarity"


def cell(found: Mapping[str, Any] | None, change: Mapping[str, Any] | None, figure: SweptFigure) -> dict[str, Any]:
    """Return a figure over seeds, its difference to the reference, and what the difference's interval allows to say."""
    verdict = ""
    if change is not None:
        is_shown = not change["low"] <= 0 <= change["high"]
        verdict = ("better" if (change["value"] > 0) == figure.higher_is_better else "worse") if is_shown else "equal"
    return {"found": found, "difference": change, "verdict": verdict}


def gains(figures: Mapping[str, Mapping[str, Any] | None], base: Mapping[str, float]) -> dict[str, float] | None:
    """Return the domain gain and the general loss against the base model; None if a figure is missing."""
    values = {key: found["value"] for key in (*DOMAIN, GENERAL) if (found := figures.get(key)) is not None}
    if len(values) != len(DOMAIN) + 1 or not all(key in base for key in values):
        return None
    domain = sum(values[key] - base[key] for key in DOMAIN) / len(DOMAIN)
    return {"domain_gain": domain, "general_loss": base[GENERAL] - values[GENERAL]}


def pareto_front(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of points that no other one beats in domain gain or general loss and equals in the other."""
    front: list[Mapping[str, Any]] = []
    for point in sorted(points, key=_by_loss):
        if not front or point["domain_gain"] > front[-1]["domain_gain"] or _by_loss(point) == _by_loss(front[-1]):
            front.append(point)
    return [point["name"] for point in front]


def _by_loss(point: Mapping[str, Any]) -> tuple[float, float]:
    return point["general_loss"], -point["domain_gain"]


def pareto_figure(points: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]], reference: str) -> str:
    """Return domain gain over general loss: a point per run, a line over shares of the start weights.

    Args:
        points: ``name``, ``domain_gain``, ``general_loss`` and, of trained runs, ``seeds``; who has fewer than the
            reference is drawn hollow.
        curve: ``share``, ``domain_gain``, ``general_loss``.
        reference: Name of the run that stands out.
    """
    most = max((point.get("seeds") or 1 for point in points if point["name"] == reference), default=1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 7.5), layout="constrained")
        axes = figure.subplots()
        axes.margins(x=0.15, y=0.08)
        on_front = pareto_front(points)
        labels = []
        hollow = [point for point in points if (point.get("seeds") or most) < most]
        outside = [point for point in _far_out(points) if point["name"] != reference]
        for point in points:
            if point in outside:
                continue
            is_best, is_reference = point["name"] in on_front, point["name"] == reference
            colour = COLOURS[1] if is_reference else COLOURS[0] if is_best else COLOURS[-1]
            place = (point["general_loss"], point["domain_gain"])
            face = LIGHT["paper"] if point in hollow else colour
            axes.plot(*place, "o", color=colour, markerfacecolor=face, markersize=8 if is_reference else 5)
            labels.append((visible(point["name"]), place, 8, colour))
        if curve:
            x, y = [p["general_loss"] for p in curve], [p["domain_gain"] for p in curve]
            name = f"{visible(reference)}, averaged with the start model (first seed)"
            axes.plot(x, y, "-x", color=COLOURS[2], linewidth=1.2, label=name)
            labels += [(f"{p['share']:g}", (p["general_loss"], p["domain_gain"]), 7, COLOURS[2]) for p in curve]
        if hollow:
            axes.plot([], [], "o", color=COLOURS[-1], markerfacecolor=LIGHT["paper"], label="fewer seeds")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(frameon=False, loc="outside upper left", ncols=2)
        axes.axvline(0, color=LIGHT["soft"], linewidth=0.8, linestyle="--")
        axes.axhline(0, color=LIGHT["soft"], linewidth=0.8, linestyle="--")
        axes.set_xlabel("general loss: similarity of plain English, base minus run (left is better)")
        if outside:
            found = (f"{visible(p['name'])} ({p['general_loss']:.3f}, {p['domain_gain']:.3f})" for p in outside)
            axes.set_title(f"too far out to be drawn: {', '.join(found)}", fontsize=8, color=LIGHT["soft"], loc="right")
        axes.set_ylabel("domain gain: mean of AUC and MRR, run minus base (up is better)")
        _write_labels(figure, axes, labels)
        return svg(figure, title="Domain gain of each run over its general loss")


_OFFSETS = [
    (radius * x, radius * y)
    for radius in (5, 14, 24, 36, 50, 66, 84)
    for x, y in ((1, 0.6), (1, -1.4), (-1, 0.6), (-1, -1.4), (0.4, 1.4), (-0.4, 1.4), (0.4, -1.8), (-0.4, -1.8))
]
_NEAR = 16
"""Points between a point and its label, from where on a line joins them."""


def _write_labels(figure: Figure, axes: Axes, labels: Sequence[tuple[str, tuple[float, float], int, str]]) -> None:
    """Write each label beside its point, where it covers no point and no label before it if there is such a place."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    places = [axes.transData.transform(place) for _, place, _, _ in labels]
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in places]
    for text, place, size, colour in labels:
        for x, y in (*_OFFSETS, _OFFSETS[0]):
            is_far = max(abs(x), abs(y)) > _NEAR
            note = axes.annotate(
                text,
                place,
                xytext=(x, y),
                textcoords="offset points",
                ha="left" if x > 0 else "right",
                fontsize=size,
                color=colour,
                in_layout=False,
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": colour} if is_far else None,
            )
            note.get_window_extent()  # puts it in its place; what it returns holds the line too
            box = Text.get_window_extent(note)
            is_inside = all(axes.bbox.fully_contains(*corner) for corner in (box.p0, box.p1))
            if is_inside and not any(box.overlaps(other) for other in taken):
                break
            note.remove()
        else:
            axes.add_artist(note)
        taken.append(box)


def _far_out(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return points whose general loss lies three quartile distances beyond the quartiles (Tukey 1977, far out)."""
    if not points:
        return []
    low, high = np.percentile([point["general_loss"] for point in points], [25, 75])
    reach = 3 * (high - low)
    return [point for point in points if reach and not low - reach <= point["general_loss"] <= high + reach]
