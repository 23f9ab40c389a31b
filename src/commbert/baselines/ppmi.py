"""Words by the company they keep: positive pointwise mutual information of words that share a line, decomposed."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, triu

from commbert.baselines.factors import truncated_svd, unit_rows
from commbert.baselines.vectors import WordVectors

_PRODUCTS_AT_ONCE = 4_000_000
"""Pairs of words, in both orders and with themselves, of the lines that are multiplied at once."""


class CoOccurrences:
    """Counts on how many lines two words stand together; memory follows the number of different pairs."""

    def __init__(self, n_words: int) -> None:
        self._n_words = n_words
        self._total = self._nothing()
        self._waiting: list[csr_array] = []

    def add(self, word_ids: NDArray[np.uint32], offsets: NDArray[np.int64]) -> None:
        """Count lines: line i holds the distinct words ``word_ids[offsets[i]:offsets[i + 1]]``."""
        for low, high in _chunks(offsets):
            ids = word_ids[offsets[low] : offsets[high]].astype(np.int64)
            starts = offsets[low : high + 1] - offsets[low]
            lines = csr_array((np.ones(len(ids), np.int64), ids, starts), shape=(high - low, self._n_words))
            self._waiting.append(csr_array(triu(lines.T @ lines, k=1, format="csr")))
            # Together as soon as they outnumber the total: neither do all lie here at once, nor is all added each time.
            if sum(some.nnz for some in self._waiting) > self._total.nnz + _PRODUCTS_AT_ONCE:
                self._gather()

    def counts(self) -> csr_array:
        """Return [n_words, n_words] int64, symmetric: on how many lines two words stand together; 0 on the diagonal."""
        self._gather()
        both = csr_array(self._total + self._total.T)
        both.sort_indices()
        return both

    def _gather(self) -> None:
        self._total = sum(self._waiting, self._total)
        self._waiting = []

    def _nothing(self) -> csr_array:
        return csr_array((self._n_words, self._n_words), dtype=np.int64)


def _chunks(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of lines that have some million pairs, one line at least."""
    products = np.concatenate([[0], np.cumsum(np.diff(offsets) ** 2)])
    low = 0
    while low < len(offsets) - 1:
        high = int(np.searchsorted(products, products[low] + _PRODUCTS_AT_ONCE, side="right")) - 1
        high = max(high, low + 1)
        yield low, high
        low = high


def ppmi(counts: csr_array, *, context_smoothing: float, shift: float) -> csr_array:
    """Return the shifted positive pointwise mutual information, max(PMI(w, c) - log k, 0), in nats.

    PMI(w, c) = log(#(w, c) / #(w) * sum of all #(c')^a / #(c)^a), where #(w) is the sum of a word's row.

    Args:
        counts: [n, n] #(w, c), symmetric.
        context_smoothing: a.
        shift: k.

    Returns:
        [n, n] float64, no zero stored.

    Reference: Levy, Goldberg & Dagan 2015, doi:10.1162/tacl_a_00134, sections 2.1 (PPMI) and 3.2 (shift, smoothing).
    """
    of_word = np.asarray(counts.sum(axis=1), np.float64)
    smoothed = of_word**context_smoothing
    log_word, log_context = (np.log(x, out=np.zeros_like(x), where=x > 0) for x in (of_word, smoothed))
    row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    value = np.log(counts.data) - log_word[row] - log_context[counts.indices]
    value += np.log(max(smoothed.sum(), 1.0)) - np.log(shift)
    out = csr_array((np.maximum(value, 0.0), counts.indices, counts.indptr), shape=counts.shape, copy=True)
    out.eliminate_zeros()
    return out


def ppmi_vectors(
    counts: csr_array, n_words: int, *, dims: int, context_smoothing: float, shift: float, seed: int
) -> WordVectors:
    """Return U sqrt(S) of the decomposed PPMI, at length 1.

    Args:
        counts: [n, n] on how many lines two words stand together, symmetric, for the first n of the words.
        n_words: How many words get a vector; those without a positive PMI get 0.
        dims: Dimensions at most.
        context_smoothing: As in ``ppmi``.
        shift: As in ``ppmi``.
        seed: Start of the decomposition.

    Reference: Levy, Goldberg & Dagan 2015, doi:10.1162/tacl_a_00134, section 3.3 (eigenvalue weighting p = 0.5).
    """
    matrix = ppmi(counts, context_smoothing=context_smoothing, shift=shift)
    n_entries = np.diff(matrix.indptr) + np.bincount(matrix.indices, minlength=matrix.shape[0])
    used = np.flatnonzero(n_entries)
    factors = truncated_svd(csr_array(matrix[used][:, used]), dims, seed=seed)
    rows = factors.left * np.sqrt(factors.values)
    vectors = np.zeros((n_words, len(factors.values)), np.float32)
    vectors[used] = unit_rows(rows, np.full(len(rows), np.linalg.norm(rows, axis=1).max(initial=0.0)))
    return WordVectors(vectors, factors.explained, matrix.nnz)
