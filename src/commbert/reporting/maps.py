"""The map of words: two models side by side, coloured by the part of the corpus that a word comes from."""

import html
import re
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from commbert.reporting.escaping import one_line
from commbert.reporting.figures import STYLE, svg

# Okabe & Ito 2008, "Color Universal Design": told apart without red-green vision; yellow, too faint on white, left out.
_MARKS = (
    ("#0072b2", "o"),
    ("#d55e00", "^"),
    ("#009e73", "s"),
    ("#cc79a7", "D"),
    ("#56b4e9", "v"),
    ("#e69f00", "P"),
    ("#7a5230", "X"),
)
_REST = ("#8a8f98", ".")
_PANEL_INCHES = 5.4
_FONT_POINTS = 7.5
_LETTER = 0.62
"""Width of a letter of a sans-serif font, of its size, about; the reader's font is not known here."""
_LONGEST = 26
_LEGEND_LETTERS = 112
"""Letters of names that have room side by side below the panels."""
_MOST_LABELS = 45
_OFFSETS = tuple((dx, dy) for d in (5, 10, 16) for dx, dy in ((d, 0), (-d, 0), (0, d), (0, -d), (d, d), (-d, -d)))
"""Where a label may stand, in points from its word; the nearest free place is taken."""


def map_figure(words: Sequence[dict[str, Any]], areas: Sequence[str], *, run: str, base: str = "base model") -> str:
    """Return the map as SVG with a title and a description of its own.

    Args:
        words: As in map.json, those to be named first come first: word, area (a number), base and run (x, y).
        areas: Names of the areas, the largest first; all beyond the seventh share a mark.
        run: Name of the run.
        base: What the model that it started from is called.
    """
    area = np.array([w["area"] for w in words], np.int64)
    with mpl.rc_context({**STYLE, "axes.grid": False}), warnings.catch_warnings():
        # Text stays text in the picture, and the reader's font has letters that the one measured with here lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        names = _names(areas)
        columns = 4 if max(map(len, names)) <= _LEGEND_LETTERS // 4 else 2
        foot = 0.4 + 0.21 * -(-len(names) // columns)
        height = _PANEL_INCHES + foot + 0.3
        figure = Figure(figsize=(2.08 * _PANEL_INCHES, height))
        panels = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.01, right=0.99, bottom=foot / height, top=1 - 0.3 / height, wspace=0.035)
        for axes, key, title in zip(panels, ("base", "run"), (base, f"run {run}"), strict=True):
            at = np.array([w[key] for w in words], np.float64)
            _draw(axes, at, area, names)
            axes.set_title(one_line(title), fontsize=11)
            _label(axes, at, [str(w["word"]) for w in words])
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="lower center",
            ncols=columns,
            frameon=False,
            fontsize=9,
            markerscale=1.6,
            title="directory with most lines of the word",
            title_fontsize=9,
        )
        picture = svg(figure)
    n = len(words)
    return _described(
        picture,
        f"Map of {n} words under the {one_line(base)} and under run {one_line(run)}",
        "Each dot is a word, in the colour and shape of the directory that most of its lines are in; words that a "
        "model holds to be alike stand together. Left the model that training "
        "started from, right the run; the axes have no unit.",
    )


def _names(areas: Sequence[str]) -> list[str]:
    """Return what the marks stand for: each area, or all beyond those with a mark of their own together."""
    names = [one_line(name, max_chars=_LEGEND_LETTERS // 2) for name in areas]
    return names if len(names) <= len(_MARKS) + 1 else [*names[: len(_MARKS)], "other directories"]


def _draw(axes: Any, at: NDArray[np.float64], area: NDArray[np.int64], names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        colour, marker = _MARKS[number] if number < len(_MARKS) else _REST
        rows = area >= number if number == len(_MARKS) else area == number
        axes.scatter(*at[rows].T, s=13, c=colour, marker=marker, alpha=0.65, linewidths=0, label=name, zorder=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color="#c4cad2")
    low, high = at.min(axis=0), at.max(axis=0)
    middle, half = (low + high) / 2, max(float((high - low).max()) / 2, 1e-9) * 1.04
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)


def _label(axes: Any, at: NDArray[np.float64], words: Sequence[str]) -> None:
    """Name words in their order, each where no name stands already and none is cut off; those without a place not."""
    width = height = _PANEL_INCHES * 72
    points = (at - [axes.get_xlim()[0], axes.get_ylim()[0]]) / np.ptp(axes.get_xlim()) * width
    taken = np.empty((0, 4))
    for (x, y), place, word in zip(points, at, words, strict=True):
        if len(taken) == _MOST_LABELS:
            break
        text = one_line(word, max_chars=_LONGEST)
        half = np.array([len(text) * _LETTER, 1.25]) * _FONT_POINTS / 2
        for dx, dy in _OFFSETS:
            centre = np.array([x + dx + np.sign(dx) * half[0], y + dy + np.sign(dy) * half[1] * (dx == 0)])
            box = np.concatenate([centre - half, centre + half])
            is_inside = (box[:2] > 2).all() and box[2] < width - 2 and box[3] < height - 2
            is_free = ~((box[:2] < taken[:, 2:]) & (box[2:] > taken[:, :2])).all(axis=1)
            if is_inside and is_free.all():
                taken = np.vstack([taken, box])
                _write(axes, text, place, centre - [x, y])
                break


def _write(axes: Any, text: str, at: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
    axes.annotate(
        text,
        at,
        offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=_FONT_POINTS,
        color="#11161c",
        zorder=4,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.72, "edgecolor": "none"},
        arrowprops={"arrowstyle": "-", "color": "#596475", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 1},
        annotation_clip=False,
    )


def _described(picture: str, title: str, description: str) -> str:
    """Give a picture a title and a description that screen readers read."""
    inside = f'<title id="map-title">{html.escape(title)}</title>'
    inside += f'<desc id="map-description">{html.escape(description)}</desc>'
    mark = '<svg role="img" aria-labelledby="map-title map-description" '
    return re.sub(r"<svg ([^>]*>)", lambda found: mark + found[1] + inside, picture, count=1)
