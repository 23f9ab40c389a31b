"""What is in a table: figures of every column, read batch by batch, so that memory does not grow with the rows."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from commbert import tables
from commbert.corpus.ingestion import accounting
from commbert.inspection.opening import Opened
from commbert.inspection.rows import batches

_BATCH = 16_384
_MAX_DISTINCT = 10_000
"""Values are counted until there are more."""
_MAX_CHARS = 1_000
"""Nor are values counted of a column with longer ones."""
_MOST_FREQUENT = 5
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def statistics(opened: Opened) -> dict[str, Any]:
    """Return the figures of a table, plain JSON values but for what its columns hold."""
    columns = {name: _Column(kind) for name, kind in zip(opened.schema.names, opened.schema.types, strict=True)}
    special = _Special(opened.name)
    for part in opened.parts:
        for batch in batches(part, size=_BATCH):
            for name, array in zip(batch.schema.names, batch.columns, strict=True):
                if name in columns:
                    columns[name].add(array)
            special.add(batch)
    n_bytes = sum(part.n_bytes for part in opened.parts)
    compressed = _compressed_bytes(opened)
    return {
        "path": str(opened.path),
        "table": opened.name or None,
        "version": opened.about.get("version"),
        "files": len(opened.parts),
        "row_groups": sum(len(part.group_rows) for part in opened.parts),
        "rows": opened.n_rows,
        "bytes": n_bytes,
        "bytes_per_row": n_bytes / opened.n_rows if opened.n_rows else None,
        "columns": {name: {"bytes": compressed[name], **column.figures()} for name, column in columns.items()},
        **special.figures(),
    }


def _compressed_bytes(opened: Opened) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in opened.parts:
        metadata = pq.read_metadata(part.path)
        # The leaves of a nested column stand one after the other; its field is found by its name before the first dot.
        for g in range(metadata.num_row_groups):
            group = metadata.row_group(g)
            for c in range(group.num_columns):
                leaf = group.column(c)
                path = leaf.path_in_schema
                name = path if path in opened.schema.names else path.partition(".")[0]
                total[name] += leaf.total_compressed_size
    return total


@dataclass
class _Range:
    """Least, mean and greatest of numbers or times."""

    n: int = 0
    total: float = 0.0
    low: Any = None
    high: Any = None

    def add(self, array: pa.Array) -> None:
        found = pc.min_max(array).as_py()
        if found["min"] is None:
            return
        self.low = found["min"] if self.low is None else min(self.low, found["min"])
        self.high = found["max"] if self.high is None else max(self.high, found["max"])
        self.n += len(array) - array.null_count
        if not pa.types.is_temporal(array.type):
            # Sums of 64-bit integers would overflow.
            self.total += pc.sum(array.cast(pa.float64(), safe=False)).as_py() or 0.0

    def figures(self, *, has_mean: bool = True) -> dict[str, Any]:
        if not self.n:
            return {}
        return {"min": self.low, **({"mean": self.total / self.n} if has_mean else {}), "max": self.high}


@dataclass
class _Column:
    """Figures of one column: what they are follows from its type."""

    kind: pa.DataType
    n_nulls: int = 0
    values: _Range = field(default_factory=_Range)
    lengths: _Range = field(default_factory=_Range)
    counts: Counter[Any] | None = field(default_factory=Counter)

    def add(self, array: pa.Array) -> None:
        self.n_nulls += array.null_count
        if isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
        kind = array.type
        if _is_text(kind):
            self.lengths.add(pc.utf8_length(array))
            self._count(array)
        elif _is_list(kind):
            self.lengths.add(pc.list_value_length(array))
            if _is_number(kind.value_type):
                self.values.add(pc.list_flatten(array))
        elif _is_number(kind) or pa.types.is_temporal(kind):
            self.values.add(array)
        if _has_few_values(kind):
            self._count(array)

    def _count(self, array: pa.Array) -> None:
        if self.counts is None:
            return
        found = pc.value_counts(array.drop_null())
        if len(self.counts) + len(found) > 2 * _MAX_DISTINCT or (self.lengths.high or 0) > _MAX_CHARS:
            self.counts = None
            return
        for entry in found.to_pylist():
            self.counts[entry["values"]] += entry["counts"]
        if len(self.counts) > _MAX_DISTINCT:
            self.counts = None

    def figures(self) -> dict[str, Any]:
        out: dict[str, Any] = {"type": str(self.kind), "nulls": self.n_nulls}
        if pa.types.is_boolean(self.kind) or not self.values.n:
            pass
        else:
            out |= self.values.figures(has_mean=not pa.types.is_temporal(self.kind))
        if self.lengths.n:
            out["length"] = self.lengths.figures()
        if self.counts is None:
            out["distinct"] = None
        elif self.counts:
            out["distinct"] = len(self.counts)
            out["most_frequent"] = [[v, n] for v, n in sorted(self.counts.items(), key=_by_count)[:_MOST_FREQUENT]]
        return out


def _by_count(entry: tuple[Any, int]) -> tuple[int, str]:
    return -entry[1], str(entry[0])


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _has_few_values(kind: pa.DataType) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_uint8(kind) or pa.types.is_int8(kind))


class _Special:
    """What only some of our tables have: lengths of windows, kinds of pairs, the accounting of files."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._n_tokens = np.zeros(2**16, np.int64)
        self._pairs: Counter[tuple[str, int]] = Counter()
        self._accounting: dict[str, dict[str, int]] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        if self._name == tables.WINDOWS.name:
            self._n_tokens += np.bincount(batch["n_tokens"].to_numpy(), minlength=2**16)
        elif self._name == tables.PAIRS.name:
            found = pa.table([batch["kind"], batch["label"]], ["kind", "label"]).group_by(["kind", "label"])
            for row in found.aggregate([([], "count_all")]).to_pylist():
                self._pairs[row["kind"], row["label"]] += row["count_all"]
        elif self._name in (tables.FILES.name, tables.SHARD_FILES.name):
            wanted = [n for n in batch.schema.names if n == "reason" or n.startswith("n_")]
            for what, row in accounting({n: batch[n].to_pylist() for n in wanted}).items():
                total = self._accounting.setdefault(what, dict.fromkeys(row, 0))
                for unit, n in row.items():
                    total[unit] += n

    def figures(self) -> dict[str, Any]:
        if self._name == tables.WINDOWS.name and (n := int(self._n_tokens.sum())):
            # The value at rank ceil(q n) (at least 1) of the sorted rows: one that occurs, never a mean of two.
            ranks = [max(1, -(-q * n // 100)) for q in _QUANTILES]
            found = np.searchsorted(np.cumsum(self._n_tokens), ranks)
            return {"tokens_per_window": {f"{q} %": int(v) for q, v in zip(_QUANTILES, found, strict=True)}}
        if self._pairs:
            return {"pairs": [{"kind": k, "label": b, "pairs": n} for (k, b), n in sorted(self._pairs.items())]}
        if self._accounting:
            total = {unit: sum(row[unit] for row in self._accounting.values()) for unit in ("files", "bytes", "lines")}
            return {"accounting": {**dict(sorted(self._accounting.items())), "came in": total}}
        return {}
