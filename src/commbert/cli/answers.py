"""How answers of a model look on a terminal. Text of others is shown as it is, control characters spelt out."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from commbert.cli.asking import probability, shown

if TYPE_CHECKING:
    from commbert.inference.classifying import Prediction
    from commbert.inference.filling import FilledText
    from commbert.inference.neighbours import Neighbour
    from commbert.inference.searching import Hit

OWN_DISTRIBUTION = "Each [MASK] has a distribution of its own: candidates in one row need not fit together."


def filled_table(filled: "FilledText") -> RenderableType:
    """Return a text's candidates, a pair of columns for each mask."""
    table = _table("")
    many = len(filled.masks) > 1
    for number in range(1, len(filled.masks) + 1):
        table.add_column(f"[MASK] {number}" if many else "token", overflow="fold")
        table.add_column("probability", justify="right")
    for rank, row in enumerate(zip(*filled.masks, strict=True), start=1):
        cells = [cell for c in row for cell in (shown(c.token), probability(c.probability))]
        table.add_row(str(rank), *map(Text, cells))
    parts: list[RenderableType] = [Text(shown(filled.text), style="bold"), table]
    return Group(*parts, Text(OWN_DISTRIBUTION, style="dim")) if many else Group(*parts)


def prediction_table(prediction: "Prediction", *, is_regression: bool) -> RenderableType:
    """Return a text's classes."""
    table = _table("") if not is_regression else Table()
    table.add_column("score" if is_regression else "class", overflow="fold")
    table.add_column("value" if is_regression else "probability", justify="right")
    for rank, found in enumerate(prediction.scores, start=1):
        cells = shown(found.label), f"{found.score:.4f}" if is_regression else probability(found.score)
        table.add_row(*([] if is_regression else [str(rank)]), *map(Text, cells))
    return Group(Text(shown(prediction.text), style="bold"), table)


def similarity_table(rows: Sequence[tuple[str, str, Sequence[float]]], models: Sequence[str]) -> RenderableType:
    """Return cosines of pairs, a column for each model."""
    table = Table()
    for name in ("a", "b"):
        table.add_column(name, overflow="fold")
    for name in models:
        table.add_column(Text(name), justify="right")
    for a, b, cosines in rows:
        table.add_row(Text(shown(a)), Text(shown(b)), *(f"{cosine:+.4f}" for cosine in cosines))
    return table


def neighbours_table(word: str, lists: "Sequence[Sequence[Neighbour]]", models: Sequence[str]) -> RenderableType:
    """Return a word's neighbours, a pair of columns for each model."""
    table = _table("")
    for name in models:
        table.add_column(Text(name if len(models) > 1 else "word"), overflow="fold")
        table.add_column("cosine", justify="right")
    for rank in range(max(map(len, lists), default=0)):
        cells = [_neighbour(found, rank) for found in lists]
        table.add_row(str(rank + 1), *(Text(cell) for pair in cells for cell in pair))
    parts: list[RenderableType] = [Text(shown(word), style="bold"), table]
    if len(lists) == 2 and lists[0]:
        shared = len({n.word for n in lists[0]} & {n.word for n in lists[1]})
        parts.append(Text(f"{shared} of {len(lists[0])} stand in both lists.", style="dim"))
    return Group(*parts)


def _neighbour(found: "Sequence[Neighbour]", rank: int) -> tuple[str, str]:
    return (shown(found[rank].word), f"{found[rank].cosine:+.4f}") if rank < len(found) else ("", "")


def hits_table(query: str, hits: "Sequence[Hit]") -> RenderableType:
    """Return what a search found."""
    table = _table("")
    table.add_column("cosine", justify="right")
    table.add_column("passage", overflow="fold")
    for rank, hit in enumerate(hits, start=1):
        # Code on one line: its line ends say little here.
        passage = Text.assemble((shown(hit.where), "bold"), "\n", shown(" ".join(hit.text.split())))
        table.add_row(str(rank), f"{hit.cosine:+.4f}", passage)
    return Group(Text(shown(query), style="bold"), table)


def _table(rank: str) -> Table:
    table = Table()
    table.add_column(rank, justify="right", style="dim")
    return table


def options_table(question: str, options: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return the options of a question, likeliest first."""
    table = _table("")
    table.add_column("option", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("mean log p per piece", justify="right")
    table.add_column("pieces", justify="right")
    ranked = sorted(options, key=lambda one: -one["probability"])
    for rank, one in enumerate(ranked, start=1):
        numbers = probability(one["probability"]), f"{one['score']:.3f}", str(one["n_pieces"])
        table.add_row(str(rank), Text(shown(one["option"])), *numbers)
    return Group(Text(shown(question), style="bold"), table)


def lines_table(lines: Sequence[tuple[str, str]]) -> RenderableType:
    """Return what can be asked."""
    table = Table.grid(padding=(0, 2))
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table
