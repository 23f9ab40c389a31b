"""Words of lines, as numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import regex

Offsets = np.ndarray[tuple[int], np.dtype[np.int64]]
Codes = np.ndarray[tuple[int], np.dtype[np.int32]]


@dataclass(frozen=True)
class WordLines:
    """Distinct words of each line, in order of appearance; line i holds ``codes[offsets[i]:offsets[i + 1]]``."""

    vocabulary: list[str]
    """Lower-case words by code, in order of first appearance."""
    codes: Codes
    offsets: Offsets


def words_of_lines(lines: Iterable[str], *, pattern: str, min_chars: int, max_chars: int) -> WordLines:
    """Find the words of every line, lower-cased, each once per line.

    Args:
        lines: Source lines.
        pattern: Regular expression of a word.
        min_chars: Shorter words are left out.
        max_chars: Longer words are left out.
    """
    find = regex.compile(pattern).finditer
    code_of: dict[str, int] = {}
    codes: list[int] = []
    offsets = [0]
    for line in lines:
        words = dict.fromkeys(m[0] for m in find(line.lower()) if min_chars <= len(m[0]) <= max_chars)
        codes += [code_of.setdefault(w, len(code_of)) for w in words]
        offsets.append(len(codes))
    return WordLines(list(code_of), np.array(codes, np.int32), np.array(offsets, np.int64))
