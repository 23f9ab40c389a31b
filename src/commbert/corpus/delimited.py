"""Rows of a CSV or TSV file: RFC 4180, every departure from it refused with its line.

Python's ``csv`` takes the rest of the file for one cell after a quote that is not closed, and fills short rows; so the
ends of rows are found here, and each row alone is given to it.
"""

import csv
import io
from collections.abc import Iterator
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


def delimited_rows(
    file: BinaryIO, template: RowTemplate, delimiter: str, *, max_bytes: int, where: str
) -> Iterator[Row]:
    """Yield the rows after the header; blank lines are no rows.

    Raises:
        SourceError: With the line, if a quote is not closed, a row has more or fewer cells than the header, the header
            names a column twice or lacks one, or a byte is NUL or no UTF-8.
    """
    # A cell is never longer than its row, which is held only up to max_bytes; this limit is the module's own.
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes + _PIECE_CHARS))
    header: list[str] | None = None
    number = 0
    for line, n_chars, pieces in _records(file, delimiter, max_bytes, where):
        at = f"{where}, line {line}"
        if header is None:
            if pieces is None:
                raise SourceError(f"{at}: expected a header, found a row of {n_chars:,} characters; is this a table?")
            header = _header(_cells(pieces, delimiter, at), at)
            template.check_columns(header, at)
            continue
        number += 1
        if pieces is None:
            yield Row(number, n_chars, None, TOO_LARGE)
            continue
        cells = _cells(pieces, delimiter, at)
        if len(cells) != len(header):
            raise SourceError(
                f"{at}: expected {len(header)} cells as in the header, found {len(cells)}. Is a quote or comma missing?"
            )
        yield filled_row(number, template.filled(dict(zip(header, cells, strict=True))), max_bytes)
    if header is None:
        raise SourceError(f"{where}: expected a header, found an empty file.")


def delimited_cells(
    file: BinaryIO, delimiter: str, *, max_bytes: int, where: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the cells, by column, of each row after the header; blank lines are no rows.

    For tables that are read row by row as they are, without a template; a table of a header alone yields nothing.

    Raises:
        SourceError: As ``delimited_rows``; also, with the line, if a row is larger than ``max_bytes``.
    """
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes + _PIECE_CHARS))
    header: list[str] | None = None
    for line, n_chars, pieces in _records(file, delimiter, max_bytes, where):
        at = f"{where}, line {line}"
        if pieces is None:
            raise SourceError(f"{at}: expected a row of at most {max_bytes:,} bytes, found {n_chars:,} characters.")
        cells = _cells(pieces, delimiter, at)
        if header is None:
            header = _header(cells, at)
            continue
        if len(cells) != len(header):
            raise SourceError(
                f"{at}: expected {len(header)} cells as in the header, found {len(cells)}. Is a quote or comma missing?"
            )
        yield line, dict(zip(header, cells, strict=True))
    if header is None:
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


def _records(file: BinaryIO, delimiter: str, max_bytes: int, where: str) -> Iterator[tuple[int, int, list[str] | None]]:
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
