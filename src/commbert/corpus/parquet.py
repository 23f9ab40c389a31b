"""Rows of a Parquet file, a thousand at a time.

What is held at once is one page of each column, which the format limits to 2 GiB and writers to about 1 MiB.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from commbert.corpus.rows import Row, filled_row
from commbert.corpus.templates import RowTemplate
from commbert.errors import SourceError

_MAX_ROWS_AT_ONCE = 1000
_BATCH_BYTES = 2**26
_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError, NotImplementedError)


def parquet_rows(file: BinaryIO, template: RowTemplate, *, max_bytes: int, where: str) -> Iterator[Row]:
    """Yield the rows; numbers, times and booleans as Arrow writes them, null is empty.

    Raises:
        SourceError: If it is no Parquet file, damaged, or lacks a column or has it with another type.
    """
    number = 0
    names = list(template.columns)
    try:
        with pq.ParquetFile(file) as table:
            _check(table, template, where)
        # As dictionaries, so that a long text which stands in many rows is held once and not once per row.
        with pq.ParquetFile(file, read_dictionary=names, pre_buffer=False, buffer_size=2**20) as table:
            for batch in table.iter_batches(_rows_at_once(table), columns=names, use_threads=False):
                batch.validate(full=True)  # offsets and UTF-8, before they are used
                columns = {name: _as_text(batch.column(name)) for name in names}
                for i in range(batch.num_rows):
                    number += 1
                    row = {name: column[i].as_py() or "" for name, column in columns.items()}
                    yield filled_row(number, template, row, max_bytes, f"{where}, row {number}")
    except _ERRORS as error:
        reason = str(error).split("\n", maxsplit=1)[0][:200]
        raise SourceError(f"{where}: expected a Parquet file, found after row {number}: {reason!a}.") from error


def _check(table: Any, template: RowTemplate, where: str) -> None:
    schema = table.schema_arrow
    template.check_columns(schema.names, where)
    for name in template.columns:
        if schema.names.count(name) > 1:
            raise SourceError(f"{where}: expected each column once, found {name!a} twice.")
        kind = schema.field(name).type
        if not _is_plain(kind.value_type if pa.types.is_dictionary(kind) else kind):
            raise SourceError(
                f"{where}: expected text, numbers, times or booleans in {name!a}, found {str(kind)[:80]}."
            )


def _rows_at_once(table: Any) -> int:
    """Return so many rows that they take about 64 MiB at most, by what the file says of its row groups.

    Of the metadata only the row groups' own are asked: a damaged column chunk's end the process (Arrow 26, column()).
    """
    groups = [table.metadata.row_group(i) for i in range(table.metadata.num_row_groups)]
    widest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(_MAX_ROWS_AT_ONCE, _BATCH_BYTES // max(widest, 1)))


def _is_plain(kind: Any) -> bool:
    t = pa.types
    text = (t.is_string, t.is_large_string, t.is_string_view)
    others = (t.is_integer, t.is_floating, t.is_boolean, t.is_decimal, t.is_date, t.is_time, t.is_timestamp, t.is_null)
    return any(is_it(kind) for is_it in (*text, *others))


def _as_text(column: Any) -> Any:
    """Return a column whose items are text; a dictionary stays one, so that equal long cells are held once."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column if _is_string(kind.value_type) else pc.cast(column, pa.string())
    return column if _is_string(kind) else pc.cast(column, pa.string())


def _is_string(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
