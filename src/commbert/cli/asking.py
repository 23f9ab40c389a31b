"""What the subcommands that ask a model share: which model, where texts come from, how answers are printed."""

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commbert.errors import DataError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from commbert.inference.models import AskedModel
    from commbert.inference.texts import AskedText

Model = Annotated[
    Path, typer.Option("--model", "-m", help="Folder of the model, for example results/runs/final/final.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps; auto takes a GPU where there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per answer.")]
TextFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read texts from this file, one per line; - is standard input.")
]
Column = Annotated[
    str | None, typer.Option(help="--file is a CSV, TSV, JSONL or Parquet table; take the texts of this column.")
]
Texts = Annotated[list[str] | None, typer.Argument(help="Texts; none: they are read from --file or standard input.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Keep the beginning of texts that are too long.")]
Base = Annotated[Path, typer.Option(help="Folder of the base model, for --compare.")]
Advance = Callable[..., None]
"""Takes how much more is done, and of how much."""
DEFAULT_MODEL = Path("results/runs/final/final")
DEFAULT_BASE = Path("results/base")


def load(model: Path, device: str) -> "AskedModel":
    """Load a model folder; the libraries are told first how many threads this process may use."""
    use_threads()
    from commbert.inference.models import load_model

    return load_model(model, device=device)


def use_threads() -> None:
    """Tell the libraries, before they are imported, how many CPUs this process may use; a user's own number stays."""
    from commbert.cli.options import limit_threads
    from commbert.monitoring import usable_threads

    if "OMP_NUM_THREADS" not in os.environ:
        limit_threads(usable_threads(64))


def stream_texts(given: Sequence[str] | None, file: Path | None, column: str | None = None) -> "Iterator[AskedText]":
    """Return the texts of the command line, or of the file, or of standard input where neither is given.

    They come one after the other and with their places; blank lines are no texts.

    Raises:
        DataError: At once if there are texts from two places or from none; while reading if a file cannot serve.
    """
    from commbert.inference.texts import AskedText, read_lines, read_texts

    if given and file is not None:
        raise DataError("expected texts as arguments or by --file, found both. Leave one out.")
    if column is not None and (file is None or str(file) == "-"):
        raise DataError("--column: expected --file with a table, found none. Name one.")
    if given:
        for number, text in enumerate(given, start=1):
            if not text.strip():
                raise DataError(f"argument {number}: expected a text, found a blank one. Leave it out.")
        return iter([AskedText(text, f"argument {number}") for number, text in enumerate(given, start=1)])
    if file is not None and str(file) != "-":
        return read_texts(file, column)
    if sys.stdin is None or (file is None and sys.stdin.isatty()):
        raise DataError("expected a text, found none. Give it as an argument, by --file, or on standard input.")
    return read_lines(sys.stdin.buffer, "standard input")


class Answers:
    """Prints answers: tables and lines for a reader, or nothing but JSON lines."""

    def __init__(self, *, as_json: bool) -> None:
        from rich.console import Console

        self.as_json = as_json
        if sys.stdout is None:
            raise DataError("expected an open standard output for the answers, found a closed one. Open it.")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(
                errors="backslashreplace"
            )  # a terminal that is not UTF-8 shows \u.. for what it lacks
        self._console = Console(highlight=False, markup=False, emoji=False)

    def give(self, value: dict[str, Any], shown: "Callable[[], RenderableType]") -> None:
        """Print an answer.

        Args:
            value: The answer, ready for JSON.
            shown: Makes what a reader sees.
        """
        if self.as_json:
            from commbert.inspection.showing import json_line

            # Flushed at once: a reader of the pipe that is gone is noticed here, and not when Python ends.
            sys.stdout.write(json_line(value) + "\n")
            sys.stdout.flush()
        else:
            # A line that is longer than the terminal is left to it: cut by us, its paths could not be copied.
            told = shown()
            self._console.print(told, soft_wrap=isinstance(told, str))
            sys.stdout.flush()


def shown(text: str, at_most: int = 200) -> str:
    """Return a text of others as one line that a terminal does not act upon, cut where it is long."""
    from commbert.inspection.showing import visible

    cut = text if len(text) <= at_most else f"{text[:at_most]}…"
    return visible(cut)


def probability(value: float) -> str:
    """Return a probability with four digits behind the point; one that would be 0 in them is written out."""
    return f"{value:.4f}" if value >= 0.00005 or value == 0 else f"{value:.0e}"


@contextmanager
def progress(what: str, total: int | None = None, *, beside_answers: bool = False) -> Iterator[Advance]:
    """Show on standard error how far a long task is, if that is a terminal.

    Args:
        what: Shown beside the bar.
        total: Of whatever is counted; None: not known.
        beside_answers: Answers are printed meanwhile: no bar where they go to a terminal, which it would cut up.

    Yields:
        What is called with how much more is done, and of how much where that is known by then.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    is_shown = sys.stderr.isatty() and not (beside_answers and sys.stdout.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(show_speed=True))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with Progress(*columns, *times, console=console, transient=True, disable=not is_shown) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n, of=None: bar.update(task, advance=n, total=of)


@contextmanager
def watched(
    texts: "Iterator[AskedText]", file: Path | None, what: str, *, beside_answers: bool = False
) -> "Iterator[Iterator[AskedText]]":
    """Give texts on while showing how far their file was read."""
    from commbert.inference.texts import size_of

    total = size_of(file)
    with progress(what, total, beside_answers=beside_answers) as advance:

        def passing() -> "Iterator[AskedText]":
            at = 0
            for text in texts:
                yield text
                advance(text.read_bytes - at if total else 1)
                at = text.read_bytes

        yield passing()
