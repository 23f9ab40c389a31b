"""One row of a table, filled into its template."""

from collections.abc import Mapping
from dataclasses import dataclass

from commbert.corpus.templates import RowTemplate

TOO_LARGE = "too large"
NOT_UTF8 = "not UTF-8"


@dataclass(frozen=True)
class Row:
    """A row; ``data`` is None where ``reason`` says why it was not read."""

    number: int
    """The first row after the header is 1."""
    n_bytes: int
    data: bytes | None
    reason: str = ""
    split: str = ""
    """Where its table says that it belongs; empty if it does not."""


def filled_row(number: int, template: RowTemplate, row: Mapping[str, str], max_bytes: int, where: str) -> Row:
    """Return the row as text: too large, or with half a character (JSON can hold such), it is not read.

    Args:
        number: Of the row; the first is 1.
        template: What is asked of the row.
        row: Its cells by column.
        max_bytes: Of the text.
        where: The table and the row's line, for messages.

    Raises:
        SourceError: If its split is none.
    """
    split, text = template.split_of(row, where), template.filled(row)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return Row(number, len(text), None, NOT_UTF8)
    if len(data) > max_bytes:
        return Row(number, len(data), None, TOO_LARGE)
    return Row(number, len(data), data, split=split)
