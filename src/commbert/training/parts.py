"""Micro-batches: the sequences of a step, packed; windows (or pairs of them) first, then words."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from commbert.nn.encoder import Reading
from commbert.nn.masking import MaskedTokens
from commbert.nn.measures import packed_places
from commbert.nn.packing import Packed, Run, full_lengths, pack, runs_of
from commbert.training.context import Context

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class WindowBatch:
    """The sequences of a step that have hidden tokens, from long to short: windows, or pairs of them with NSP."""

    rows: Ints
    """[n] rows of the windows; of pairs, of the first ones."""
    masked: MaskedTokens
    lengths: Ints
    """[n] tokens without specials."""
    first_lengths: Ints | None
    """[n] tokens of the first sentence; None: there are no pairs."""
    labels: Ints | None
    """[n] whether the second sentence follows (0) or is of another file (1)."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Part:
    """A micro-batch of this process."""

    number: int
    """Among all parts of the step, whoever computes them."""
    packed: Packed
    reading: Reading
    word_runs: tuple[Run, ...]
    """Where the words' tokens lie among the hidden states that are read."""
    is_held: bool
    """Its graph is kept until all words of the step are encoded, here and in the other processes."""


@dataclass(frozen=True)
class PartMaker:
    """Packs the sequences of a step."""

    context: Context
    windows: WindowBatch
    word_ids: Ints
    word_lengths: Ints
    is_even: bool
    trains_head_only: bool

    def part(self, number: int, start: int, stop: int, *, is_held: bool) -> Part | None:
        """Pack the sequences from start to stop: windows first, then words; None if there is none."""
        if start == stop:
            return None
        batch, n_windows = self.windows, len(self.windows)
        windows, words = slice(start, min(stop, n_windows)), slice(max(start - n_windows, 0), max(stop - n_windows, 0))
        lengths, word_lengths = batch.lengths[windows], self.word_lengths[words]
        first = None if batch.first_lengths is None else batch.first_lengths[windows]
        ends = np.concatenate([[0], np.cumsum(batch.lengths)])
        tokens = slice(ends[min(start, n_windows)], ends[min(stop, n_windows)])
        word_tokens = self.context.data.words.joined(self.word_ids[words], word_lengths)
        hidden = slice(*np.searchsorted(batch.masked.positions, [tokens.start, tokens.stop]))
        places, _ = packed_places(lengths, batch.masked.positions[hidden] - tokens.start, first)
        full_windows, full = full_lengths(lengths, first), full_lengths(word_lengths)
        first_word = int(full_windows.sum())
        if self.context.pooling == "cls":
            read, runs = first_word + np.cumsum(full) - full, runs_of(np.ones_like(full))
        else:
            read, runs = first_word + np.arange(full.sum()), runs_of(full)
        heads = np.empty(0, np.int64) if first is None else np.cumsum(full_windows) - full_windows
        return Part(
            number=number,
            packed=pack(
                np.concatenate([batch.masked.input_ids[tokens], word_tokens]),
                np.concatenate([lengths, word_lengths]),
                self.context.specials,
                None if first is None else np.concatenate([first, word_lengths]),
            ),
            reading=self._reading(
                np.concatenate([places, heads, read]),
                batch.masked.labels[hidden],
                None if batch.labels is None else batch.labels[windows],
            ),
            word_runs=runs,
            is_held=is_held,
        )

    def empty(self, number: int, *, is_held: bool) -> Part:
        """Return a part of one empty sequence, of which nothing is read but its first token, for nobody."""
        nothing = np.empty(0, np.int64)
        packed = pack(nothing, np.zeros(1, np.int64), self.context.specials)
        nsp_labels = None if self.windows.labels is None else nothing
        return Part(number, packed, self._reading(np.zeros(1, np.int64), nothing, nsp_labels), (), is_held)

    def _reading(self, tokens: Ints, labels: Ints, nsp_labels: Ints | None) -> Reading:
        is_stand_in = self.is_even and not len(labels)
        if is_stand_in:
            # Where weights are sharded, all processes use the same ones at the same time.
            labels = np.zeros(1, np.int64)
            nsp_labels = None if nsp_labels is None else labels
        return Reading(
            tokens=torch.from_numpy(tokens),
            labels=torch.from_numpy(labels),
            nsp_labels=None if nsp_labels is None else torch.from_numpy(nsp_labels),
            is_stand_in=is_stand_in,
            trains_head_only=self.trains_head_only,
        )
