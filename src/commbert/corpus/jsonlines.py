"""Rows of a JSON-lines file: one object a line, values as they are written."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from commbert.corpus.rows import TOO_LARGE, Row, filled_row
from commbert.corpus.templates import RowTemplate
from commbert.errors import SourceError

_BOM = b"\xef\xbb\xbf"


def json_rows(file: BinaryIO, template: RowTemplate, *, max_bytes: int, where: str) -> Iterator[Row]:
    """Yield the rows; lines of white space only are none. Numbers keep their spelling, null is empty.

    Raises:
        SourceError: With the line, if it is no JSON object, lacks a column, or holds NaN, or the template asks for a
            list or an object.
    """
    number = 0
    for line, (n_bytes, raw) in enumerate(_lines(file, max_bytes), start=1):
        at = f"{where}, line {line}"
        if raw is None:
            number += 1
            yield Row(number, n_bytes, None, TOO_LARGE)
        elif raw.strip():
            number += 1
            found = _object(raw.removeprefix(_BOM) if line == 1 else raw, at)
            template.check_columns(found, at)
            row = {column: _text(found[column], column, at) for column in template.columns}
            yield filled_row(number, template, row, max_bytes, at)


def json_objects(file: BinaryIO, *, max_bytes: int, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line number and the object of each line; numbers as text, spelt as they are written.

    Raises:
        SourceError: With the line, if it is no JSON object, holds NaN or half a character, or is larger than
            ``max_bytes``.
    """
    for line, (n_bytes, raw) in enumerate(_lines(file, max_bytes), start=1):
        at = f"{where}, line {line}"
        if raw is None:
            raise SourceError(f"{at}: expected a row of at most {max_bytes:,} bytes, found {n_bytes:,}.")
        if raw.strip():
            found = _object(raw.removeprefix(_BOM) if line == 1 else raw, at)
            try:
                json.dumps(found, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise SourceError(f"{at}: expected text, found half of a character (a lone surrogate).") from error
            yield line, found


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    while raw := file.readline(max_bytes + 1):
        n_bytes, kept = len(raw), raw if len(raw) <= max_bytes or raw.endswith(b"\n") else None
        while not raw.endswith(b"\n") and (raw := file.readline(max_bytes + 1)):
            n_bytes += len(raw)
        yield n_bytes, kept


def _object(raw: bytes, at: str) -> dict[str, Any]:
    try:
        found = json.loads(
            raw.decode("utf-8"),
            parse_constant=_refused,
            parse_int=str,
            parse_float=str,
            object_pairs_hook=_once,
        )
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{at}: expected a JSON object, found: {str(error)[:200]}.") from error
    if not isinstance(found, dict):
        raise SourceError(f"{at}: expected a JSON object, found {raw[:40]!a}.")
    return found


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant}, which is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key that stands twice")
    return found


def _text(value: Any, column: str, at: str) -> str:
    if isinstance(value, dict | list):
        raise SourceError(f"{at}: expected text or a number in {column!a}, found a list or an object.")
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
