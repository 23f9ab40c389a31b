"""Tables, rows and figures on a terminal. Text of others is shown as it is: no markup, control characters spelt out."""

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from commbert.inspection.meanings import Told
from commbert.inspection.opening import Opened

_MAX_LINES = 6
"""A value takes at most this many lines of the terminal."""
_MAX_COLUMNS, _MAX_FOLD = 7, 1.5
"""A table of few columns stays one where its cells fold once or so."""


def visible(text: str) -> str:
    r"""Return text with everything that a terminal may act upon spelt out: ESC is ``\x1b``, a line end ``\n``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_text(value: Any) -> str:
    """Return a value of a cell as one line."""
    if isinstance(value, list) and value and all(isinstance(v, str) for v in value):
        return visible(" ".join(value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return "–" if value is None else visible(str(value))


def as_json(value: Any) -> Any:
    """Return a value that is valid JSON: what JSON lacks becomes text, a NaN null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)


def json_line(value: Any) -> str:
    """Return one line of JSON, in ASCII: no terminal acts upon it."""
    return json.dumps(as_json(value), allow_nan=False)


def size(n_bytes: float) -> str:
    """Return a number of bytes, readable."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024 or unit == "GiB":
            break
        n_bytes /= 1024
    return f"{n_bytes:,.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"


def print_heading(console: Console, opened: Opened) -> None:
    """Print what a table is, how large, and what it was made from."""
    n_groups = sum(len(part.group_rows) for part in opened.parts)
    name = f"{opened.name} version {opened.about.get('version', '?')}" if opened.name else "Parquet file"
    n_bytes = sum(part.n_bytes for part in opened.parts)
    console.print(Text(f"{visible(str(opened.path))}: {visible(name)}", style="bold"))
    console.print(
        Text(f"{_count(opened.n_rows, 'row')} in {_count(len(opened.parts), 'file')}, ")
        + Text(f"{_count(n_groups, 'row group')}, {size(n_bytes)} on disk")
    )
    made_of = [f"{k} {v}" for k, v in sorted(opened.about.items()) if k not in ("table", "version", "rows")]
    if made_of:
        console.print(Text(visible("Provenance: " + ", ".join(made_of)), style="dim"))
    for note in opened.notes:
        console.print(Text(visible(note), style="yellow"))


def print_rows(console: Console, told: Told, numbers: Sequence[int]) -> None:
    """Print rows: as a table if it fits the terminal, else one after the other, a line for each field."""
    for path in told.read_with:
        console.print(Text(visible(f"Read with {path}"), style="dim"))
    for note in told.notes:
        console.print(Text(visible(note), style="yellow"))
    rows = [{k: v for k, v in row.items() if k not in told.replaced} for row in told.rows]
    cells = [{visible(k): as_text(v) for k, v in row.items()} for row in rows]
    if not cells:
        console.print("No rows.")
        return
    widths = {k: max(cell_len(k), *(cell_len(row[k]) for row in cells)) for k in cells[0]}
    fold = (sum(widths.values()) + 3 * len(widths) + 1) / console.width
    if fold <= 1 or (fold <= _MAX_FOLD and len(widths) <= _MAX_COLUMNS):
        right = {visible(k) for k, v in rows[0].items() if isinstance(v, int | float)}
        console.print(grid(list(widths), [list(row.values()) for row in cells], right=right))
        return
    for number, row in zip(numbers, cells, strict=True):
        console.print()
        console.print(Text(f"row {number:,}", style="bold"))
        for name, text in row.items():
            console.print(Text.assemble((f"{name}: ", "cyan"), _cut(text, _MAX_LINES * console.width)), soft_wrap=False)


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: set[str] | None = None) -> Table:
    """Return a table of plain texts."""
    table = Table(show_edge=True, pad_edge=True)
    for name in header:
        table.add_column(Text(name), justify="right" if name in (right or ()) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[:max_chars]} … ({len(text):,} characters)"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
