"""What the subcommands that ask a model share: which model, which device, where the texts come from."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from commbert.errors import DataError

Model = Annotated[
    Path, typer.Option("--model", "-m", help="Folder of the model, for example results/runs/final/final.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps; auto takes a GPU where there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per answer.")]
TextFile = Annotated[
    Path | None, typer.Option("--file", "-f", help="Read texts from this file, one per line; - is standard input.")
]
DEFAULT_MODEL = Path("results/runs/final/final")


def asked_texts(given: Sequence[str] | None, file: Path | None) -> list[str]:
    """Return the texts of the command line, or of the file's lines, or of standard input where neither is given.

    Blank lines are no texts.

    Raises:
        DataError: If there are texts from two places, none at all, or a file that cannot be read as UTF-8.
    """
    if given and file is not None:
        raise DataError("expected texts as arguments or by --file, found both. Leave one out.")
    if given:
        return list(given)
    if file is None and sys.stdin.isatty():
        raise DataError("expected a text, found none. Give it as an argument, by --file, or on standard input.")
    where = "standard input" if file is None or str(file) == "-" else str(file)
    data = sys.stdin.buffer.read() if where == "standard input" else Path(where).read_bytes()
    texts = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.decode().rstrip("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{where}, line {number}: expected UTF-8, found other bytes. Convert it.") from error
        if text.strip():
            texts.append(text)
    if not texts:
        raise DataError(f"{where}: expected at least one line of text, found none.")
    return texts
