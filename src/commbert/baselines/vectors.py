"""Vectors of all words, and the table that holds them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from commbert import tables
from commbert.errors import DataError

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class WordVectors:
    """Vectors of all words, of length 1 or 0, and what they keep of the matrix they come from."""

    vectors: NDArray[np.float32]
    """[n_words, k], row i of word_id i."""
    explained: float
    """Share of the squared Frobenius norm of the matrix that the k dimensions hold."""
    n_nonzero: int
    """Entries of the matrix that are not 0."""


def write_vectors(path: Path, vectors: NDArray[np.float32], *, provenance: dict[str, str]) -> None:
    """Write the table baselines/word_vectors.

    Args:
        path: Becomes the table.
        vectors: [n_words, k], row i of word_id i.
        provenance: As in ``tables.write``.
    """
    n, dims = vectors.shape
    with tables.writing(path, tables.WORD_VECTORS, provenance=provenance) as writer:
        for at in range(0, n, _ROWS_AT_ONCE):
            some = vectors[at : at + _ROWS_AT_ONCE]
            rows = tables.list_array(tables.WORD_VECTORS, "vector", some.ravel(), np.arange(len(some) + 1) * dims)
            writer.add({"word_id": np.arange(at, at + len(some), dtype=np.uint32), "vector": rows})


def read_vectors(path: Path) -> NDArray[np.float32]:
    """Return [n_words, k] from the table baselines/word_vectors, row i of word_id i.

    Raises:
        DataError: If the table is damaged, lacks a word, or has vectors of different lengths or not finite.
    """
    parts: list[NDArray[np.float32]] = []
    for piece in tables.read_groups(path, tables.WORD_VECTORS, tables.WORD_VECTORS.schema.names):
        values, offsets = tables.list_values(piece["vector"])
        ids, sizes = piece["word_id"].to_numpy(), np.diff(offsets)
        dims = parts[0].shape[1] if parts else int(sizes[0]) if len(sizes) else 0
        first = sum(map(len, parts))
        if (ids != np.arange(first, first + len(ids))).any() or (sizes != dims).any() or not np.isfinite(values).all():
            raise DataError(
                f"{path}: expected a finite vector of {dims} numbers for each word_id in order, found others. "
                "Rerun the stage baseline."
            )
        parts.append(values.reshape(len(ids), dims))
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
