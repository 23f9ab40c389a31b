"""ingest: sources to corpus/files and corpus/lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from commbert import tables
from commbert.artifacts import write_json
from commbert.corpus.ingestion import CorpusFile, accounting, corpus_digest, ingest
from commbert.corpus.sources import files_of
from commbert.corpus.splitting import SplitInput, split_files
from commbert.errors import SourceError
from commbert.provenance import digest
from commbert.settings.corpus import CorpusSettings


def run(
    settings: CorpusSettings, *, wheels: Mapping[str, Path], files_out: Path, lines_out: Path, summary_out: Path
) -> dict[str, Any]:
    """Read all sources.

    Args:
        settings: The section ``corpus``.
        wheels: Fetched file of each wheel source, by its name.
        files_out: Becomes the table corpus/files.
        lines_out: Becomes the table corpus/lines.
        summary_out: Becomes the accounting: every file, byte and line that came in.

    Raises:
        SourceError: If a source is missing, changed, or has no usable file.
        DataError: If there are too few files for three splits.
    """
    files = _ingest_sources(settings, wheels)
    kept = [f for f in files if f.kept]
    split = settings.split
    splits, unit = split_files(
        [SplitInput(f.source, f.path, [text for _, text, _ in f.lines]) for f in kept],
        validation=split.validation,
        test=split.test,
        max_shared_lines=split.max_shared_lines,
        seed=split.seed,
    )
    split_of = {id(f): s for f, s in zip(kept, splits, strict=True)}
    provenance = {"settings": digest(settings.as_json()), "inputs": corpus_digest(files)}
    tables.write(files_out, tables.FILES, _file_columns(files, split_of), provenance=provenance)
    tables.write(lines_out, tables.LINES, _line_columns(files), provenance=provenance)
    summary = {
        "accounting": accounting(files),
        "corpus_digest": provenance["inputs"],
        "split_by": unit,
        "splits": {
            name: {
                "files": sum(s == name for s in splits),
                "lines": sum(len(f.lines) for f, s in zip(kept, splits, strict=True) if s == name),
                "directories": sorted(
                    {str(Path(f.path).parent) for f, s in zip(kept, splits, strict=True) if s == name}
                ),
            }
            for name in tables.SPLITS
        },
        "sources": [{"name": s.name, "kind": s.kind, "license": s.license, **_pin(s)} for s in settings.sources],
        "encodings": {e: sum(f.encoding == e for f in kept) for e in sorted({f.encoding for f in kept})},
        "skipped_examples": [
            f"{f.source}:{f.path}: {f.reason}"
            for f in files
            if not f.kept and f.reason not in ("not included", "excluded")
        ][:20],
    }
    write_json(summary_out, summary)
    return summary


def _ingest_sources(settings: CorpusSettings, wheels: Mapping[str, Path]) -> list[CorpusFile]:
    max_bytes = int(settings.max_file_mib * 2**20)
    members = (f for s in settings.sources for f in files_of(s, wheels.get(s.name), max_bytes=max_bytes))
    files = ingest(members, settings)
    for source in settings.sources:
        own = [f for f in files if f.source == source.name]
        if not any(f.kept for f in own):
            reasons = accounting(own)
            found = ", ".join(f"{row['files']} {reason}" for reason, row in reasons.items()) or "no file at all"
            raise SourceError(
                f"source {source.name}: expected at least one usable file, found {found}. "
                "Check include, exclude and path of this source in corpus.sources."
            )
    return files


def _pin(source: Any) -> dict[str, str]:
    if source.kind == "wheel":
        return {"package": source.package, "version": source.version, "sha256": source.sha256}
    return {"path": source.path}


def _file_columns(files: list[CorpusFile], split_of: dict[int, str]) -> dict[str, list[Any]]:
    return {
        "file_id": list(range(len(files))),
        "source": [f.source for f in files],
        "path": [f.path for f in files],
        "language": [f.language for f in files],
        "split": [split_of.get(id(f), "") for f in files],
        "n_lines": [f.n_lines for f in files],
        "n_bytes": [f.n_bytes for f in files],
        "sha256": [f.sha256 for f in files],
        "kept": [f.kept for f in files],
        "reason": [f.reason for f in files],
    }


def _line_columns(files: list[CorpusFile]) -> dict[str, Any]:
    rows = [(i, *line) for i, f in enumerate(files) if f.kept for line in f.lines]
    file_ids, line_nos, texts, codes = zip(*rows, strict=True)
    return {
        "file_id": pa.array(file_ids, pa.uint32()),
        "line_no": pa.array(line_nos, pa.uint32()),
        "text": pa.array(texts, pa.string()),
        "code": pa.array(codes, pa.string()),
    }
