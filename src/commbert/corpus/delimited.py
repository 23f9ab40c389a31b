"""Rows of a CSV or TSV file: RFC 4180, every departure from it refused with its line.

Python's ``csv`` takes the rest of the file for one cell after a quote that is not closed, and fills short rows; so the
ends of rows are found here, and each row alone is given to it.
"""

import csv
import io
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from commbert.corpus.rows import TOO_LARGE, Row, filled_row
from commbert.corpus.templates import RowTemplate
from commbert.errors import SourceError

_PIECE_CHARS = 2**20
_BLANK = ("\n", "\r\n", "\r")


class _Cells:
    """Follows the quotes of a row through pieces of any length, so that a row's end is known without holding it."""

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter
        self._state = "start"

    @property
    def is_open(self) -> bool:
        """Whether the row goes on in the next line."""
        return self._state == "quoted"

    def follow(self, text: str) -> None:
        if '"' not in text and self._state in ("start", "plain"):
            self._state = "start" if text.endswith(self._delimiter) else "plain"
            return
        if self._state == "quoted" and '"' not in text.replace('""', ""):
            return
        at = 0
        while at < len(text):
            if self._state == "plain":
                at = text.find(self._delimiter, at) + 1
                if not at:
                    return
                self._state = "start"
            elif self._state == "quoted":
                at = text.find('"', at) + 1
                if not at:
                    return
                self._state = "closing"
            elif text[at] == '"':  # opens a cell, or is doubled inside of one
                self._state = "quoted"
                at += 1
            else:
                self._state = "plain"


@dataclass(frozen=True)
class CellRow:
    """A row of a table as it was written; the first one of a table is its header."""

    line: int
    """Where it begins; the first line of the file is 1."""
    n_chars: int
    cells: list[str] | None
    """As many as the header has; None where the row is larger than was asked for."""


def delimited_rows(
    file: BinaryIO, template: RowTemplate, delimiter: str, *, max_bytes: int, where: str
) -> Iterator[Row]:
    """Yield the rows after the header, filled into a template; blank lines are no rows.

    Raises:
        SourceError: As ``delimited_cells``, and if the template names a column that the header lacks.
    """
    with closing(delimited_cells(file, delimiter, max_bytes=max_bytes, where=where)) as rows:
        first = next(rows)
        header = first.cells or []
        template.check_columns(header, f"{where}, line {first.line}")
        for number, row in enumerate(rows, start=1):
            if row.cells is None:
                yield Row(number, row.n_chars, None, TOO_LARGE)
            else:
                yield filled_row(number, template.filled(dict(zip(header, row.cells, strict=True))), max_bytes)


def delimited_cells(file: BinaryIO, delimiter: str, *, max_bytes: int, where: str) -> Generator[CellRow, None, None]:
    """Yield the header and then each row, with the line where it begins; blank lines are no rows.

    Cells are text as it stands there: ``null``, ``NA`` and ``nan`` are words like others, and an empty cell is "".

    Args:
        file: Its bytes, UTF-8, with or without a byte order mark.
        delimiter: Between two cells.
        max_bytes: Of a row; of a larger one only the size is told.
        where: What messages call the file.

    Raises:
        SourceError: With the line, if a quote is not closed, a row has more or fewer cells than the header, the header
            names a column twice or is missing, or a byte is NUL or no UTF-8.
    """
    # A cell is never longer than its row, which is held only up to max_bytes; this limit is the module's own.
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes + _PIECE_CHARS))
    n_cells: int | None = None
    with closing(_records(file, delimiter, max_bytes, where)) as records:
        for line, n_chars, pieces in records:
            at = f"{where}, line {line}"
            if n_cells is None:
                if pieces is None:
                    raise SourceError(
                        f"{at}: expected a header, found a row of {n_chars:,} characters; is this a table?"
                    )
                header = _header(_cells(pieces, delimiter, at), at)
                n_cells = len(header)
                yield CellRow(line, n_chars, header)
                continue
            cells = None if pieces is None else _cells(pieces, delimiter, at)
            if cells is not None and len(cells) != n_cells:
                raise SourceError(
                    f"{at}: expected {n_cells} cells as in the header, found {len(cells)}. Is a quote or comma missing?"
                )
            yield CellRow(line, n_chars, cells)
    if n_cells is None:
        raise SourceError(f"{where}: expected a header, found an empty file.")


def _header(cells: list[str], at: str) -> list[str]:
    twice = sorted({name for name in cells if cells.count(name) > 1}) if len(set(cells)) < len(cells) else []
    if twice:
        raise SourceError(f"{at}: expected each column once in the header, found {twice[0][:80]!a} twice.")
    return cells


def _cells(pieces: list[str], delimiter: str, at: str) -> list[str]:
    try:
        rows = list(csv.reader(["".join(pieces)], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise SourceError(f"{at}: expected a row of cells, found: {error}.") from error
    if len(rows) != 1:
        raise SourceError(
            f"{at}: expected one row, found {len(rows)}: a line end stands inside of a cell without quotes."
        )
    return rows[0]


def _records(
    file: BinaryIO, delimiter: str, max_bytes: int, where: str
) -> Generator[tuple[int, int, list[str] | None], None, None]:
    """Yield each record's first line number, size, and text; no text where it is larger than ``max_bytes``."""
    line = 0
    with _Lines(file) as lines:
        for text in lines:
            first = line + 1
            cells, n_chars, kept = _Cells(delimiter), 0, []
            is_blank = text in _BLANK
            while True:
                _check_text(text, f"{where}, line {line + 1}")
                n_chars += len(text)
                cells.follow(text)
                if n_chars <= max_bytes:
                    kept.append(text)
                else:
                    kept = []
                ends = text.endswith(("\n", "\r"))
                line += ends
                if ends and not cells.is_open:
                    break
                text = lines.next_piece()  # noqa: PLW2901  (the same record's next piece)
                if not text:
                    break
            if cells.is_open:
                raise SourceError(f"{where}, line {first}: a quote that opens in this row is never closed.")
            if not is_blank:
                yield first, n_chars, kept if n_chars <= max_bytes else None


class _Lines:
    """Lines of a text file in pieces of limited length, with any kind of line end; the file stays open at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._text.detach()

    def __iter__(self) -> Iterator[str]:
        while piece := self.next_piece():
            yield piece

    def next_piece(self) -> str:
        return self._text.readline(_PIECE_CHARS)


def _check_text(text: str, at: str) -> None:
    if "\0" in text:
        raise SourceError(f"{at}: expected text, found a NUL byte. Is this a table?")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SourceError(f"{at}: expected UTF-8, found other bytes. Convert the file to UTF-8.") from error
