"""Word vectors as files of others: Parquet, TensorBoard's projector, word2vec text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from commbert import tables
from commbert.artifacts import atomic_file
from commbert.reporting.escaping import one_line

DECIMALS = 6
"""Of the numbers in text files: each is within 5e-7 of the vector's own, and a cosine within 2e-5 at 384 dimensions.
The Parquet file has them exactly."""

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class NamedVectors:
    """Words with their vectors; rows belong together."""

    word_id: NDArray[np.integer]
    """[n] as in tokenizer/words, ascending."""
    word: Sequence[str]
    n_lines: NDArray[np.integer]
    """[n] training lines."""
    area: Sequence[str]
    """Part of the corpus where most lines of the word are."""
    vectors: NDArray[np.float32]
    """[n, h] of length 1."""


@dataclass(frozen=True)
class VectorFiles:
    """Files that vectors become."""

    parquet: Path
    projector_vectors: Path
    projector_metadata: Path
    word2vec: Path


def write_vectors(vectors: NamedVectors, out: VectorFiles, *, provenance: dict[str, str]) -> int:
    r"""Write all files and return how many words the word2vec file lacks.

    Its format parts words from numbers by white space and lines by line ends (Mikolov et al. 2013, the tool's text
    format): a word that holds such a character, or any other that is not printable, cannot stand in it and is left out.
    In the projector's files every word stands, such characters spelt out as ``\u{..}``, for its two files belong
    together row by row.
    """
    _write_parquet(vectors, out.parquet, provenance)
    shown = [one_line(word, max_chars=len(word)) for word in vectors.word]
    metadata = pl.DataFrame(
        {"word": shown, "n_lines": vectors.n_lines, "area": [one_line(a, max_chars=len(a)) for a in vectors.area]}
    )
    with atomic_file(out.projector_metadata) as tmp:
        metadata.write_csv(tmp, separator="\t", quote_style="never")
    every = np.arange(len(shown))
    _write_numbers(out.projector_vectors, vectors.vectors, every, separator="\t")
    there = np.array([i for i, word in enumerate(vectors.word) if _is_plain(word)], np.int64)
    names = [vectors.word[i] for i in there]
    heading = f"{len(there)} {vectors.vectors.shape[1]}\n"
    _write_numbers(out.word2vec, vectors.vectors, there, separator=" ", names=names, heading=heading)
    return len(shown) - len(there)


def _is_plain(word: str) -> bool:
    return word.isprintable() and not any(c.isspace() for c in word) and bool(word)


def _write_parquet(vectors: NamedVectors, path: Path, provenance: dict[str, str]) -> None:
    table, dims = tables.EXPLORED_VECTORS, vectors.vectors.shape[1]
    with tables.writing(path, table, provenance=provenance) as writer:
        for at in range(0, len(vectors.word), _ROWS_AT_ONCE):
            rows = slice(at, at + _ROWS_AT_ONCE)
            some = vectors.vectors[rows]
            writer.add(
                {
                    "word_id": vectors.word_id[rows],
                    "word": list(vectors.word[rows]),
                    "n_lines": vectors.n_lines[rows],
                    "area": list(vectors.area[rows]),
                    "vector": tables.list_array(table, "vector", some.ravel(), np.arange(len(some) + 1) * dims),
                }
            )


def _write_numbers(
    path: Path,
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    separator: str,
    names: Sequence[str] | None = None,
    heading: str = "",
) -> None:
    with atomic_file(path) as tmp, tmp.open("wb") as file:
        file.write(heading.encode())
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            some = pl.from_numpy(vectors[rows[at : at + _ROWS_AT_ONCE]])
            if names is not None:
                some = some.insert_column(0, pl.Series("", names[at : at + _ROWS_AT_ONCE]))
            some.write_csv(
                file, separator=separator, include_header=False, quote_style="never", float_precision=DECIMALS
            )
