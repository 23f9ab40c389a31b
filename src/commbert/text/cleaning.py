"""What is in a file besides source that someone wrote: generated code, tables of numbers, the header of a licence."""

import re
from collections.abc import Sequence

from commbert.text.comments import without_comments
from commbert.text.languages import says_generated

# -- Tables of numbers -------------------------------------------------------------------------------------------------

MIN_TABLE_CHARS = 4000
"""A shorter file is never called a table: nothing is won by dropping it."""
MIN_TABLE_SHARE = 0.9
"""A file is a table if this share of its characters, comments and space apart, stands in lines of numbers."""
_NUMBER_LINE = re.compile(
    r"^[ \t]*+[-+.{}()\[\]\"'\\0-9][-+0-9a-fA-FxXuUlLjJ \t\f,;:|{}()\[\]\"'.\\*]*+$", re.MULTILINE
)
_MIN_DIGIT_SHARE = 0.15
_SPACE = str.maketrans("", "", " \t\n\f")


def why_not_source(lines: Sequence[str], language: str) -> str:
    """Return why the lines of a file are not source text: ``generated``, ``table of numbers``, or nothing."""
    if says_generated(lines):
        return "generated"
    return "table of numbers" if _is_table(lines, language) else ""


def _is_table(lines: Sequence[str], language: str) -> bool:
    text = "\n".join(lines)
    # A look at one line in 16 settles it for nearly every file; digits are a sixth of a table at least (0xff, 0xfe).
    sample = "".join(lines[:: max(1, len(lines) // 64)])
    if len(text) < MIN_TABLE_CHARS or 2 * _n_digits(sample) < _MIN_DIGIT_SHARE * len(sample.translate(_SPACE)):
        return False
    code = without_comments(text, language)
    rows = [m[0] for m in _NUMBER_LINE.finditer(code)]
    numbers = "".join(rows).translate(_SPACE)
    n_chars = len(code.translate(_SPACE))
    return len(numbers) >= MIN_TABLE_SHARE * n_chars and _n_digits(numbers) >= _MIN_DIGIT_SHARE * len(numbers)


def _n_digits(text: str) -> int:
    return sum(map(text.count, "0123456789"))


# -- Headers of licences -----------------------------------------------------------------------------------------------

_LICENCE = re.compile(
    r"copyright|\(c\) (?:19|20)\d\d|©|spdx-|licen[cs]ed? |"
    r"licen[cs]es?\b.{0,40}\b(?:agreement|version|terms|mit|bsd|apache|gpl)|"
    r"\b[al]?gpl(?:v?\d|\b)|all rights reserved|redistribution and use|permission is hereby granted|"
    r"without (?:any )?warrant|warranty of|public domain",
    re.IGNORECASE,
)
_SIMPLE_FIRST_LINE = re.compile(r"#!|#.*coding[:=]|\s*$|<\?php\s*$|#.*(?:-\*-|vim:)")
_FIRST_WINDOW = 64


def licence_header(lines: Sequence[str], language: str) -> tuple[int, int]:
    """Return the lines (first, one after the last) of the leading comments that state a licence; (0, 0) if none does.

    A file may begin with several comments, apart by blank lines or by their marks. The range runs from the first to the
    last one that states a licence or a copyright. It never holds code, nor a shebang or coding line before it.
    """
    blocks = _leading_comments(lines, language)
    stating = [(a, b) for a, b in blocks if any(_LICENCE.search(line) for line in lines[a:b])]
    return (stating[0][0], stating[-1][1]) if stating else (0, 0)


def _leading_comments(lines: Sequence[str], language: str) -> list[tuple[int, int]]:
    """Return the ranges of comment lines before the first line of code, apart by blank lines or ends of comments."""
    window = _FIRST_WINDOW
    while True:
        head = "\n".join(lines[:window])
        code = without_comments(head, language).split("\n")
        n = next((i for i, line in enumerate(code) if line.strip()), len(code))
        if n < len(code) or window >= len(lines):
            break
        window *= 4
    n = min(n, len(lines))
    blocks: list[tuple[int, int]] = []
    begin: int | None = None
    for i in range(n + 1):
        ends = i == n or not lines[i].strip() or _SIMPLE_FIRST_LINE.match(lines[i]) is not None
        if begin is not None and (ends or "*/" in lines[i - 1]):
            blocks.append((begin, i))
            begin = None
        if not ends and begin is None:
            begin = i
    return blocks
