"""Texts that a model is asked about, each with the place it came from; files of any size are read bit by bit."""

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa

from commbert import tables
from commbert.corpus.delimited import delimited_rows
from commbert.corpus.jsonlines import json_rows
from commbert.corpus.parquet import parquet_rows
from commbert.corpus.rows import Row
from commbert.corpus.templates import RowTemplate
from commbert.errors import DataError

T = TypeVar("T")
MAX_TEXT_BYTES = 2**20
"""Of one text: far more than an encoder of 512 tokens reads; a file without line ends does not fill memory."""
_BOM = b"\xef\xbb\xbf"
_FUNCTION_COLUMNS = ("file_id", "first_line", "last_line", "name", "brief", "code")
_TABLES: dict[str, Callable[[BinaryIO, RowTemplate, str], Any]] = {
    ".csv": lambda file, template, where: delimited_rows(file, template, ",", max_bytes=MAX_TEXT_BYTES, where=where),
    ".tsv": lambda file, template, where: delimited_rows(file, template, "\t", max_bytes=MAX_TEXT_BYTES, where=where),
    ".jsonl": lambda file, template, where: json_rows(file, template, max_bytes=MAX_TEXT_BYTES, where=where),
    ".parquet": lambda file, template, where: parquet_rows(file, template, max_bytes=MAX_TEXT_BYTES, where=where),
}


@dataclass(frozen=True)
class AskedText:
    """A text and where it stands."""

    text: str
    where: str
    """For messages: ``texts.txt, line 3``."""
    read_bytes: int = 0
    """How far its file was read with it; 0 where that is not known."""


@dataclass(frozen=True)
class AskedPair:
    """Two texts to compare."""

    a: AskedText
    b: AskedText


def named_text(text: str | AskedText, number: int = 1) -> AskedText:
    """Return a text with its place: ``text 3`` where it has none of its own.

    Raises:
        DataError: If it holds half a character, as arguments that are not UTF-8 do.
    """
    named = text if isinstance(text, AskedText) else AskedText(text, f"text {number}")
    if not named.text.isascii():
        try:
            named.text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{named.where}: expected UTF-8, found other bytes. Convert it.") from error
    return named


def named(texts: Iterable[str | AskedText]) -> Iterator[AskedText]:
    """Yield texts with their places, counted from 1."""
    for number, text in enumerate(texts, start=1):
        yield named_text(text, number)


def read_lines(file: BinaryIO, where: str) -> Iterator[AskedText]:
    """Yield the lines of a file that are not blank, without their ends.

    Raises:
        DataError: With the line, if it is no UTF-8, has a NUL byte or is larger than 1 MiB; also if there is none.
    """
    n_bytes = n_texts = number = 0
    while line := file.readline(MAX_TEXT_BYTES + 1):
        number += 1
        n_bytes += len(line)
        at = f"{where}, line {number}"
        if len(line) > MAX_TEXT_BYTES:
            raise DataError(f"{at}: expected a text of 1 MiB at most, found more. Is this a text file?")
        try:
            text = (line.removeprefix(_BOM) if number == 1 else line).decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{at}: expected UTF-8, found other bytes. Convert it.") from error
        if "\0" in text:
            raise DataError(f"{at}: expected text, found a NUL byte. Is this UTF-16? Convert it to UTF-8.")
        if text.strip():
            n_texts += 1
            yield AskedText(text, at, n_bytes)
    if not n_texts:
        raise DataError(f"{where}: expected at least one line of text, found none.")


def read_texts(path: Path, column: str | None = None) -> Iterator[AskedText]:
    """Yield the texts of a file.

    Args:
        path: Text, one per line (blank lines are none); a table of functions (corpus/functions), of which what the
            comment says and the code are taken; or a CSV, TSV, JSONL or Parquet table.
        column: Column of a table; a table needs one.

    Raises:
        DataError: If it is missing, of another kind, or has no text.
        SourceError: If a table cannot be read, with the line.
    """
    kind = path.suffix.lower()
    if column is None and kind == ".parquet":
        yield from _functions(path)
        return
    with _opened(path) as file:
        if column is None and kind in _TABLES:
            # Line by line, its header would be a text, and a cell with a line end two.
            raise DataError(
                f"{path}: expected the column of a table's texts, found none named. Name one with --column (to search "
                "a table, encode its column first), or call a file of plain lines .txt."
            )
        if column is None:
            yield from read_lines(file, str(path))
            return
        if kind not in _TABLES:
            raise DataError(f"{path}: --column expects a table that ends in {', '.join(_TABLES)}. Leave it out.")
        rows = _TABLES[kind](file, RowTemplate.of_column(column), str(path))
        with closing(rows):  # lets go of the file before it is closed
            yield from _cells(rows, str(path), column)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not path.exists():
        raise DataError(f"{path}: expected a file of texts, found nothing.")
    if path.is_dir():
        raise DataError(f"{path}: expected a file of texts, found a folder. Name one file.")
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        if error.filename is not None:
            raise
        raise DataError(f"{path}: cannot be read: {error.strerror}. Check the file and its disk.") from error


