"""The Parquet tables between stages: one schema each, validated when read, written whole, with their provenance.

Every file carries in its metadata the schema's name and version, the digests of the settings and inputs it was made
from, and its row count.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from commbert.artifacts import atomic_file, read_json, sha256_file, write_json
from commbert.errors import DataError
from commbert.provenance import digest

SPLITS = ("train", "validation", "test")
PAIR_KINDS = ("same_line", "english", "random_code", "frequency_matched", "lexical")
"""The first is positive, the others are negative."""

_PREFIX = b"commbert."
_ROW_GROUP = 65_536
_RERUN = "Rerun the stage that makes it."


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


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", kind, nullable=False))


SHARD_FILES = Table(
    "shard/files",
    2,
    # Rows in the order of the corpus (corpus.selection); file_no counts from 0 in each shard. split: where the source
    # says it, else nothing.
    _schema(
        path=pa.string(),
        language=pa.string(),
        encoding=pa.string(),
        n_bytes=pa.uint64(),
        sha256=pa.string(),
        split=pa.string(),
        reason=pa.string(),
        n_lines=pa.uint32(),
        n_used_lines=pa.uint32(),
        n_blank_lines=pa.uint32(),
        n_long_lines=pa.uint32(),
        n_licence_lines=pa.uint32(),
        n_secrets=pa.uint32(),
        # Hashes of its distinct long lines, sorted; none for a file that is not read.
        line_hashes=_list(pa.uint64()),
    ),
    dictionary=("language", "encoding", "split", "reason"),
)
LINES = Table(
    "shard/lines",
    3,
    # Rows by file_no, then line_no. Files that were read; whether they are kept is decided over the whole corpus.
    # indent: columns of white space before the text (a tab goes on to the next multiple of 8); code: the text without
    # comments. Neither has white space around it.
    _schema(file_no=pa.uint32(), line_no=pa.uint32(), indent=pa.uint16(), text=pa.string(), code=pa.string()),
)
SHARD_WORDS = Table("shard/words", 1, _schema(word=pa.string()))  # Rows by code, which is the row number.
LINE_CODES = Table(
    "shard/line_codes",
    1,
    # Rows by file_no, then line_no; codes of the line's words (distinct, of two or more) or of its pre-tokens (all).
    _schema(file_no=pa.uint32(), line_no=pa.uint32(), codes=_list(pa.uint32())),
)
FILE_COUNTS = Table(
    "shard/file_counts",
    1,
    # Rows by file_no, then code; n = lines that hold the word, or occurrences of the pre-token.
    _schema(file_no=pa.uint32(), code=pa.uint32(), n=pa.uint32()),
)
FILES = Table(
    "corpus/files",
    2,
    # Rows by file_id, in the order of the corpus: source by source, shard by shard. Files that were dropped count too.
    _schema(
        file_id=pa.uint32(),
        source=pa.string(),
        path=pa.string(),
        language=pa.string(),
        encoding=pa.string(),
        split=pa.string(),
        n_lines=pa.uint32(),
        n_used_lines=pa.uint32(),
        n_blank_lines=pa.uint32(),
        n_long_lines=pa.uint32(),
        n_licence_lines=pa.uint32(),
        n_secrets=pa.uint32(),
        n_bytes=pa.uint64(),
        sha256=pa.string(),
        kept=pa.bool_(),
        reason=pa.string(),
    ),
    dictionary=("source", "language", "encoding", "split", "reason"),
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
    "pairs/heldout_lines",
    1,
    # Rows by file_id, line_no; word_ids distinct, ascending. Lines of the held-out splits with two words or more.
    _schema(file_id=pa.uint32(), line_no=pa.uint32(), word_ids=_list(pa.uint32())),
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
        token_ids=_list(pa.int32()),
        n_pieces_before=pa.uint8(),
        in_english=pa.bool_(),
        in_code=pa.bool_(),
    ),
)
WINDOWS = Table(
    "windows",
    2,
    # Rows by file_id, then line_no (the centre; of windows of whole files the first line), then first_token, counted
    # in the token stream of the file: windows overlap, and a reader that lays the stream together holds each token
    # once.
    _schema(
        file_id=pa.uint32(),
        line_no=pa.uint32(),
        first_line=pa.uint32(),
        last_line=pa.uint32(),
        first_token=pa.uint32(),
        input_ids=_list(pa.int32()),
        n_tokens=pa.uint16(),
        n_dropped_lines=pa.uint8(),
    ),
)
HASHES = Table(
    "shard/hashes",
    1,
    # Rows sorted; kind 0 = a line, 1 = a long line, 2 = a window. What leaks from training into the held-out splits.
    _schema(split=pa.uint8(), kind=pa.uint8(), hash=pa.uint64(), n=pa.uint32()),
)
DRAWN = Table(
    "shard/drawn",
    1,
    # Rows by file_id, line_no, word_id_a, word_id_b: positive pairs that may be taken, the lowest priorities first.
    _schema(
        split=pa.uint8(),
        word_id_a=pa.uint32(),
        word_id_b=pa.uint32(),
        file_id=pa.uint32(),
        line_no=pa.uint32(),
        priority=pa.uint64(),
    ),
)
PAIR_KEYS = Table("shard/pair_keys", 1, _schema(key=pa.uint64()))  # Rows sorted.
PAIRS = Table(
    "pairs",
    1,
    # Rows by file_id, line_no and words: each positive is followed by its negatives, which repeat its word_id_a,
    # file_id and line_no.
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
WORD_VECTORS = Table(
    "baselines/word_vectors",
    1,
    # Rows by word_id, as in tokenizer/words. All vectors of a table hold equally many numbers; their length is 1, or 0
    # where nothing is known of the word.
    _schema(word_id=pa.uint32(), vector=_list(pa.float32())),
)
EXPLORED_VECTORS = Table(
    "runs/vectors",
    1,
    # Rows by word_id: the most frequent words of the code that are no keywords. Vectors have length 1, all of them
    # equally many numbers; n_lines counts training lines, area is the part of the corpus with most lines of the word.
    _schema(word_id=pa.uint32(), word=pa.string(), n_lines=pa.uint64(), area=pa.string(), vector=_list(pa.float32())),
    dictionary=("area",),
)
FUNCTIONS = Table(
    "corpus/functions",
    1,
    # Rows by file_id, then by where they begin (an outer function before those in it); function_id counts from 0.
    # Functions of all splits. Lines from the decorators or template head to the end; brief: what the docstring
    # or the comment above says first, or empty; code: the lines without comments, docstrings and indents, cut off.
    _schema(
        function_id=pa.uint32(),
        file_id=pa.uint32(),
        first_line=pa.uint32(),
        last_line=pa.uint32(),
        name=pa.string(),
        brief=pa.string(),
        code=pa.string(),
    ),
)
TEXTS = Table(
    "texts/texts",
    1,
    # Rows by text; text_id counts from 0 (the row number). token_ids without [CLS] and [SEP], cut off; never empty.
    _schema(text_id=pa.uint32(), text=pa.string(), token_ids=_list(pa.int32())),
)
TEXT_PAIRS = Table(
    "texts/pairs",
    1,
    # Rows by kind, text_id_a, text_id_b; each pair once. Of training files.
    # brief: what a function's comment says, and its code; neither stands in a held-out file.
    # acronym: an acronym, and what a comment says that it stands for; held-out files may say so too.
    _schema(text_id_a=pa.uint32(), text_id_b=pa.uint32(), kind=pa.string()),
    dictionary=("kind",),
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
ACRONYMS = Table(
    "corpus/acronyms",
    1,
    # Rows by acronym, then expansion; both in lower case. Lines of kept files whose comment ends such a definition.
    _schema(acronym=pa.string(), expansion=pa.string(), n_lines=pa.uint64(), n_train_lines=pa.uint64()),
)
SAMPLES = Table(
    "monitoring/samples",
    1,
    # Rows by attempt (of a stage that was stopped and went on), then time, then device: host, gpu0 ... Null where the
    # device has no such sensor (the columns of the other kind), or where ``missing`` says why. Bytes, tree_cpu_s and
    # cpu_energy_j count from the first sample of the attempt; energy_counter_mj as the driver counts, which resets it.
    # tree_*, disk_*: the stage's processes, 100 % of a core each; the rest of the host: the whole node.
    pa.schema(
        [
            pa.field("attempt", pa.uint16(), nullable=False),
            pa.field("time_unix_s", pa.float64(), nullable=False),
            pa.field("elapsed_s", pa.float64(), nullable=False),
            pa.field("device", pa.string(), nullable=False),
            pa.field("gpu_utilization_pct", pa.float32()),
            pa.field("memory_utilization_pct", pa.float32()),
            pa.field("memory_used_gib", pa.float32()),
            pa.field("power_w", pa.float32()),
            pa.field("temperature_c", pa.float32()),
            pa.field("sm_clock_mhz", pa.float32()),
            pa.field("memory_clock_mhz", pa.float32()),
            pa.field("throttle_reasons", _list(pa.string())),
            pa.field("energy_counter_mj", pa.uint64()),
            pa.field("tree_processes", pa.uint32()),
            pa.field("tree_cpu_s", pa.float64()),
            pa.field("tree_cpu_pct", pa.float32()),
            pa.field("tree_rss_gib", pa.float32()),
            pa.field("disk_read_bytes", pa.uint64()),
            pa.field("disk_written_bytes", pa.uint64()),
            pa.field("network_received_bytes", pa.uint64()),
            pa.field("network_sent_bytes", pa.uint64()),
            pa.field("node_cpu_pct", pa.float32()),
            pa.field("node_memory_used_gib", pa.float32()),
            pa.field("cpu_energy_j", pa.float64()),
            pa.field("missing", pa.string()),
        ]
    ),
    dictionary=("device", "missing"),
)


def write(path: Path, table: Table, columns: Any, *, provenance: dict[str, str]) -> int:
    """Write a table whole and return its number of rows.

    Args:
        columns: An Arrow table, or a mapping of column names to arrays; cast to the schema.
        provenance: Digests of settings and inputs, stored in the file's metadata.

    Raises:
        DataError: If the columns do not fit the schema.
    """
    with writing(path, table, provenance=provenance) as out:
        out.add(columns)
    return out.n_rows


class Writer:
    """Takes the rows of a table bit by bit; row groups are of one size, however the rows come."""

    def __init__(self, path: Path, table: Table, file: pq.ParquetWriter) -> None:
        self.n_rows = 0
        self._path, self._table, self._file = path, table, file
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def add(self, columns: Any) -> None:
        """Add rows: an Arrow table, or a mapping of column names to arrays; cast to the schema."""
        table = self._table
        try:
            if not isinstance(columns, pa.Table):
                columns = pa.table(columns)
            data = columns.select(table.schema.names).cast(table.schema)
        except (pa.ArrowException, ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(
                f"{self._path}: the columns do not fit {table.name} version {table.version}: {error}"
            ) from error
        self.n_rows += data.num_rows
        self._waiting.append(data)
        self._n_waiting += data.num_rows
        if self._n_waiting >= _ROW_GROUP:
            self._write_groups(_ROW_GROUP)

    def finish(self) -> None:
        """Write what waits."""
        self._write_groups(1)

    def _write_groups(self, at_least: int) -> None:
        data = pa.concat_tables([empty(self._table.schema), *self._waiting])
        at = 0
        while data.num_rows - at >= at_least:
            # In one piece: Arrow ends a page where a piece ends, and the bytes would tell how the rows came.
            self._file.write_table(data.slice(at, _ROW_GROUP).combine_chunks(), row_group_size=_ROW_GROUP)
            at += _ROW_GROUP
        rest = data.slice(min(at, data.num_rows))
        self._waiting, self._n_waiting = [rest], rest.num_rows


@contextmanager
def writing(path: Path, table: Table, *, provenance: dict[str, str]) -> Iterator[Writer]:
    """Open a table that grows by ``Writer.add``; it appears whole when the block ends, or not at all."""
    with (
        atomic_file(path) as tmp,
        pq.ParquetWriter(
            tmp,
            table.schema,
            compression="zstd",
            compression_level=3,
            use_dictionary=list(table.dictionary),
            write_statistics=False,
            write_page_checksum=True,
        ) as file,
    ):
        writer = Writer(path, table, file)
        yield writer
        writer.finish()
        file.add_key_value_metadata(_metadata(table, writer.n_rows, provenance))


def read(path: Path, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns, after checking that it is that table, of that version, and undamaged.

    Raises:
        DataError: If it is missing, damaged, or another table.
    """
    names = list(columns) if columns is not None else table.schema.names
    batches = list(read_groups(path, table, names))
    return pa.concat_tables([empty(pa.schema([table.schema.field(n) for n in names])), *batches])


