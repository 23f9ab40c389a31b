"""ingest: one shard of a source to its files and lines."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.ingestion import file_columns, ingest
from commbert.corpus.selection import Selection, SourceFile
from commbert.corpus.sources import files_of, selection_of
from commbert.provenance import digest
from commbert.settings.corpus import ShardSettings


def run(
    settings: ShardSettings, *, shard: int, fetched: Path | None, files_out: Path, lines_out: Path, summary_out: Path
) -> dict[str, Any]:
    """Read one shard.

    Args:
        settings: The source, and what is dropped from it.
        shard: Number of the shard, from 0.
        fetched: What the stage ``fetch`` made of the source; None if it lies on this machine.
        files_out: Becomes the table shard/files.
        lines_out: Becomes the table shard/lines.
        summary_out: Becomes what only this stage knows (JSON).

    Raises:
        SourceError: If the source is missing or is not the pinned one.
    """
    source, cleaning = settings.source, settings.cleaning
    selection = selection_of(source, shard)
    found: Iterable[SourceFile] = files_of(source, fetched, selection, max_bytes=int(cleaning.max_file_mib * 2**20))
    if source.kind in ("archive", "table"):
        found = _in_order(found, selection)
    provenance = {"settings": digest(settings.as_json())}
    with tables.writing(lines_out, tables.LINES, provenance=provenance) as lines:
        files, secrets = ingest(found, cleaning, lines.add)
    columns: dict[str, pa.Array | list[Any]] = file_columns(files)
    columns["line_hashes"] = tables.list_column(tables.SHARD_FILES, "line_hashes", [f.line_hashes for f in files])
    tables.write(files_out, tables.SHARD_FILES, columns, provenance=provenance)
    summary = {"source": source.name, "shard": shard, "files": len(files), "lines": lines.n_rows, "secrets": secrets}
    write_json(summary_out, summary)
    return summary


def _in_order(files: Iterable[SourceFile], selection: Selection) -> list[SourceFile]:
    """Sort what comes in the order of a stream: a shard of it is held in memory."""
    return sorted(files, key=lambda file: selection.order(file.path))
