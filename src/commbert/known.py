"""The set of word pairs that share a training line, as sorted 64-bit keys."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commbert import tables

Keys = NDArray[np.uint64]


def pair_keys(a: NDArray[Any] | int, b: NDArray[Any] | int) -> Keys:
    """Return one number per unordered pair (low id * 2^32 + high id); the arguments are broadcast."""
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    return np.asarray((low << np.uint64(32)) | high)


def contains(sorted_keys: Keys, keys: Keys) -> NDArray[np.bool_]:
    """Return which of ``keys``, of any shape, stand in ``sorted_keys``."""
    if not len(sorted_keys):
        return np.zeros(keys.shape, np.bool_)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[at] == keys)


class KnownPairs:
    """A set of known pairs that is asked for many pairs, few of which are in it.

    Most are told apart by one look at a table of bits (Bloom 1970, doi:10.1145/362686.362692, with one hash), and only
    the rest is searched for.
    """

    def __init__(self, sorted_keys: Keys) -> None:
        self._keys = sorted_keys
        self._shift = np.uint64(64 - max(16, len(sorted_keys).bit_length() + 4))
        self._marked = np.zeros(1 << (64 - int(self._shift)), np.bool_)
        self._marked[self._place(sorted_keys)] = True

    def __contains__(self, key: int) -> bool:
        return bool(self.has(np.array([key], np.uint64))[0])

    def has(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which of ``keys`` [n] are known."""
        found = self._marked[self._place(keys)]
        rest = np.flatnonzero(found)
        found[rest] = contains(self._keys, keys[rest])
        return found

    def _place(self, keys: Keys) -> NDArray[np.uint64]:
        # Fibonacci hashing (Knuth, The Art of Computer Programming 3, section 6.4).
        return np.asarray((keys * np.uint64(0x9E3779B97F4A7C15)) >> self._shift)


class Partners:
    """The known partners of each word, for asking which words of a batch share a training line.

    Kept with each word are its partners of lower ids, that is, more frequent ones: of those a rare word has few, and a
    frequent one cannot have many. A search for each pair of a batch would go through the whole set each time.
    """

    def __init__(self, sorted_keys: Keys, n_words: int) -> None:
        low, high = (sorted_keys >> np.uint64(32)).astype(np.uint32), sorted_keys.astype(np.uint32)
        order = np.argsort(high, kind="stable")
        self._low = low[order]
        counts = np.bincount(high, minlength=n_words)
        self._offsets = np.concatenate([[0], np.cumsum(counts)])
        self._n_words = n_words

    def among(self, words: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return [n, n], symmetric: which of these distinct words share a line in training."""
        n = self._offsets[words + 1] - self._offsets[words]
        ends = np.cumsum(n)
        at = np.repeat(self._offsets[words] - (ends - n), n)
        at += np.arange(len(at))
        place = np.zeros(self._n_words, np.int64)
        place[words] = np.arange(len(words))
        low = self._low[at]
        row, column = np.repeat(np.arange(len(words)), n), place[low]
        is_here = words[column] == low
        row, column = row[is_here], column[is_here]
        known = np.zeros((len(words), len(words)), np.bool_)
        known[row, column] = known[column, row] = True
        return known


def key_columns(keys: Keys) -> dict[str, NDArray[np.uint32]]:
    """Return the columns of the table pairs/known for sorted keys."""
    return {"word_id_a": (keys >> np.uint64(32)).astype(np.uint32), "word_id_b": keys.astype(np.uint32)}


def read_known(path: Path) -> Keys:
    """Read the table pairs/known."""
    table = tables.read(path, tables.KNOWN_PAIRS)
    return pair_keys(table["word_id_a"].to_numpy(), table["word_id_b"].to_numpy())
