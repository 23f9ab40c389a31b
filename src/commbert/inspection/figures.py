"""The figures of a table on a terminal."""

import re
from typing import Any

from rich.console import Console
from rich.text import Text

from commbert.inspection.showing import as_text, grid, size

_MAX_CHARS = 40
_NUMBERS = {"on disk", "nulls", "files", "bytes", "lines", "pairs"}


def print_figures(console: Console, told: dict[str, Any]) -> None:
    """Print what ``statistics`` found."""
    per_row = told["bytes_per_row"]
    if per_row is not None:
        console.print(Text(f"{per_row:,.1f} bytes a row"))
    rows = [
        [as_text(name), _type(c["type"]), size(c["bytes"]), f"{c['nulls']:,}", _values(c, told["rows"])]
        for name, c in told["columns"].items()
    ]
    console.print(grid(["column", "type", "on disk", "nulls", "values"], rows, right=_NUMBERS))
    if "tokens_per_window" in told:
        quantiles = told["tokens_per_window"]
        console.print(Text("Tokens per window, by share of the windows that have no more:"))
        console.print(grid(list(quantiles), [[str(v) for v in quantiles.values()]], right=set(quantiles)))
    if "pairs" in told:
        cells = [[as_text(p["kind"]), str(p["label"]), f"{p['pairs']:,}"] for p in told["pairs"]]
        console.print(grid(["kind", "label", "pairs"], cells, right=_NUMBERS))
    if "accounting" in told:
        cells = [[as_text(k), *(f"{n:,}" for n in row.values())] for k, row in told["accounting"].items()]
        console.print(grid(["what became of it", "files", "bytes", "lines"], cells, right=_NUMBERS))


def _values(column: dict[str, Any], n_rows: int) -> str:
    told: list[str] = []
    if "min" in column:
        told.append(_range(column))
    if "length" in column:
        told.append(f"length {_range(column['length'])}")
    if "most_frequent" in column:
        n = column["distinct"]
        most = [f"{_short(v)} {100 * k / n_rows:.1f} %" for v, k in column["most_frequent"] if k > 1]
        told.append(f"{n:,} distinct{': ' if most else ''}{', '.join(most)}")
    elif "distinct" in column:
        told.append("many distinct")
    return "; ".join(told)


def _type(kind: str) -> str:
    """Return the name of an Arrow type; of a list without the name that its items have inside of the file."""
    return re.sub(r"^list<\w+: (\w+)(?: not null)?>$", r"list of \1", as_text(kind))


def _range(figures: dict[str, Any]) -> str:
    mean = f", mean {figures['mean']:,.6g}" if "mean" in figures else ""
    return f"{as_text(figures['min'])} to {as_text(figures['max'])}{mean}"


def _short(value: Any) -> str:
    text = as_text(value) or "(empty)"
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 1]}…"
