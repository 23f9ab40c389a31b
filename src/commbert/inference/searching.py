"""Semantic search: the passages whose vectors are nearest to that of a query."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from commbert.evaluation.geometry import nearest_rows
from commbert.inference.models import AskedModel
from commbert.inference.texts import AskedText, read_texts, table_name
from commbert.inference.vectors import TEXT_VECTORS, EncodedTexts, encode_texts, read_vectors, vectors_of


@dataclass(frozen=True)
class Hit:
    """A passage that was found."""

    text: str
    where: str
    cosine: float


def passages(model: AskedModel, path: Path) -> Iterator[EncodedTexts]:
    """Yield the passages of a file with their vectors, of length 1.

    Args:
        model: The model of the vectors.
        path: Text, one passage per line; a table of functions (corpus/functions); or vectors that ``encode`` saved, for
            which nothing is computed. Of a passage longer than the model's positions its beginning is searched.

    Raises:
        DataError: If it is none of these, or the vectors are another model's.
    """
    if path.suffix.lower() == ".parquet" and path.exists() and table_name(path) == TEXT_VECTORS:
        return read_vectors(path, model)
    return encode_texts(model, read_texts(path), truncate=True)


def search(
    model: AskedModel,
    queries: Sequence[str | AskedText],
    among: Iterable[EncodedTexts],
    *,
    top_k: int = 10,
    truncate: bool = False,
    on_texts: Callable[[Sequence[AskedText]], None] | None = None,
) -> list[list[Hit]]:
    """Return the nearest passages of each query by cosine, nearest first; of equal ones the earlier.

    The search is exact: every passage is compared, about a thousand or one row group at a time, and only the best so
    far are kept, so that memory does not grow with the passages. A million vectors of 384 numbers are 1.5 GB to read
    and take about a second; an approximate index (HNSW, IVF) is worth its build time and its misses from some ten
    million on, or where a service must answer hundreds of queries a second.

    Args:
        model: Encodes the queries.
        queries: Any texts.
        among: As ``passages`` gives them.
        top_k: Hits of each query at most.
        truncate: Keep the beginning of a query that is too long.
        on_texts: Called with the passages that were compared.

    Raises:
        DataError: If a query is too long.
    """
    asked = torch.from_numpy(vectors_of(model, queries, truncate=truncate))
    best = _Best(len(asked), top_k)
    for some in among:
        best.add(some.texts, *nearest_rows(asked, torch.from_numpy(some.vectors), top_k))
        if on_texts:
            on_texts(some.texts)
    return best.hits()


class _Best:
    """The best passages so far of each query."""

    def __init__(self, n_queries: int, k: int) -> None:
        self._k, self._n = k, 0
        self._index = np.empty((n_queries, 0), np.int64)
        self._cosine = np.empty((n_queries, 0), np.float32)
        self._texts: dict[int, AskedText] = {}

    def add(self, texts: Sequence[AskedText], index: NDArray[np.int64], cosine: NDArray[np.float32]) -> None:
        """Take the best of further passages, whose rows count from 0."""
        self._cosine = np.concatenate([self._cosine, cosine], axis=1)
        self._index = np.concatenate([self._index, index + self._n], axis=1)
        # Stable: earlier passages stand first among equals.
        order = np.argsort(-self._cosine, axis=1, kind="stable")[:, : self._k]
        self._cosine = np.take_along_axis(self._cosine, order, axis=1)
        self._index = np.take_along_axis(self._index, order, axis=1)
        kept = set(self._index.ravel().tolist())
        self._texts = {i: text for i, text in self._texts.items() if i in kept}
        self._texts |= {i: texts[i - self._n] for i in kept if i >= self._n}
        self._n += len(texts)

    def hits(self) -> list[list[Hit]]:
        """Return what was found."""
        return [
            [
                Hit(self._texts[i].text, self._texts[i].where, c)
                for i, c in zip(rows.tolist(), near.tolist(), strict=True)
            ]
            for rows, near in zip(self._index, self._cosine, strict=True)
        ]
