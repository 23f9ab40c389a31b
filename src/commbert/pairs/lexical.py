"""Words that share a sub-word: ``pusch_config`` and ``pusch_symbols`` share ``pusch``.

As negatives they are told from an anchor's partners by what they mean, not by how they are spelt.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from commbert import counters
from commbert.arrays import distinct
from commbert.known import KnownPairs
from commbert.pairs.negatives import NO_WORD, Draws, first_valid
from commbert.pairs.positives import Ids, Ints

_SUB_WORD = r"[\p{L}\p{M}]{2,}|\p{N}{2,}"
"""Runs of letters or of digits: ``_`` and the change from letters to digits are where a name is put together."""


class SubWords:
    """The sub-words of words, and the words of sub-words."""

    def __init__(self, words: pl.Series | Sequence[str], pool: Ids) -> None:
        """Take words apart.

        Args:
            words: [n_words] word i has id i.
            pool: Ids of the words that may be drawn, each once; any word may be an anchor.
        """
        word, part, n_parts = words_and_parts(pl.Series("word", words, dtype=pl.String))
        in_pool = np.zeros(len(words), np.bool_)
        in_pool[pool] = True
        drawable = in_pool[word]
        self._word_counts = np.bincount(part[drawable], minlength=n_parts)
        self._word_starts = _starts(self._word_counts)
        order = np.argsort(part[drawable], kind="stable")
        self._words: Ids = word[drawable][order].astype(np.uint32)
        # A part that no other word of the pool has leads nowhere.
        shared = self._word_counts[part] - drawable > 0
        self._parts = part[shared]
        self._part_counts = np.bincount(word[shared], minlength=len(words))
        self._part_starts = _starts(self._part_counts)

    def candidates(
        self, anchor: Ids, positive: Ids, known: KnownPairs, draws: Draws, *, n: int = 1, kind: str = "lexical"
    ) -> Ids:
        """Draw words that share a sub-word with their anchor: a random one of its sub-words, a random word of that.

        None is the anchor, its positive, or on a line with the anchor; an anchor's words are distinct.

        Args:
            anchor: [m] first words.
            positive: [m] second words.
            known: Pairs that share a line.
            draws: What the draws are functions of.
            n: Words per anchor.
            kind: Draws of different kinds are independent.

        Returns:
            [m, n] word ids; ``NO_WORD`` where the anchor shares no sub-word, or 64 draws found none.
        """
        out = np.full((len(anchor), n), NO_WORD, np.uint32)
        for i in range(n):

            def draw(todo: Ints, attempt: int, stream: str = f"{kind} {i}") -> Ids:
                return self._drawn(anchor[todo], draws.number[todo], draws.seed, stream, attempt)

            out[:, i] = first_valid(draw, anchor, positive, known, taken=out[:, :i])
        return out

    def _drawn(self, anchor: Ids, number: NDArray[np.uint64], seed: int, stream: str, attempt: int) -> Ids:
        """Return a word of each anchor's sub-words, perhaps the anchor itself."""
        out = np.full(len(anchor), NO_WORD, np.uint32)
        some = np.flatnonzero(self._part_counts[anchor])
        at = anchor[some]
        which = counters.bits(counters.key(seed, stream, "sub-word", attempt), number[some])
        part = self._parts[self._part_starts[at] + _below(which, self._part_counts[at])]
        which = counters.bits(counters.key(seed, stream, "word", attempt), number[some])
        out[some] = self._words[self._word_starts[part] + _below(which, self._word_counts[part])]
        return out


def sub_word_matrix(words: pl.Series | Sequence[str]) -> csr_array:
    """Return [n_words, n_sub_words] 1 where a word holds a sub-word."""
    word, part, n_parts = words_and_parts(pl.Series("word", words, dtype=pl.String))
    return coo_array((np.ones(len(word), np.int32), (word, part)), shape=(len(words), n_parts)).tocsr()


def words_and_parts(words: pl.Series) -> tuple[Ints, Ints, int]:
    """Return all (word id, number of a sub-word of it), sorted, each once; and how many sub-words there are."""
    found = words.str.to_lowercase().str.extract_all(_SUB_WORD)
    word = np.repeat(np.arange(len(words), dtype=np.uint64), found.list.len().to_numpy())
    parts = found.list.explode(keep_nulls=False, empty_as_null=False)
    number = parts.rank("dense").to_numpy().astype(np.uint64)
    keys = distinct((word << np.uint64(32)) | number)
    part = keys.astype(np.uint32).astype(np.int64) - 1
    return (keys >> np.uint64(32)).astype(np.int64), part, int(part.max(initial=-1)) + 1


def _starts(counts: Ints) -> Ints:
    return np.cumsum(counts) - counts


def _below(bits: NDArray[np.uint64], n: Ints) -> Ints:
    return (bits % n.astype(np.uint64)).astype(np.int64)