def _cells(rows: Iterable[Row], where: str, column: str) -> Iterator[AskedText]:
    number = 0
    for row in rows:
        number = row.number
        at = f"{where}, row {number}"
        if row.data is None:
            raise DataError(
                f"{at}: column {column!a}: expected a text, found one that is {row.reason}. Remove the row."
            )
        text = row.data.decode()
        if not text.strip():
            # Left out, the answers would no longer be as many as the rows.
            raise DataError(f"{at}: column {column!a}: expected a text, found an empty cell. Remove the row.")
        yield AskedText(text, at)
    if not number:
        raise DataError(f"{where}: expected at least one row, found none.")


def table_name(path: Path) -> str:
    """Return the name of the table in a Parquet file; empty if it is none of ours.

    Raises:
        DataError: If it is missing or no Parquet file.
    """
    try:
        return tables.provenance_of(path).get("table", "")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: expected a Parquet file, found: {str(error).splitlines()[0][:200]}.") from error


def is_functions(path: Path) -> bool:
    """Return whether a Parquet file is a table of functions."""
    return table_name(path) == tables.FUNCTIONS.name


def _functions(path: Path) -> Iterator[AskedText]:
    if not is_functions(path):
        raise DataError(
            f"{path}: expected a table of functions (results/corpus/functions.parquet), found another. "
            "Name its column of texts with --column."
        )
    beside = path.parent / "files.parquet"
    paths = tables.read(beside, tables.FILES, ["path"])["path"].to_pylist() if beside.is_file() else []
    n = 0
    for group in tables.read_groups(path, tables.FUNCTIONS, _FUNCTION_COLUMNS):
        rows = zip(*(group[column].to_pylist() for column in _FUNCTION_COLUMNS), strict=True)
        for file_id, first, last, name, brief, code in rows:
            text = f"{brief}\n{code}".strip()
            if text:
                place = paths[file_id] if file_id < len(paths) else f"file {file_id}"
                n += 1
                yield AskedText(text, f"{place}:{first}-{last} {name}")
    if not n:
        raise DataError(f"{path}: expected at least one function, found none. Widen corpus.sources.")


def read_pairs(path: Path) -> Iterator[AskedPair]:
    """Yield the pairs of a file without a header: two cells a line, with a TAB between, or with a comma (CSV).

    A line with a TAB is split there; any other is read as CSV, where a cell with commas stands in double quotes.

    Raises:
        DataError: With the line, if it has not two cells with text, or is no UTF-8.
    """
    with _opened(path) as file:
        yield from pairs_of_lines(read_lines(file, str(path)))


def pairs_of_lines(lines: Iterable[AskedText]) -> Iterator[AskedPair]:
    """Yield the pair of each line; see ``read_pairs``."""
    for line in lines:
        try:
            cells = line.text.split("\t") if "\t" in line.text else next(csv.reader([line.text], strict=True))
        except csv.Error as error:
            raise DataError(f"{line.where}: expected two cells, found: {error}.") from error
        if len(cells) != 2 or not all(cell.strip() for cell in cells):
            n = sum(1 for cell in cells if cell.strip())
            raise DataError(
                f"{line.where}: expected two texts with a TAB or a comma between, found {n} in {len(cells)} cells. "
                "Put texts with commas in double quotes."
            )
        a, b = (AskedText(cell, line.where, line.read_bytes) for cell in cells)
        yield AskedPair(a, b)


def in_chunks(texts: Iterable[AskedText], *, at_most: int = 1024, chars: int = 2**22) -> Iterator[list[AskedText]]:
    """Yield texts in lists of limited number and size, so that memory does not grow with the file."""
    some: list[AskedText] = []
    n_chars = 0
    for text in texts:
        some.append(text)
        n_chars += len(text.text)
        if len(some) >= at_most or n_chars >= chars:
            yield some
            some, n_chars = [], 0
    if some:
        yield some


def in_lists(items: Iterable[T], at_most: int) -> Iterator[list[T]]:
    """Yield items in lists of ``at_most``, the last one shorter."""
    every = iter(items)
    while some := list(islice(every, at_most)):
        yield some


def size_of(path: Path | None) -> int | None:
    """Return the bytes of a text file that is read line by line; None where that is not known."""
    if path is None or not path.is_file() or path.suffix.lower() in _TABLES:
        return None
    return path.stat().st_size or None
