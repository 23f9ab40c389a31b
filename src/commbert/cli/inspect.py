"""Looking at the tables: ``commbert data show`` and ``commbert data stats``."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commbert.cli.options import app

if TYPE_CHECKING:
    from rich.console import Console

data_app = typer.Typer(no_args_is_help=True, help="Look at the tables that the stages write: show, stats.")
app.add_typer(data_app, name="data")

Width = Annotated[int | None, typer.Option(min=40, max=1000, help="Columns of the terminal; as it is if not given.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, with whole values, instead of text.")]
_WHAT = "A .parquet file, a list of them (windows/train.json), or a folder (results/windows/train, results/lex/SHARD)."


@data_app.command()
def show(
    path: Annotated[Path, typer.Argument(help=_WHAT)],
    rows: Annotated[int, typer.Option(min=0, max=10_000, help="How many rows.")] = 5,
    skip: Annotated[int, typer.Option(min=0, help="Number of the first row to show, from 0.")] = 0,
    sample: Annotated[int | None, typer.Option(help="Draw the rows with this seed instead.")] = None,
    columns: Annotated[str | None, typer.Option(help="Columns to read, separated by commas; all if not given.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of the tokenizer that turns ids into text.")] = None,
    words: Annotated[Path | None, typer.Option(help="Table of words, for ids of words.")] = None,
    files: Annotated[Path | None, typer.Option(help="Table of files, for ids of files.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Table of texts, for ids of texts.")] = None,
    width: Width = None,
    json: Json = False,
) -> None:
    """Show some rows of a table, with words, text and paths beside ids.

    What the ids mean is looked for beside the table and in the folders above it (tokenizer/, corpus/, shards/); the
    options name other places. Only the rows that are shown are read.
    """
    if skip and sample is not None:
        raise typer.BadParameter("--skip and --sample exclude each other.")
    from commbert.inspection.meanings import Companions, tell
    from commbert.inspection.opening import open_tables
    from commbert.inspection.rows import checked_columns, row_numbers, take
    from commbert.inspection.showing import json_line, print_heading, print_rows

    terminal = console(width)
    for table in open_tables(path):
        chosen = checked_columns(table, columns.split(",")) if columns is not None else None
        numbers = row_numbers(table.n_rows, rows, skip=skip, sample=sample)
        told = tell(table, take(table, numbers, chosen), Companions(tokenizer, words, files, texts))
        if json:
            for row in told.rows:
                typer.echo(json_line(row))
            continue
        print_heading(terminal, table)
        print_rows(terminal, told, numbers)
        terminal.print()


@data_app.command()
def stats(
    paths: Annotated[list[Path], typer.Argument(help=_WHAT)],
    width: Width = None,
    json: Json = False,
) -> None:
    """Show what is in the columns of tables: sizes, ranges, frequent values.

    For windows also the tokens per window, for pairs their kinds and labels, for files what became of them. Every row
    is read, in pieces: memory does not grow with the table.
    """
    from commbert.inspection.figures import print_figures
    from commbert.inspection.opening import open_tables
    from commbert.inspection.showing import json_line, print_heading
    from commbert.inspection.statistics import statistics

    terminal = console(width)
    for path in paths:
        for table in open_tables(path):
            told = statistics(table)
            if json:
                typer.echo(json_line(told))
                continue
            print_heading(terminal, table)
            print_figures(terminal, told)
            terminal.print()


def console(width: int | None) -> "Console":
    """Return a terminal that shows text as it is, so many columns wide, or as wide as it is."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows \u.. for what it lacks
    return Console(width=width, highlight=False, markup=False, emoji=False)
