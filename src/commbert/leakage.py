"""What of the held-out splits stands in training too: lines and windows, compared by hashes of their tokens."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from commbert import tables
from commbert.arrays import distinct

LINE, LONG_LINE, WINDOW = range(3)
LONG_LINE_TOKENS = 8
"""Shorter lines (``return ret ;``) are shared by everything and say nothing."""
_LINES_COMPARED = 2_000_000
_NAMES = {
    LINE: "lines_seen_in_training_pct",
    LONG_LINE: "long_lines_seen_in_training_pct",
    WINDOW: "windows_seen_in_training_pct",
}


def share_compared(n_lines: int) -> int:
    """Return k: of a corpus of ``n_lines``, what hashes to one of 2^-k of all values is compared, about 2M lines."""
    return max(0, math.ceil(math.log2(max(n_lines, 1) / _LINES_COMPARED)))


class Hashes:
    """Collects the hashes of a shard."""

    def __init__(self, share_bits: int) -> None:
        self._highest = np.uint64((1 << (64 - share_bits)) - 1)
        self._parts: dict[tuple[int, int], list[NDArray[np.uint64]]] = {}

    def add(
        self, kind: int, split: NDArray[np.int8], ids: NDArray[np.int32], offsets: NDArray[np.integer[Any]]
    ) -> NDArray[np.uint64]:
        """Add rows of token ids: row i, of split ``split[i]``, is ``ids[offsets[i]:offsets[i + 1]]``.

        Returns:
            The hash of each row.
        """
        bounds = (np.asarray(offsets, np.int64) - offsets[0]) * 4
        data = np.ascontiguousarray(ids[offsets[0] : offsets[-1]])
        rows = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(split), [None, pa.py_buffer(bounds), pa.py_buffer(data)]
        )
        # The library's hash is the same in every process of one version; shares do not depend on its values.
        hashes = pl.Series(rows).hash(17).to_numpy()
        for number in range(len(tables.SPLITS)):
            chosen = hashes[(split == number) & (hashes <= self._highest)]
            self._parts.setdefault((number, kind), []).append(chosen)
        return hashes

    def columns(self) -> pa.Table:
        """Return the columns of the table shard/hashes; of training, where only the values count, n is 1."""
        found: list[pa.Table] = []
        for (split, kind), parts in sorted(self._parts.items()):
            hashes = np.concatenate(parts)
            if split == tables.SPLITS.index("train"):
                values = distinct(hashes)
                n = np.ones(len(values), np.uint32)
            else:
                values, counts = np.unique(hashes, return_counts=True)
                n = counts.astype(np.uint32)
            columns = {"split": np.full(len(values), split, np.uint8), "kind": np.full(len(values), kind, np.uint8)}
            found.append(pa.table({**columns, "hash": values, "n": n}).cast(tables.HASHES.schema))
        return pa.concat_tables([tables.empty(tables.HASHES.schema), *found])


def sum_of(hashes: NDArray[np.uint64]) -> int:
    """Return the sum modulo 2^64."""
    return int(np.sum(hashes, dtype=np.uint64))


def leakage(hashes: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return, of each held-out split, the percentages that stand in training too."""
    train = tables.SPLITS.index("train")
    read = [pl.DataFrame(tables.read(path, tables.HASHES)) for path in hashes]
    seen = pl.concat([f.filter(pl.col("split") == train).select("kind", "hash") for f in read]).unique()
    heldout = pl.concat([f.filter(pl.col("split") != train) for f in read])
    # A long line is looked for among all lines of training, where long ones are not entered twice.
    compared = pl.when(pl.col("kind") == LONG_LINE).then(pl.lit(LINE, pl.UInt8)).otherwise(pl.col("kind"))
    found = heldout.with_columns(as_kind=compared).join(
        seen, left_on=["as_kind", "hash"], right_on=["kind", "hash"], how="semi"
    )
    out: dict[str, dict[str, float]] = {}
    for split in tables.SPLITS[1:]:
        number = tables.SPLITS.index(split)
        out[split] = {}
        for kind, name in _NAMES.items():
            rows = (pl.col("split") == number) & (pl.col("kind") == kind)
            n, n_seen = (int(f.filter(rows)["n"].sum()) for f in (heldout, found))
            out[split][name] = 100.0 * n_seen / max(n, 1)
    return out
