"""Words of lines, as numbers."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from commbert.arrays import distinct
from commbert.text.interning import Codes, Interning


@dataclass(frozen=True)
class LineCodes:
    """Numbers of each line: line i holds ``codes[offsets[i]:offsets[i + 1]]``."""

    codes: Codes
    offsets: NDArray[np.int64]


def words_of_lines(
    lines: pa.ChunkedArray, interning: Interning, *, pattern: str, min_chars: int, max_chars: int
) -> LineCodes:
    r"""Find the words of every line, lower-cased, each once per line.

    Args:
        lines: [n] source lines.
        interning: Gives the words their codes.
        pattern: What a word is, a regular expression of Rust's regex crate (as ``\b``, ``\w``, ``\p{Han}``).
        min_chars: Shorter words are left out.
        max_chars: Longer words are left out.
    """
    found = pl.Series(lines).str.to_lowercase().str.extract_all(pattern)
    line = np.repeat(np.arange(len(found), dtype=np.uint64), found.list.len().to_numpy())
    words = found.list.explode(keep_nulls=False, empty_as_null=False)
    fit = words.str.len_chars().is_between(min_chars, max_chars)
    codes = interning.codes(words.filter(fit).to_arrow())
    keys = distinct((line[fit.to_numpy()] << np.uint64(32)) | codes)
    counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(found))
    return LineCodes(keys.astype(np.uint32), np.concatenate([[0], np.cumsum(counts)]))
