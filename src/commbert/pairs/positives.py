"""Positive pairs: two words of one line, each with a random priority, so that the lowest are a sample of all.

Priorities and everything else that is random here are functions of (seed, file, line, words): which pairs are drawn
does not depend on the order or the number of shards.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commbert import counters
from commbert.known import Keys, pair_keys

Ids = NDArray[np.uint32]
Ints = NDArray[np.int64]
_PAIRS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class LineWords:
    """Distinct word ids of lines, ascending; line i holds ``word_ids[offsets[i]:offsets[i + 1]]``."""

    word_ids: Ids
    offsets: Ints
    line: NDArray[np.uint64]
    """[n_lines] a number of each line that no other line of the corpus has: file_id * 2^32 + line_no."""

    @property
    def row_of_word(self) -> Ints:
        """[n_words] row of the line of each entry of ``word_ids``."""
        return np.repeat(np.arange(len(self.line)), np.diff(self.offsets))


@dataclass(frozen=True)
class DrawnPairs:
    """Pairs of words, ``word_id_a < word_id_b``, with the line and the priority of each."""

    word_id_a: Ids
    word_id_b: Ids
    line: NDArray[np.uint64]
    priority: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.line)

    @property
    def keys(self) -> Keys:
        """[n] one number for each pair of words."""
        return pair_keys(self.word_id_a, self.word_id_b)

    def chosen(self, which: NDArray[np.bool_] | Ints) -> "DrawnPairs":
        """Return some of the pairs."""
        return DrawnPairs(*(column[which] for column in vars(self).values()))

    def by_line(self) -> "DrawnPairs":
        """Return the pairs in the order of their lines and words."""
        return self.chosen(np.lexsort((self.word_id_b, self.word_id_a, self.line)))

    def anchors_and_positives(self) -> tuple[Ids, Ids]:
        """Return the two words of each pair, in an order that the priority decides."""
        swap = self.priority & np.uint64(1) == 1
        a, b = self.word_id_a, self.word_id_b
        return np.where(swap, b, a), np.where(swap, a, b)


NO_PAIRS = DrawnPairs(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.uint64), np.empty(0, np.uint64))


def joined(parts: list[DrawnPairs]) -> DrawnPairs:
    """Return the pairs of all parts."""
    parts = [NO_PAIRS, *parts]
    return DrawnPairs(*(np.concatenate([getattr(p, name) for p in parts]) for name in vars(NO_PAIRS)))


def line_words(codes: Ids, offsets: Ints, line: NDArray[np.uint64]) -> LineWords:
    """Return the lines with their word ids in ascending order."""
    row = np.repeat(np.arange(len(line), dtype=np.uint64), np.diff(offsets))
    keys = np.sort(row << np.uint64(32) | codes)
    return LineWords(keys.astype(np.uint32), offsets, line)


def kept(lines: LineWords, keep: NDArray[np.bool_]) -> LineWords:
    """Return the lines with only the entries where ``keep`` [n_words] is true."""
    counts = np.bincount(lines.row_of_word[keep], minlength=len(lines.line))
    return LineWords(lines.word_ids[keep], np.concatenate([[0], np.cumsum(counts)]), lines.line)


def rows_of(lines: LineWords, chosen: NDArray[np.bool_]) -> LineWords:
    """Return some of the lines."""
    counts = np.diff(lines.offsets)
    offsets = np.concatenate([[0], np.cumsum(counts[chosen])])
    return LineWords(lines.word_ids[np.repeat(chosen, counts)], offsets, lines.line[chosen])


def subsampled(lines: LineWords, keep_probability: NDArray[np.float64], seed: int) -> LineWords:
    """Drop an occurrence of word w with probability 1 - ``keep_probability[w]``."""
    share = keep_probability[lines.word_ids]
    at = np.flatnonzero(share < 1.0)
    word, line = lines.word_ids[at].astype(np.uint64), lines.line[lines.row_of_word[at]]
    number = counters.uniform(counters.key(seed, "subsample"), counters.mixed(line) + word)
    keep = np.ones(len(share), np.bool_)
    keep[at] = number < share[at]
    return kept(lines, keep)


def keep_probabilities(n_lines_of_word: NDArray[np.uint64], threshold: float) -> NDArray[np.float64]:
    """Return sqrt(threshold / f(w)), at most 1, where f(w) is the word's share of all word occurrences.

    Reference: Mikolov et al. 2013, arXiv:1310.4546, eq. 5.
    """
    share = n_lines_of_word / max(int(n_lines_of_word.sum()), 1)
    return np.sqrt(threshold / np.maximum(share, threshold))


def capped(lines: LineWords, max_words: int, seed: int) -> LineWords:
    """Keep ``max_words`` random words of each longer line."""
    counts = np.diff(lines.offsets)
    if not (counts > max_words).any():
        return lines
    row = lines.row_of_word
    number = counters.bits(
        counters.key(seed, "cap"), counters.mixed(lines.line[row]) + lines.word_ids.astype(np.uint64)
    )
    order = np.lexsort((number, row))
    rank = np.empty(len(row), np.int64)
    rank[order] = np.arange(len(row)) - lines.offsets[:-1][row[order]]
    return kept(lines, rank < max_words)


def all_pairs(lines: LineWords) -> Iterator[tuple[Ids, Ids, NDArray[np.uint64]]]:
    """Yield all pairs of words that share a line, with its number, a million or so at once."""
    counts = np.diff(lines.offsets)
    for n in np.flatnonzero(np.bincount(counts[counts >= 2])):
        i, j = np.triu_indices(int(n), 1)
        rows = np.flatnonzero(counts == n)
        step = max(_PAIRS_AT_ONCE // len(i), 1)
        for at in range(0, len(rows), step):
            some = rows[at : at + step]
            words = lines.word_ids[lines.offsets[some][:, None] + np.arange(n)]
            yield words[:, i].ravel(), words[:, j].ravel(), np.repeat(lines.line[some], len(i))


def with_priorities(a: Ids, b: Ids, line: NDArray[np.uint64], seed: int) -> DrawnPairs:
    """Give each pair of a line a random number of its own."""
    stream = counters.key(seed, "pairs")
    return DrawnPairs(a, b, line, counters.bits(stream, counters.mixed(line) ^ pair_keys(a, b)))


def lowest(pairs: DrawnPairs, n: int | None) -> DrawnPairs:
    """Return the ``n`` pairs of the lowest priorities; all of them for None."""
    if n is None or len(pairs) <= n:
        return pairs
    return pairs.chosen(np.argpartition(pairs.priority, n - 1)[:n])


def distinct(pairs: DrawnPairs) -> DrawnPairs:
    """Keep of each pair of words the occurrence of the lowest priority."""
    order = np.lexsort((pairs.priority, pairs.keys))
    keys = pairs.keys[order]
    return pairs.chosen(order[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(order) else order)


class Sample:
    """The ``n`` pairs of the lowest priorities of all that were added; memory follows n."""

    def __init__(self, n: int, *, of_distinct: bool) -> None:
        self._n, self._of_distinct = n, of_distinct
        self._parts: list[DrawnPairs] = []
        self._n_waiting = 0
        self._highest = np.uint64(2**64 - 1)

    def add(self, pairs: DrawnPairs) -> None:
        """Add pairs."""
        pairs = pairs.chosen(pairs.priority <= self._highest)
        self._parts.append(pairs)
        self._n_waiting += len(pairs)
        if self._n_waiting > 2 * self._n + _PAIRS_AT_ONCE:
            self._parts = [self.taken()]
            self._n_waiting = len(self._parts[0])

    def taken(self) -> DrawnPairs:
        """Return the sample."""
        pairs = joined(self._parts)
        found = lowest(distinct(pairs) if self._of_distinct else pairs, self._n)
        if len(found) == self._n and self._n:
            self._highest = found.priority.max()
        return found
