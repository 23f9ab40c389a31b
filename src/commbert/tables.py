"""The Parquet tables between stages: one schema each, validated when read, written whole, with their provenance.

Every file carries in its metadata the schema's name and version, the digests of the settings and inputs it was made
from, and its row count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from commbert.artifacts import atomic_file
from commbert.errors import DataError

SPLITS = ("train", "validation", "test")
PAIR_KINDS = ("same_line", "english", "random_code", "frequency_matched")
"""The first is positive, the others are negative."""

_PREFIX = b"commbert."


@dataclass(frozen=True)
class Table:
    """A named, versioned schema; ``order`` are the columns that its rows are sorted by (in prose in the comments)."""

    name: str
    version: int
    schema: pa.Schema
    dictionary: tuple[str, ...] = ()
    """Columns worth a Parquet dictionary; token lists are not (zstd eats their overlap only without one)."""


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


FILES = Table(
    "corpus/files",
    1,
    # Rows by source, then path. file_id counts all files that were seen, the dropped ones too.
    _schema(
        file_id=pa.uint32(),
        source=pa.string(),
        path=pa.string(),
        language=pa.string(),
        split=pa.string(),
        n_lines=pa.uint32(),
        n_bytes=pa.uint64(),
        sha256=pa.string(),
        kept=pa.bool_(),
        reason=pa.string(),
    ),
    dictionary=("source", "language", "split", "reason"),
)
LINES = Table(
    "corpus/lines",
    1,
    # Rows by file_id, then line_no. Kept files only.
    _schema(file_id=pa.uint32(), line_no=pa.uint32(), text=pa.string(), code=pa.string()),
)
CORPUS_WORDS = Table(
    "corpus/words",
    1,
    # Rows by word_id, which follows the count (most frequent first), then the word. Counts are of the training split;
    # words of the held-out splits only have counts of 0.
    _schema(
        word_id=pa.uint32(),
        word=pa.string(),
        n_lines=pa.uint64(),
        n_files=pa.uint32(),
        in_english=pa.bool_(),
        is_keyword=pa.bool_(),
    ),
)
LINE_WORDS = Table(
    "corpus/line_words",
    1,
    # Rows by file_id, line_no; word_ids distinct, in order of appearance. Lines with two words or more.
    _schema(file_id=pa.uint32(), line_no=pa.uint32(), word_ids=pa.list_(pa.field("item", pa.uint32(), nullable=False))),
)
WORDS = Table(
    "tokenizer/words",
    1,
    # Rows by word_id: the words of the code, then English words that the code lacks.
    _schema(
        word_id=pa.uint32(),
        word=pa.string(),
        n_lines=pa.uint64(),
        n_files=pa.uint32(),
        token_ids=pa.list_(pa.field("item", pa.int32(), nullable=False)),
        n_pieces_before=pa.uint8(),
        in_english=pa.bool_(),
        in_code=pa.bool_(),
    ),
)
WINDOWS = Table(
    "windows",
    1,
    # Rows by file_id, then line_no (the centre).
    _schema(
        file_id=pa.uint32(),
        line_no=pa.uint32(),
        first_line=pa.uint32(),
        last_line=pa.uint32(),
        input_ids=pa.list_(pa.field("item", pa.int32(), nullable=False)),
        n_tokens=pa.uint16(),
        n_dropped_lines=pa.uint8(),
    ),
)
PAIRS = Table(
    "pairs",
    1,
    # Rows as drawn: each positive is followed by its negatives, which repeat its word_id_a, file_id and line_no.
    _schema(
        word_id_a=pa.uint32(),
        word_id_b=pa.uint32(),
        label=pa.uint8(),
        kind=pa.string(),
        file_id=pa.uint32(),
        line_no=pa.uint32(),
    ),
    dictionary=("kind",),
)
KNOWN_PAIRS = Table(
    "pairs/known",
    1,
    # Rows by word_id_a, then word_id_b; word_id_a < word_id_b. Pairs that share a training line anywhere.
    _schema(word_id_a=pa.uint32(), word_id_b=pa.uint32()),
)
SCORES = Table(
    "evaluation/scores",
    1,
    # Rows by metric, then item: what the intervals and differences are computed from. ``cluster`` is resampled.
    _schema(
        metric=pa.string(),
        item=pa.uint32(),
        cluster=pa.uint32(),
        value=pa.float64(),
        weight=pa.float64(),
    ),
    dictionary=("metric",),
)


def write(path: Path, table: Table, columns: Any, *, provenance: dict[str, str]) -> int:
    """Write a table whole and return its number of rows.

    Args:
        columns: An Arrow table, or a mapping of column names to arrays; cast to the schema.
        provenance: Digests of settings and inputs, stored in the file's metadata.

    Raises:
        DataError: If the columns do not fit the schema.
    """
    try:
        if not isinstance(columns, pa.Table):
            columns = pa.table(columns)
        data = columns.select(table.schema.names).cast(table.schema)
    except (pa.ArrowException, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: the columns do not fit {table.name} version {table.version}: {error}") from error
    data = data.replace_schema_metadata(_metadata(table, data.num_rows, provenance))
    with atomic_file(path) as tmp:
        pq.write_table(
            data,
            tmp,
            compression="zstd",
            compression_level=3,
            use_dictionary=list(table.dictionary),
            write_statistics=False,
            write_page_checksum=True,
            row_group_size=65_536,
        )
    return int(data.num_rows)


def read(path: Path, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns, after checking that it is that table, of that version, and undamaged.

    Raises:
        DataError: If it is missing, damaged, or another table.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = {k: v for k, v in (file.schema_arrow.metadata or {}).items() if k.startswith(_PREFIX)}
            expected = _metadata(table, file.metadata.num_rows, {})
            for key in (b"commbert.table", b"commbert.version", b"commbert.rows"):
                if found.get(key) != expected[key]:
                    raise DataError(
                        f"{path}: expected {key.decode()} = {expected[key].decode()}, "
                        f"found {(found.get(key) or b'nothing').decode()}. Rerun the stage that makes it."
                    )
            data = file.read(columns=list(columns) if columns is not None else None)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as {table.name}: {error}. Rerun the stage that makes it.") from error
    data = data.replace_schema_metadata(None)
    expected_schema = pa.schema([table.schema.field(name) for name in columns or table.schema.names])
    if data.schema != expected_schema:
        raise DataError(f"{path}: the columns are not those of {table.name}. Rerun the stage that makes it.")
    return data


def provenance_of(path: Path) -> dict[str, str]:
    """Return what ``write`` stored with a table: digests of settings and inputs, rows, schema."""
    metadata = pq.read_schema(path).metadata or {}
    return {k[len(_PREFIX) :].decode(): v.decode() for k, v in metadata.items() if k.startswith(_PREFIX)}


def _metadata(table: Table, n_rows: int, provenance: dict[str, str]) -> dict[bytes, bytes]:
    entries = {"table": table.name, "version": str(table.version), "rows": str(n_rows), **provenance}
    return {_PREFIX + k.encode(): v.encode() for k, v in entries.items()}


def list_column(table: Table, name: str, rows: Sequence[Any]) -> pa.Array:
    """Return a list column from NumPy rows, without a Python object per value."""
    kind = table.schema.field(name).type
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.concatenate(rows) if len(rows) else np.empty(0, np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values).cast(kind.value_type), type=kind)


def list_values(column: pa.ChunkedArray) -> tuple[Any, Any]:
    """Return (values, offsets) of a list column as NumPy arrays; row i is ``values[offsets[i]:offsets[i + 1]]``."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()[offsets[0] : offsets[-1]] if len(array) else np.empty(0, np.int64)
    return values, offsets - (offsets[0] if len(offsets) else 0)
