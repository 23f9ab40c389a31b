"""Rows of a table as files: CSV, TSV, JSON lines, Parquet; read row by row, whatever the size of the table.

A row's file is named ``reports.csv/000001/000001234``: row 1,234 (the first is 1) in the folder of its thousand, so
that dealing folders to shards deals thousands of rows.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from commbert.corpus.delimited import delimited_rows
from commbert.corpus.jsonlines import json_rows
from commbert.corpus.naming import shown
from commbert.corpus.parquet import parquet_rows
from commbert.corpus.pinned import expanded, pinned_file
from commbert.corpus.rows import Row
from commbert.corpus.selection import Selection, SourceFile
from commbert.corpus.streams import FREE_EXPANSION_BYTES, MAX_EXPANSION
from commbert.corpus.templates import RowTemplate
from commbert.errors import SourceError
from commbert.settings.corpus import TableSource

ROWS_PER_FOLDER = 1000


_READERS: dict[str, Callable[[BinaryIO, RowTemplate, int, str], Iterator[Row]]] = {
    ".csv": lambda file, template, n, where: delimited_rows(file, template, ",", max_bytes=n, where=where),
    ".tsv": lambda file, template, n, where: delimited_rows(file, template, "\t", max_bytes=n, where=where),
    ".jsonl": lambda file, template, n, where: json_rows(file, template, max_bytes=n, where=where),
    ".parquet": lambda file, template, n, where: parquet_rows(file, template, max_bytes=n, where=where),
}


def table_files(source: TableSource, selection: Selection, *, max_bytes: int) -> Iterator[SourceFile]:
    """Yield the rows of one shard in the order of the table, each filled into the template or with a reason.

    Raises:
        SourceError: If the table is missing, not the pinned one, or has a row that cannot be told apart for sure; at
            the end too.
    """
    template = RowTemplate(source.template, f"source {source.name}", source.split_column)
    path = expanded(source.path, f"source {source.name}")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise SourceError(
            f"source {source.name}: {path.name!a}: expected a table that ends in {', '.join(_READERS)}. "
            "Set corpus.sources[].path."
        )
    where = f"source {source.name}: {path.name!a}"
    table = shown(path.name)
    with pinned_file(path, source.sha256, f"source {source.name}") as file:
        limit = max(FREE_EXPANSION_BYTES, MAX_EXPANSION * path.stat().st_size)
        for row in read(file, template, max_bytes, where):
            name = f"{table}/{row.number // ROWS_PER_FOLDER:06d}/{row.number:09d}"
            limit -= row.n_bytes if row.data is not None else 0
            if limit < 0:
                raise SourceError(
                    f"{where}: gives {MAX_EXPANSION} times its size or more: made to fill a machine; refused."
                )
            if selection.is_here(name):
                yield _file(source.name, name, row, selection)


def _file(source: str, name: str, row: Row, selection: Selection) -> SourceFile:
    reason = row.reason or selection.reason(name)
    return SourceFile(source, name, row.n_bytes, None if reason else row.data, reason, row.split)
