"""Sentence pairs for next-sentence prediction: a group of lines, and the lines that follow it or others.

A sentence is a window here. Nothing is stored: which pairs a step reads is a function of (seed, epoch, window).

Reference: Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 2.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from commbert import counters

Ints = NDArray[np.int64]
IS_NEXT, IS_RANDOM = 0, 1
"""Labels, as transformers' BertForPreTraining has them."""


@dataclass(frozen=True)
class SentencePairs:
    """Rows of windows, side by side."""

    first: Ints
    second: Ints
    label: Ints
    """``IS_NEXT`` or ``IS_RANDOM``."""

    def __len__(self) -> int:
        return len(self.first)

    @property
    def rows(self) -> Ints:
        """[2 n] first and second of each pair, one after the other."""
        return np.stack([self.first, self.second], axis=1).reshape(-1)

    def chosen(self, numbers: Ints) -> "SentencePairs":
        """Return some of the pairs, by their numbers."""
        return SentencePairs(self.first[numbers], self.second[numbers], self.label[numbers])


@dataclass(frozen=True)
class Documents:
    """Which window follows which; the windows of a file lie beside each other, in the order of their centres."""

    file_start: Ints
    """[n_windows] first window of the window's file."""
    file_size: Ints
    """[n_windows] windows of its file."""
    following: Ints
    """[n_windows] the next window of the file that shares no token with this one; -1: none."""

    @classmethod
    def of(cls, file_id: Ints, first: Ints, last: Ints) -> "Documents":
        """Find what follows.

        Args:
            file_id: [n_windows] the windows of a file stand beside each other.
            first: [n_windows] place in the file (of a token, or a line) at which the window begins.
            last: [n_windows] the last place that it holds.
        """
        n = len(file_id)
        starts = np.flatnonzero(np.concatenate([[True], file_id[1:] != file_id[:-1]])) if n else np.empty(0, np.int64)
        sizes = np.diff(np.concatenate([starts, [n]]))
        start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
        # A key that never falls: files are numbered as they come, and a window counts as beginning where it or any
        # later one of its file does (windows that lost their first lines may begin after the next one).
        file_no = np.repeat(np.arange(len(starts)), sizes) << 40
        begins = np.minimum.accumulate((file_no + first)[::-1])[::-1]
        at = np.searchsorted(begins, file_no + last, side="right")
        return cls(start, size, np.where(at < start + size, at, -1))

    @cached_property
    def firsts(self) -> Ints:
        """Windows that another one follows."""
        return np.flatnonzero(self.following >= 0)

    @property
    def gives_pairs(self) -> bool:
        """Whether there is a pair of each kind: a window that another one follows, and another file."""
        return bool(len(self.firsts)) and int(self.file_size[0]) < len(self.file_size)

    def pairs(self, first: Ints, epoch: Ints, *, seed: int) -> SentencePairs:
        """Give each window a second one: half of them what follows, half a window of another file, evenly drawn.

        Args:
            first: [n] windows of ``firsts``.
            epoch: [n] another draw in each.
            seed: Another draw for each.
        """
        index = (epoch.astype(np.uint64) << np.uint64(40)) + first.astype(np.uint64)
        is_random = counters.uniform(counters.key(seed, "next sentence"), index) < 0.5
        size = self.file_size[first]
        n_others = (len(self.following) - size).astype(np.uint64)
        draw = counters.bits(counters.key(seed, "random sentence"), index) % np.maximum(n_others, np.uint64(1))
        other = draw.astype(np.int64)
        other += np.where(other >= self.file_start[first], size, 0)
        label = np.where(is_random, IS_RANDOM, IS_NEXT)
        return SentencePairs(first, np.where(is_random, other, self.following[first]), label)
