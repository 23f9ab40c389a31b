"""Pictures of a report, as SVG that is the same for the same values and readable on light and dark paper."""

import io
from collections.abc import Sequence
from textwrap import wrap
from typing import Any
from xml.sax.saxutils import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from commbert.reporting.escaping import visible

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1d2530",
    "label": "#11161c",
    "line": "#c3cad4",
    "soft": "#667080",
    "series": ("#1f5fa8", "#b4490f", "#2c7d4f", "#7a3f98", "#8a6d00", "#0f7285"),
}
DARK = {
    "paper": "#151a21",
    "ink": "#e6eaf0",
    "label": "#f4f6fa",
    "line": "#46515f",
    "soft": "#98a3b3",
    "series": ("#85b7ee", "#f0a070", "#6fd39a", "#d0a3ea", "#e3c45c", "#66cfe0"),
}
COLOURS: tuple[str, ...] = (*LIGHT["series"], "#667080")
MARKERS = ("o", "^", "D", "s", "v", "P")
STYLE: Any = {
    "svg.hashsalt": "commbert",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "figure.facecolor": LIGHT["paper"],
    "savefig.facecolor": LIGHT["paper"],
    "axes.facecolor": LIGHT["paper"],
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"],
    "xtick.color": LIGHT["ink"],
    "ytick.color": LIGHT["ink"],
    "axes.edgecolor": LIGHT["soft"],
    "grid.color": LIGHT["line"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "legend.framealpha": 0.85,
    "legend.facecolor": LIGHT["paper"],
    "legend.edgecolor": LIGHT["paper"],
    "text.parse_math": False,
}


def comparison_figure(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Return the figures of all columns with their intervals, one line per figure; only those between 0 and 1."""
    shown = [r for r in rows if "mlm_loss" not in r["key"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 0.42 * len(shown) + 1.2), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(columns):
            colour = COLOURS[place % len(COLOURS)]
            offset = (place - (len(columns) - 1) / 2) * 0.2
            points = [
                (i + offset, r["cells"][name]) for i, r in enumerate(shown) if r["cells"][name]["value"] is not None
            ]
            for y, cell in points:
                low, high = (cell["value"] if cell[key] is None else cell[key] for key in ("low", "high"))
                axes.plot([low, high], [y, y], color=colour, linewidth=2, alpha=0.6)
            axes.plot(
                [cell["value"] for _, cell in points],
                [y for y, _ in points],
                MARKERS[place % len(MARKERS)],
                linestyle="none",
                color=colour,
                markersize=5,
                label=visible(name, max_chars=40),
            )
        axes.axvline(0.5, color=LIGHT["soft"], linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(shown)), ["\n".join(wrap(r["label"], 27)) for r in shown], fontsize=10)
        axes.invert_yaxis()
        # A correlation can be below 0.
        lows = [c[k] for r in shown for c in (r["cells"][n] for n in columns) for k in ("value", "low") if c.get(k)]
        axes.set_xlim(min(0.0, *lows, 0.0), 1)
        axes.set_xlabel("value with 95 % interval (dashed: chance level of an AUC)")
        figure.legend(loc="outside upper center", ncols=min(4, len(columns)))
        told = ", ".join(columns)
        return svg(figure, title="Figures before and after", description=f"Values with 95 % intervals of {told}")


def empty_figure(text: str) -> str:
    """Return a picture that says why there is none."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.2))
        figure.text(0.5, 0.5, text, ha="center", va="center")
        return svg(figure, title=text)


def svg(figure: Figure, *, title: str = "", description: str = "") -> str:
    """Return the picture as SVG, the same for the same picture.

    Colours of the light palette turn into those of the dark one where the reader's screen is dark; a viewer that knows
    no style sheets shows the light one.

    Args:
        title: What a screen reader calls the picture.
        description: What it says of its contents.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "commbert"})
    text = buffer.getvalue()
    begin = text.index("<svg")
    end = text.index(">", begin) + 1
    told = f"<title>{escape(visible(title))}</title>" if title else ""
    told += f"<desc>{escape(visible(description, max_chars=400))}</desc>" if description else ""
    # Without a title the picture has no name to be read out: whoever asked for it gives it one.
    tag = text[begin : end - 1] + (' role="img">' if title else ">")
    return text[:begin] + tag + f"\n {told}<style>{_dark_style()}</style>" + text[end:]


def _dark_style() -> str:
    pairs = [(LIGHT[name], DARK[name]) for name in ("paper", "ink", "label", "line", "soft")]
    pairs += zip(LIGHT["series"], DARK["series"], strict=True)
    rules = [
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}' for light, dark in pairs for kind in ("fill", "stroke")
    ]
    # Text in the default colour has none of its own in matplotlib's SVG.
    rules.insert(0, f"text{{fill:{DARK['ink']}}}")
    return f"@media screen and (prefers-color-scheme: dark){{{''.join(rules)}}}"
