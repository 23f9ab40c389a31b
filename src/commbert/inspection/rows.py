"""Some rows of a table, without reading the others."""

import difflib
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from commbert.errors import DataError
from commbert.inspection.opening import Opened, Part, unreadable

_BATCH = 4096
"""A row group is read in pieces of this many rows, up to the last row that is wanted."""
Row = dict[str, Any]


def row_numbers(n_rows: int, n: int, *, skip: int = 0, sample: int | None = None) -> list[int]:
    """Return which rows to show: ``n`` from number ``skip`` on, or ``n`` drawn with a seed."""
    if sample is not None:
        return sorted(random.Random(sample).sample(range(n_rows), min(n, n_rows)))  # noqa: S311  (no secret)
    return list(range(min(skip, n_rows), min(skip + n, n_rows)))


def checked_columns(opened: Opened, names: Sequence[str]) -> list[str]:
    """Return the names after checking that the table has them.

    Raises:
        DataError: Naming the nearest column.
    """
    for name in names:
        if name not in opened.schema.names:
            near = difflib.get_close_matches(name, opened.schema.names, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(opened.schema.names)}."
            raise DataError(f"{opened.path}: expected the name of a column, found {name!r}; {hint}")
    return list(names)


def take(opened: Opened, numbers: Sequence[int], columns: Sequence[str] | None = None) -> list[Row]:
    """Return rows by their (ascending) numbers, counted over all files; of other row groups nothing is read."""
    out: list[Row] = []
    starts = [0, *accumulate(part.n_rows for part in opened.parts)]
    for part, (start, stop) in zip(opened.parts, pairwise(starts), strict=True):
        wanted = [n - start for n in numbers[bisect_left(numbers, start) : bisect_left(numbers, stop)]]
        if wanted:
            out += _take_of_part(part, wanted, columns)
    return out


def batches(
    part: Part, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None, size: int = _BATCH
) -> Iterator[pa.RecordBatch]:
    """Read a file, or some of its row groups, in batches.

    Raises:
        DataError: If it is damaged.
    """
    names = None if columns is None else list(columns)
    try:
        with pq.ParquetFile(part.path, page_checksum_verification=True) as file:
            # Asked for several row groups at once, the library holds all of them until the end.
            for group in range(len(part.group_rows)) if groups is None else groups:
                yield from file.iter_batches(size, row_groups=[group], columns=names)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreadable(part.path, error) from error


def _take_of_part(part: Part, wanted: Sequence[int], columns: Sequence[str] | None) -> Iterator[Row]:
    starts = [0, *accumulate(part.group_rows)]
    for group, (start, stop) in enumerate(pairwise(starts)):
        inside = wanted[bisect_left(wanted, start) : bisect_left(wanted, stop)]
        if inside:
            yield from _take_of_group(part, group, [n - start for n in inside], columns)


def _take_of_group(part: Part, group: int, wanted: list[int], columns: Sequence[str] | None) -> Iterator[Row]:
    at = 0
    for batch in batches(part, columns, [group]):
        inside = wanted[bisect_left(wanted, at) : bisect_left(wanted, at + batch.num_rows)]
        for first, n in _runs(inside):
            yield from _as_rows(batch.slice(first - at, n), part.path)
        at += batch.num_rows
        if at > wanted[-1]:
            return


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return (first, how many) of numbers that follow each other: slices, where taking would import pandas."""
    first = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield numbers[first], i - first
            first = i


def _as_rows(batch: pa.RecordBatch, path: Path) -> list[Row]:
    names = _unique(batch.schema.names)
    try:
        values = [column.to_pylist() for column in batch.columns]
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, times that Python lacks
        raise unreadable(path, error) from error
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _unique(names: Sequence[str]) -> list[str]:
    """Return names that differ: a file of others may name two columns alike."""
    return [name if name not in names[:i] else f"{name} ({i})" for i, name in enumerate(names)]