def read_groups(path: Path, table: Table, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read a table as ``read`` does, one row group after the other, so that memory holds no more than one."""
    expected = pa.schema([table.schema.field(name) for name in columns])
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_header(path, table, file)
            for i in range(file.num_row_groups):
                data = file.read_row_group(i, columns=list(columns)).replace_schema_metadata(None)
                if data.schema != expected:
                    raise DataError(f"{path}: the columns are not those of {table.name}. {_RERUN}")
                yield data
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as {table.name}: {error}. {_RERUN}") from error


def read_whole_files(path: Path, table: Table, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read a table with a first column ``file_no`` in pieces of a row group or more that end where a file ends."""
    rest: list[pa.Table] = []
    for data in read_groups(path, table, columns):
        file_no = data["file_no"].to_numpy()
        last = int(np.searchsorted(file_no, file_no[-1])) if len(file_no) else 0
        if last:
            yield pa.concat_tables([*rest, data.slice(0, last)])
            rest = [data.slice(last)]
        else:
            rest.append(data)
    if rest:
        yield pa.concat_tables(rest)


def empty(schema: pa.Schema) -> pa.Table:
    """Return a table without rows (Arrow's own way imports pandas where it is installed: a third of a second)."""
    return pa.Table.from_batches([], schema=schema)


def _check_header(path: Path, table: Table, file: pq.ParquetFile) -> None:
    found = file.metadata.metadata or {}
    expected = _metadata(table, file.metadata.num_rows, {})
    for key in (b"commbert.table", b"commbert.version", b"commbert.rows"):
        if found.get(key) != expected[key]:
            raise DataError(
                f"{path}: expected {key.decode()} = {expected[key].decode()}, "
                f"found {(found.get(key) or b'nothing').decode(errors='replace')}. {_RERUN}"
            )


def provenance_of(path: Path) -> dict[str, str]:
    """Return what ``write`` stored with a table: digests of settings and inputs, rows, schema."""
    metadata = pq.read_metadata(path).metadata or {}
    return {k[len(_PREFIX) :].decode(): v.decode() for k, v in metadata.items() if k.startswith(_PREFIX)}


def _metadata(table: Table, n_rows: int, provenance: dict[str, str]) -> dict[bytes, bytes]:
    entries = {"table": table.name, "version": str(table.version), "rows": str(n_rows), **provenance}
    return {_PREFIX + k.encode(): v.encode() for k, v in entries.items()}


def write_parts(path: Path, table: Table, parts: Sequence[Path], **about: Any) -> None:
    """Write the list of files that together, in this order, are a table; and remove older ones from their folder."""
    listed = []
    for part in parts:
        rows = _count_rows(part, table)
        listed.append({"path": os.path.relpath(part, path.parent), "rows": rows, "sha256": sha256_file(part)})
    for folder in {part.parent for part in parts}:
        for old in sorted(set(folder.glob("*.parquet")) - set(parts)):
            old.unlink()
    write_json(path, {"table": table.name, "version": table.version, "parts": listed, **about})


def _count_rows(path: Path, table: Table) -> int:
    try:
        with pq.ParquetFile(path) as file:
            _check_header(path, table, file)
            return int(file.metadata.num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as {table.name}: {error}. {_RERUN}") from error


def read_parts(path: Path, table: Table) -> list[Path]:
    """Return the files that a list names, after checking that they are those it was written for.

    Raises:
        DataError: If the list is of another table, or a file is missing or differs.
    """
    listed = read_json(path)
    if not isinstance(listed, dict) or (listed.get("table"), listed.get("version")) != (table.name, table.version):
        raise DataError(f"{path}: expected a list of {table.name} version {table.version}. {_RERUN}")
    parts = [path.parent / part["path"] for part in listed["parts"]]
    for part, entry in zip(parts, listed["parts"], strict=True):
        if not part.is_file() or sha256_file(part) != entry["sha256"]:
            raise DataError(f"{part}: missing, or not the file that {path} names. {_RERUN}")
    return parts


def content_digest(path: Path) -> str:
    """Return a digest of a table's content; of a list of files, one that the number of files does not change."""
    if path.suffix != ".json":
        return sha256_file(path)[:16]
    listed = read_json(path)
    told = {**listed, "parts": sum(part["rows"] for part in listed["parts"])}
    return digest(json.dumps(told, sort_keys=True))


def list_array(table: Table, name: str, values: Any, offsets: Any) -> pa.Array:
    """Return a list column whose row i is ``values[offsets[i]:offsets[i + 1]]``."""
    kind = table.schema.field(name).type
    rows = pa.array(values).cast(kind.value_type)
    return pa.ListArray.from_arrays(pa.array(np.asarray(offsets, np.int32)), rows, type=kind)


def list_column(table: Table, name: str, rows: Sequence[Any]) -> pa.Array:
    """Return a list column from NumPy rows, without a Python object per value."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    values = np.concatenate(rows) if len(rows) else np.empty(0, np.int32)
    return list_array(table, name, values, offsets)


def list_values(column: pa.ChunkedArray) -> tuple[Any, Any]:
    """Return (values, offsets) of a list column as NumPy arrays; row i is ``values[offsets[i]:offsets[i + 1]]``."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.values.to_numpy()[offsets[0] : offsets[-1]] if len(array) else np.empty(0, np.int64)
    return values, offsets - (offsets[0] if len(offsets) else 0)
