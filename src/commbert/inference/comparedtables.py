"""A comparison of two models as tables: cells of text for a terminal, and Markdown."""

from collections.abc import Iterator, Sequence

from commbert.evaluation.bootstrap import Estimate
from commbert.inference.comparison import Comparison, Row
from commbert.reporting.escaping import markdown_cell

HEADER = ("figure", "A", "B", "B - A", "95 %", "items", "B is")
_MISSING = "–"


def cells(row: Row) -> list[str]:
    """Return the cells of a row, under ``HEADER``; nothing is escaped."""
    if row.difference is None:
        return [row.figure, _value(row.a), _value(row.b), _MISSING, _MISSING, _items(row), row.reason]
    d = row.difference
    interval = f"{d.low:+.3f} to {d.high:+.3f}"
    return [row.figure, _value(row.a), _value(row.b), f"{d.value:+.3f}", interval, _items(row), row.verdict]


def _value(found: Estimate | None) -> str:
    return _MISSING if found is None else f"{found.value:.3f}"


def _items(row: Row) -> str:
    found = row.a or row.b
    return _MISSING if found is None else f"{found.n:,}"


def by_file(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Yield kind and path of each file, with its rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(f"{row.kind}: {row.file}", []).append(row)
    yield from groups.items()


def markdown(comparison: Comparison) -> str:
    """Return a page of Markdown; text of others stands in it as text."""
    lines = ["# Two models compared", ""]
    both = zip("AB", comparison.names, comparison.models, strict=True)
    lines += ["| | model | vocabulary | weights (SHA-256) |", "|---|---|---|---|"]
    for letter, name, about in both:
        digest = about["sha256"]["model.safetensors"][:16]
        lines.append(f"| {letter} | {markdown_cell(name)} | {about['vocabulary']:,} | {digest} |")
    told = comparison.settings
    lines += [
        "",
        f"B - A with its 95 % interval: a paired bootstrap over the items, {told['bootstrap']:,} resamples, seed "
        f"{told['seed']}; within noise where the interval holds 0.",
    ]
    for title, rows in by_file(comparison.rows):
        lines += ["", f"## {markdown_cell(title)}", "", f"| {' | '.join(HEADER)} |", "|---|--:|--:|--:|--:|--:|---|"]
        lines += ["| " + " | ".join(markdown_cell(cell) for cell in cells(row)) + " |" for row in rows]
    if comparison.notes:
        lines += ["", *(f"* {markdown_cell(note, max_chars=500)}" for note in comparison.notes)]
    versions = comparison.environment["versions"]
    used = ", ".join(f"{name} {versions[name]}" for name in ("commbert", "torch", "tokenizers") if name in versions)
    lines += ["", f"Made with {markdown_cell(used)}; commit {markdown_cell(comparison.environment['commit'])}.", ""]
    return "\n".join(lines)
