"""Lines to pre-tokens, the pieces of text inside which WordPiece works.

For lines of printable ASCII, BERT's normalizer and pre-tokenizer are one rule: runs of letters and digits, and every
other visible character alone. That rule is applied to all bytes of many lines at once; every other line goes through
the tokenizer's own normalizer and pre-tokenizer.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from commbert.arrays import distinct
from commbert.text.interning import Interning
from commbert.text.words import LineCodes
from commbert.tokenization.encoding import is_lower_case

_SPACE, _LETTER, _SIGN, _OTHER = 0, 1, 2, 3
_KIND = np.full(256, _OTHER, np.uint8)
_KIND[33:127] = _SIGN
_KIND[[ord(c) for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"]] = _LETTER
_KIND[[ord(" "), ord("\t")]] = _SPACE
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[65:91] += 32


class Lexer:
    """Cuts lines into pre-tokens for one tokenizer, and numbers them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.interning = Interning()
        self._tokenizer = tokenizer
        self._byte = _LOWER if is_lower_case(tokenizer) else np.arange(256, dtype=np.uint8)

    def lex(self, lines: pa.ChunkedArray) -> LineCodes:
        """Return the codes of the pre-tokens of each line, in order, exactly as the tokenizer would cut it."""
        lines = lines.combine_chunks() if isinstance(lines, pa.ChunkedArray) else lines
        data, bounds = _buffers(lines)
        kind = _KIND[data]
        special = _rows_with(kind == _OTHER, bounds)
        for row in special:
            kind[bounds[row] : bounds[row + 1]] = _SPACE
        first, stop = _pieces(kind, bounds)
        codes = self._codes(data, kind, first, stop)
        offsets = np.searchsorted(first, bounds)
        if not len(special):
            return LineCodes(codes, offsets)
        return self._with_others(codes, offsets, special, lines)

    def _codes(
        self, data: NDArray[np.uint8], kind: NDArray[np.uint8], first: NDArray[np.int64], stop: NDArray[np.int64]
    ) -> NDArray[np.uint32]:
        letters = self._byte[data[kind == _LETTER]]
        is_run = kind[first] == _LETTER
        run_offsets = np.concatenate([[0], np.cumsum((stop - first)[is_run])]).astype(np.int64)
        runs = pa.LargeStringArray.from_buffers(int(is_run.sum()), pa.py_buffer(run_offsets), pa.py_buffer(letters))
        codes = np.empty(len(first), np.uint32)
        codes[is_run] = self.interning.codes(runs)
        signs = data[first[~is_run]]
        present = np.flatnonzero(np.bincount(signs, minlength=256))
        code_of_sign = np.zeros(256, np.uint32)
        code_of_sign[present] = self.interning.codes_of([chr(s) for s in present])
        codes[~is_run] = code_of_sign[signs]
        return codes

    def _with_others(
        self, codes: NDArray[np.uint32], offsets: NDArray[np.int64], special: NDArray[np.int64], lines: pa.Array
    ) -> LineCodes:
        """Put the pre-tokens of the special lines between those of the plain ones."""
        normalizer, pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        texts = lines.take(pa.array(special)).to_pylist()
        cut = [[p for p, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))] for text in texts]
        n_own = np.array([len(pieces) for pieces in cut], np.int64)
        n = np.diff(offsets)
        n[special] = n_own
        new_offsets = np.concatenate([[0], np.cumsum(n)])
        is_own = np.zeros(len(lines), np.bool_)
        is_own[special] = True
        of_own = np.repeat(is_own, n)
        out = np.empty(int(new_offsets[-1]), np.uint32)
        out[~of_own] = codes
        out[of_own] = self.interning.codes_of([piece for pieces in cut for piece in pieces])
        return LineCodes(out, new_offsets)


def _buffers(lines: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the bytes of all lines end to end, and [n + 1] where each begins."""
    lines = lines.cast(pa.large_string())
    _, offsets, data = lines.buffers()
    bounds = np.frombuffer(offsets, np.int64)[lines.offset : lines.offset + len(lines) + 1]
    if data is None or not len(bounds):
        return np.empty(0, np.uint8), np.zeros(len(lines) + 1, np.int64)
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]], bounds - bounds[0]


def _rows_with(mark: NDArray[np.bool_], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    at = np.flatnonzero(mark)
    return distinct(np.searchsorted(bounds, at, side="right") - 1)


def _pieces(kind: NDArray[np.uint8], bounds: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each pre-token begins and ends: a run of letters within a line, or a sign."""
    is_letter = kind == _LETTER
    before = np.empty_like(is_letter)
    before[:1], before[1:] = False, is_letter[:-1]
    inner = bounds[(bounds > 0) & (bounds < len(kind))]
    before[inner] = False
    first = np.flatnonzero((is_letter & ~before) | (kind == _SIGN))
    after = np.empty_like(is_letter)
    after[-1:], after[:-1] = False, is_letter[1:]
    after[inner - 1] = False
    stop = np.flatnonzero((is_letter & ~after) | (kind == _SIGN)) + 1
    return first, stop
