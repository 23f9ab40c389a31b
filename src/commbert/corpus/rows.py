"""One row of a table, filled into its template."""

from dataclasses import dataclass

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


def filled_row(number: int, text: str, max_bytes: int) -> Row:
    """Return the row of a text: too large, or with half a character (JSON can hold such), it is not read."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return Row(number, len(text), None, NOT_UTF8)
    return Row(number, len(data), None, TOO_LARGE) if len(data) > max_bytes else Row(number, len(data), data)
