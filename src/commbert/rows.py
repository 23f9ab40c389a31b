"""Rows of token ids of different lengths in flat arrays; windows overlap, and each of their tokens is held once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from commbert import tables
from commbert.errors import DataError

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Row i is ``values[starts[i]:starts[i] + sizes[i]]``; rows may share values."""

    values: NDArray[np.integer[Any]]
    starts: Ints
    sizes: Ints

    @classmethod
    def end_to_end(cls, values: NDArray[np.integer[Any]], offsets: Ints) -> "Rows":
        """Return rows that lie one behind the other, row i from ``offsets[i]`` to ``offsets[i + 1]``."""
        return cls(values, offsets[:-1], np.diff(offsets))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Ints:
        start = self.starts[row]
        return np.asarray(self.values[start : start + self.sizes[row]], np.int64)

    def lengths(self, chosen: Ints) -> Ints:
        """Return the lengths of the chosen rows."""
        return np.asarray(self.sizes[chosen])

    def joined(self, chosen: Ints, lengths: Ints | None = None) -> Ints:
        """Return the chosen rows end to end, of each only its first ``lengths`` values if they are given."""
        if lengths is None:
            lengths = self.lengths(chosen)
        ends = np.cumsum(lengths)
        at = np.repeat(self.starts[chosen] - (ends - lengths), lengths)
        at += np.arange(len(at))
        return np.asarray(self.values[at], np.int64)

    def rows(self, chosen: Sequence[int] | Ints) -> list[Ints]:
        """Return the chosen rows."""
        return [self[int(i)] for i in chosen]


def read_windows(listed: Path) -> Rows:
    """Read the windows that a list of files names, as slices of the files' token streams.

    Args:
        listed: List of the tables of a split, in the order of the corpus.

    Raises:
        DataError: If a table is damaged, missing, or has a window without tokens.
    """
    values = [np.empty(0, np.int32)]
    starts, sizes = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    reached, n_values = -1, 0
    for path, table in _groups(listed, ["file_id", "first_token", "n_tokens", "input_ids"]):
        ids, offsets = tables.list_values(table["input_ids"])
        n = np.diff(offsets)
        if len(n) and not n.min():
            raise DataError(f"{path}: expected tokens in every window, found one without. Rerun windows.")
        # A token's place is its file and its place in the file's stream. Windows come in the order of their centres,
        # so what a window adds lies behind all that came before, and its own tokens end there.
        first = (table["file_id"].to_numpy().astype(np.int64) << 32) + table["first_token"].to_numpy()
        stop = first + n
        furthest = np.maximum.accumulate(np.concatenate([[reached], stop]))
        n_new = np.clip(stop - np.maximum(furthest[:-1], first), 0, None)
        ends = n_values + np.cumsum(n_new)
        starts.append(ends - (np.maximum(furthest[:-1], stop) - first))
        sizes.append(n)
        cut = np.repeat(offsets[1:] - np.cumsum(n_new), n_new)
        values.append(ids[cut + np.arange(len(cut))])
        if len(n):
            reached, n_values = int(furthest[-1]), int(ends[-1])
    return Rows(np.concatenate(values), np.concatenate(starts), np.concatenate(sizes))


def read_places(listed: Path) -> tuple[Ints, Ints, Ints]:
    """Return [n_windows] the file of each listed window, and the places of its first and last token in the file."""
    parts = [np.empty((3, 0), np.int64)]
    columns = ["file_id", "first_token", "n_tokens"]
    for _, table in _groups(listed, columns):
        parts.append(np.stack([table[name].to_numpy().astype(np.int64) for name in columns]))
    file_id, first, n_tokens = np.concatenate(parts, axis=1)
    return file_id, first, first + n_tokens - 1


def count_tokens(listed: Path, vocab_size: int) -> Ints:
    """Return how often each token stands in the windows that a list names."""
    counts = np.zeros(vocab_size, np.int64)
    for _, table in _groups(listed, ["input_ids"]):
        values, _ = tables.list_values(table["input_ids"])
        counts += np.bincount(values, minlength=vocab_size)
    return counts


def _groups(listed: Path, columns: list[str]) -> Iterator[tuple[Path, Any]]:
    for path in tables.read_parts(listed, tables.WINDOWS):
        for table in tables.read_groups(path, tables.WINDOWS, columns):
            yield path, table
