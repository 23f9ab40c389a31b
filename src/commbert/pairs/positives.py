"""Positive pairs: two words of one line, drawn over the whole corpus without writing all of them down."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from commbert.known import Keys, pair_keys

Ids = NDArray[np.uint32]


@dataclass(frozen=True)
class LineWords:
    """Distinct word ids of each line; line i holds ``word_ids[offsets[i]:offsets[i + 1]]``."""

    word_ids: Ids
    offsets: NDArray[np.int64]

    @property
    def line_of_word(self) -> NDArray[np.int64]:
        """[n_words] line of each entry of ``word_ids``."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True)
class DrawnPairs:
    """Pairs and the line each was drawn from."""

    word_id_a: Ids
    word_id_b: Ids
    line: NDArray[np.int64]


def kept(lines: LineWords, keep: NDArray[np.bool_]) -> LineWords:
    """Return the lines with only the entries where ``keep`` [n_words] is true."""
    counts = np.bincount(lines.line_of_word[keep], minlength=len(lines.offsets) - 1)
    return LineWords(lines.word_ids[keep], np.concatenate([[0], np.cumsum(counts)]))


def subsampled(
    lines: LineWords, n_lines_of_word: NDArray[np.uint64], threshold: float, rng: np.random.Generator
) -> LineWords:
    """Drop an occurrence of word w with probability 1 - sqrt(threshold / f(w)).

    ``f(w)`` is the word's share of all word occurrences of the training split; a word that it lacks is kept.
    Reference: Mikolov et al. 2013, arXiv:1310.4546, eq. 5.
    """
    share = n_lines_of_word / max(int(n_lines_of_word.sum()), 1)
    keep_probability = np.sqrt(threshold / np.maximum(share, threshold))
    return kept(lines, rng.random(len(lines.word_ids)) < keep_probability[lines.word_ids])


def capped(lines: LineWords, max_words: int, rng: np.random.Generator) -> LineWords:
    """Keep ``max_words`` random words of each longer line."""
    line = lines.line_of_word
    order = np.lexsort((rng.random(len(line)), line))
    rank = np.empty(len(line), np.int64)
    rank[order] = np.arange(len(line)) - lines.offsets[:-1][line[order]]
    return kept(lines, rank < max_words)


def draw_pairs(lines: LineWords, n_pairs: int | None, rng: np.random.Generator) -> DrawnPairs:
    """Draw ``n_pairs`` of all pairs of words of one line, each equally likely, none twice; all of them if None.

    The pairs of a line with n words are numbered 0 to n(n-1)/2 - 1; a drawn number is turned back into its two words,
    so that memory follows what is drawn. Which word is the anchor is drawn too.
    """
    n_words = np.diff(lines.offsets)
    ends = np.cumsum(n_words * (n_words - 1) // 2)
    total = int(ends[-1]) if len(ends) else 0
    if n_pairs is None or n_pairs >= total:
        numbers = rng.permutation(total)
    else:
        numbers = rng.choice(total, n_pairs, replace=False)
    line = np.searchsorted(ends, numbers, side="right")
    within = numbers - np.where(line > 0, ends[np.maximum(line - 1, 0)], 0)
    i, j = _unrank(within)
    first, second = lines.word_ids[lines.offsets[line] + i], lines.word_ids[lines.offsets[line] + j]
    swap = rng.random(len(numbers)) < 0.5
    return DrawnPairs(np.where(swap, second, first), np.where(swap, first, second), line)


def _unrank(number: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Turn t into the t-th pair (i, j), i < j, of the order (0,1), (0,2), (1,2), (0,3), ..."""
    j = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) / 2).astype(np.int64)
    j = np.where(j * (j - 1) // 2 > number, j - 1, j)
    j = np.where((j + 1) * j // 2 <= number, j + 1, j)
    return number - j * (j - 1) // 2, j


def all_pair_keys(lines: LineWords) -> Keys:
    """Return the distinct unordered pairs of words that share a line, sorted."""
    keys = [np.empty(0, np.uint64)]
    n_words = np.diff(lines.offsets)
    for n in np.unique(n_words[n_words >= 2]):
        rows = lines.word_ids[lines.offsets[:-1][n_words == n][:, None] + np.arange(n)]
        keys += [np.unique(pair_keys(np.repeat(rows[:, i], n - 1 - i), rows[:, i + 1 :].ravel())) for i in range(n - 1)]
    return np.unique(np.concatenate(keys))
