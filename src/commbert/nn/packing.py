"""Sequences of different lengths laid end to end in one row of tokens, so that nothing is padded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
Ints = NDArray[np.int64]
TokenSequence = Sequence[int] | Ints
"""Token ids of one text, without [CLS] and [SEP]."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True)
class Run:
    """Neighbouring sequences of one length."""

    start: int
    """First token."""
    n_sequences: int
    length: int
    """Tokens of each."""

    @property
    def stop(self) -> int:
        """First token after the run."""
        return self.start + self.n_sequences * self.length


@dataclass(frozen=True)
class Packed:
    """Sequences end to end, each from [CLS] to [SEP]; of two sentences, a [SEP] stands between them too."""

    input_ids: Int[Tensor, "t"]
    position_ids: Int[Tensor, "t"]
    segment_ids: Int[Tensor, "t"]
    offsets: Int[Tensor, "n_plus_1"]
    """int32, cumulative lengths from 0, on the tokens' device."""
    runs: tuple[Run, ...]
    """Known to the host; fewest if the sequences are sorted by length."""
    longest: int
    """Tokens of the longest sequence, known to the host."""

    def to(self, device: torch.device) -> "Packed":
        """Return a copy on a device."""
        return on_tensors(self, lambda t: t.to(device))


def on_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """Return a copy in which every tensor of a dataclass, also of those within it, is changed."""
    if isinstance(value, Tensor):
        return change(value)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(on_tensors(v, change) for v in value)  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        new: T = replace(value, **{f.name: on_tensors(getattr(value, f.name), change) for f in fields(value)})
        return new
    return value


def runs_of(lengths: Ints) -> tuple[Run, ...]:
    """Return the runs of equal length of sequences that lie end to end."""
    if not len(lengths):
        return ()
    first = np.flatnonzero(np.diff(lengths, prepend=-1))
    starts = (np.cumsum(lengths) - lengths)[first]
    counts = np.diff(np.append(first, len(lengths)))
    return tuple(Run(int(s), int(n), int(lengths[f])) for s, n, f in zip(starts, counts, first, strict=True))


def full_lengths(lengths: Ints, first_lengths: Ints | None = None) -> Ints:
    """Return [n] tokens of each sequence with its special tokens; arguments as in ``pack``."""
    return lengths + 2 if first_lengths is None else lengths + 2 + (first_lengths < lengths)


def pack(values: Ints, lengths: Ints, specials: SpecialIds, first_lengths: Ints | None = None) -> Packed:
    """Put [CLS] and [SEP] around each of the sequences that lie end to end in ``values``.

    Args:
        values: [n_tokens] ids without specials.
        lengths: [n] ids of each sequence; 0 is allowed.
        specials: Ids of the special tokens.
        first_lengths: [n] how many of them are the first of two sentences: a [SEP] follows them too, and what comes
            after it has segment id 1; as many as ``lengths`` where there is one sentence. None: there always is one.
    """
    full = full_lengths(lengths, first_lengths)
    ends = np.cumsum(full)
    starts = ends - full
    ids = np.empty(int(full.sum()), np.int64)
    positions = np.arange(len(ids)) - np.repeat(starts, full)
    is_word = np.ones(len(ids), np.bool_)
    is_word[starts] = False
    is_word[ends - 1] = False
    ids[starts] = specials.cls
    ids[ends - 1] = specials.sep
    segments = np.zeros(len(ids), np.int64)
    if first_lengths is not None:
        inner = (starts + 1 + first_lengths)[first_lengths < lengths]
        is_word[inner] = False
        ids[inner] = specials.sep
        segments[positions > np.repeat(first_lengths + 1, full)] = 1
    ids[is_word] = values
    return Packed(
        input_ids=torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        segment_ids=torch.from_numpy(segments),
        offsets=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        runs=runs_of(full),
        longest=int(full.max(initial=0)),
    )


def pack_sequences(sequences: Sequence[TokenSequence], specials: SpecialIds) -> Packed:
    """Pack sequences that are still apart."""
    lengths = np.array([len(s) for s in sequences], np.int64)
    values = np.concatenate([np.asarray(s, np.int64) for s in sequences]) if lengths.sum() else np.empty(0, np.int64)
    return pack(values, lengths, specials)


def batches_by_length(lengths: Ints, batch_tokens: int) -> list[Ints]:
    """Return the numbers of sequences in batches, the longest first, so that little differs within one.

    Args:
        lengths: Ids of each sequence, without [CLS] and [SEP].
        batch_tokens: Tokens of a batch, with [CLS] and [SEP]; a batch may hold one sequence more.
    """
    if not len(lengths):
        return []
    order = np.argsort(-lengths, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(np.cumsum(lengths[order] + 2) // batch_tokens)) + 1)


def pooled(hidden: Float[Tensor, "t h"], runs: Sequence[Run], *, pooling: str) -> Float[Tensor, "n h"]:
    """Return one vector per sequence: the mean over its tokens ([CLS] and [SEP] with them), or that of [CLS].

    Args:
        hidden: Tokens of the sequences, end to end.
        runs: Where they lie in ``hidden``.
        pooling: ``mean`` or ``cls``.
    """
    parts = [hidden[r.start : r.stop].unflatten(0, (r.n_sequences, r.length)) for r in runs]
    if not parts:
        return hidden.new_zeros(0, hidden.shape[-1])
    return torch.cat([p[:, 0] if pooling == "cls" else p.mean(1) for p in parts])
