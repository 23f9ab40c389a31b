"""corpus: all shards to one table of files: copies are dropped, and what stays is dealt to the splits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from commbert import tables
from commbert.artifacts import read_json, write_json
from commbert.corpus.duplicates import exact_copies, linked_files, near_copies
from commbert.corpus.ingestion import accounting, reason_class
from commbert.corpus.selection import EXCLUDED, NOT_INCLUDED
from commbert.corpus.sources import source_digest
from commbert.corpus.splitting import SplitInput, split_files
from commbert.errors import DataError, SourceError
from commbert.provenance import digest
from commbert.settings.corpus import GatheringSettings, Source


@dataclass(frozen=True)
class ShardPaths:
    """What the stage ``ingest`` made of one shard."""

    files: Path
    summary: Path


@dataclass
class _Files:
    """The files of all shards, in the order of the corpus."""

    columns: dict[str, list[Any]]
    shards: list[str]
    line_hashes: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.columns["path"])

    def name(self, i: int) -> str:
        return f"{self.columns['source'][i]}:{self.columns['path'][i]}"


def run(
    settings: GatheringSettings, *, shards: Sequence[ShardPaths], files_out: Path, shards_out: Path, summary_out: Path
) -> dict[str, Any]:
    """Gather all shards.

    Args:
        settings: Sources, copies, splits.
        shards: The shards, in the order of the sources and of their numbers.
        files_out: Becomes the table corpus/files.
        shards_out: Becomes the number of files of each shard (JSON).
        summary_out: Becomes the accounting: every file, byte and line that came in.

    Raises:
        SourceError: If a source has no usable file, or is not the pinned one.
        DataError: If there are too few files for three splits.
    """
    files = _read(settings, shards)
    _check_sources(files, settings.sources)
    _drop_copies(files, settings)
    kept = [i for i in range(len(files)) if not files.columns["reason"][i]]
    inputs = _split_inputs(files, kept, settings.sources)
    links = linked_files([files.line_hashes[i] for i in kept], settings.split.max_shared_lines)
    split = settings.split
    splits, unit = split_files(inputs, links, validation=split.validation, test=split.test, seed=split.seed)
    files.columns["split"] = [""] * len(files)
    for i, name in zip(kept, splits, strict=True):
        files.columns["split"][i] = name
    crossing = sum(splits[a] != splits[b] for a, b in links)
    corpus_digest = digest(*(f"{files.name(i)}\0{files.columns['sha256'][i]}" for i in sorted(kept, key=files.name)))
    columns = {
        **files.columns,
        "file_id": np.arange(len(files), dtype=np.uint32),
        "kept": [not reason for reason in files.columns["reason"]],
    }
    # How the sources are dealt to shards changes no result, so it stands in no digest.
    told = settings.model_copy(update={"sources": tuple(s.model_copy(update={"shards": 1}) for s in settings.sources)})
    provenance = {"settings": digest(told.as_json()), "inputs": corpus_digest}
    tables.write(files_out, tables.FILES, columns, provenance=provenance)
    counts = Counter(files.shards)
    names = [name for source in settings.sources for name in source.shard_names]
    write_json(shards_out, [{"shard": name, "files": counts[name]} for name in names])
    summary = {
        "accounting": _checked_accounting(files),
        "corpus_digest": corpus_digest,
        "split_by": unit,
        "links_across_splits": crossing,
        "splits": {name: _split_facts(files, name) for name in tables.SPLITS},
        "sources": [_source_facts(files, s) for s in settings.sources],
        "encodings": dict(sorted(Counter(files.columns["encoding"][i] for i in kept).items())),
        "secrets": dict(sorted(_secrets(shards).items())),
        "skipped_examples": _examples(files),
    }
    write_json(summary_out, summary)
    return summary


def _read(settings: GatheringSettings, shards: Sequence[ShardPaths]) -> _Files:
    names = [(source.name, shard) for source in settings.sources for shard in source.shard_names]
    if len(names) != len(shards):
        raise DataError(f"corpus: expected {len(names)} shards as in corpus.sources, found {len(shards)}.")
    plain = [n for n in tables.SHARD_FILES.schema.names if n != "line_hashes"]
    columns: dict[str, list[Any]] = {n: [] for n in ("source", *plain)}
    of_shard: list[str] = []
    line_hashes: list[np.ndarray] = []
    for (source, shard), paths in zip(names, shards, strict=True):
        table = tables.read(paths.files, tables.SHARD_FILES)
        columns["source"] += [source] * table.num_rows
        of_shard += [shard] * table.num_rows
        for name in plain:
            columns[name] += table[name].to_pylist()
        values, offsets = tables.list_values(table["line_hashes"])
        line_hashes += np.split(values, offsets[1:-1]) if table.num_rows else []
    return _Files(columns, of_shard, line_hashes)


def _split_inputs(files: _Files, kept: Sequence[int], sources: Sequence[Source]) -> list[SplitInput]:
    columns = files.columns
    tables_of_rows = {source.name for source in sources if source.kind == "table"}
    return [
        SplitInput(
            source=columns["source"][i],
            path=columns["path"][i],
            n_lines=columns["n_used_lines"][i],
            split=columns["split"][i],
            is_row=columns["source"][i] in tables_of_rows,
        )
        for i in kept
    ]


def _check_sources(files: _Files, sources: Sequence[Source]) -> None:
    for source in sources:
        rows = [i for i, name in enumerate(files.columns["source"]) if name == source.name]
        reasons = Counter(reason_class(files.columns["reason"][i]) for i in rows)
        if not reasons[""]:
            found = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items())) or "no file at all"
            raise SourceError(
                f"source {source.name}: expected at least one usable file, found {found}. "
                "Check include, exclude and the place of this source in corpus.sources."
            )
        if source.kind == "path" and source.digest is not None and _source_digest(files, source.name) != source.digest:
            raise SourceError(
                f"source {source.name}: expected digest {source.digest}, found {_source_digest(files, source.name)}: "
                "its files are not those that were pinned. Change digest only if you trust the new ones."
            )


def _source_digest(files: _Files, source: str) -> str:
    columns = files.columns
    read = [i for i, name in enumerate(columns["source"]) if name == source and columns["sha256"][i]]
    return source_digest((columns["path"][i], columns["sha256"][i]) for i in read)


def _drop_copies(files: _Files, settings: GatheringSettings) -> None:
    reasons = files.columns["reason"]
    if settings.drop_duplicates:
        for i, twin in exact_copies(files.columns["sha256"], [not r for r in reasons]).items():
            reasons[i] = f"duplicate of {files.name(twin)}"
    if settings.near_duplicates is not None:
        left = [i for i, reason in enumerate(reasons) if not reason]
        for i, (twin, share) in near_copies(left, files.line_hashes, settings.near_duplicates).items():
            reasons[i] = f"near duplicate of {files.name(twin)} ({100 * share:.0f} % of their lines)"


def _checked_accounting(files: _Files) -> dict[str, dict[str, int]]:
    """Return the accounting after checking that what came in is what is accounted for."""
    table = accounting(files.columns)
    came_in = {
        "files": len(files),
        "bytes": sum(files.columns["n_bytes"]),
        "lines": sum(files.columns["n_lines"]),
    }
    for unit, n in came_in.items():
        accounted = sum(row[unit] for row in table.values())
        if accounted != n:
            raise DataError(f"corpus: {n} {unit} came in, {accounted} are accounted for. Please report it.")
    return table


def _split_facts(files: _Files, split: str) -> dict[str, Any]:
    rows = [i for i, name in enumerate(files.columns["split"]) if name == split]
    folders = {f"{files.columns['source'][i]}:{PurePosixPath(files.columns['path'][i]).parent}" for i in rows}
    return {
        "files": len(rows),
        "lines": sum(files.columns["n_used_lines"][i] for i in rows),
        "n_directories": len(folders),
        "directories": sorted(folders)[:50],
    }


def _source_facts(files: _Files, source: Source) -> dict[str, Any]:
    pins = ("package", "version", "url", "commit", "path", "sha256")
    rows = [i for i, name in enumerate(files.columns["source"]) if name == source.name]
    used = [i for i in rows if not files.columns["reason"][i]]
    return {
        "name": source.name,
        "kind": source.kind,
        "license": source.license,
        **{p: str(value) for p in pins if (value := getattr(source, p, None)) is not None},
        "digest": _source_digest(files, source.name),
        "files_used": len(used),
        "lines_used": sum(files.columns["n_used_lines"][i] for i in used),
    }


def _secrets(shards: Sequence[ShardPaths]) -> Counter[str]:
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(read_json(shard.summary)["secrets"])
    return total


def _examples(files: _Files) -> list[str]:
    """Return the first files of each reason that is worth a look."""
    seen: Counter[str] = Counter()
    out: list[str] = []
    for i, reason in enumerate(files.columns["reason"]):
        kind = reason_class(reason)
        if kind not in ("", NOT_INCLUDED, EXCLUDED) and seen[kind] < 5:
            out.append(f"{files.name(i)}: {reason}")
        seen[kind] += 1
    return out
