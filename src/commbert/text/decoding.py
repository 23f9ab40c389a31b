"""Bytes to lines of text; what is no text is said so, never guessed into letters."""

import codecs
from dataclasses import dataclass

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\v\b\x1b"))
_MAX_CONTROL_SHARE = 0.01


@dataclass(frozen=True)
class Decoded:
    """The text of a file and the encoding it was read in; ``text`` is None for a binary file."""

    text: str | None
    encoding: str


def decode(data: bytes) -> Decoded:
    """Decode by byte order mark, else as strict UTF-8, else as Latin-1 (every byte kept).

    NUL bytes without a mark, or more than 1 % control characters in what is not UTF-8, mean a binary file.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return Decoded(data[len(mark) :].decode(encoding), encoding)
            except UnicodeDecodeError:
                return Decoded(None, "binary")
    if b"\0" in data:
        return Decoded(None, "binary")
    try:
        return Decoded(data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        n_control = len(data) - len(data.translate(None, _CONTROL))
        if n_control > _MAX_CONTROL_SHARE * len(data):
            return Decoded(None, "binary")
        return Decoded(data.decode("latin-1"), "latin-1")


def split_lines(text: str) -> list[str]:
    r"""Split at ``\n``, ``\r\n`` and ``\r`` only; form feeds and Unicode separators stay inside a line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    return lines
