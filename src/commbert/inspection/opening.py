"""What lies at a path: one of our tables, in one file or in several, or a Parquet file of others."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from commbert import tables
from commbert.artifacts import read_json
from commbert.errors import DataError

KNOWN = {value.name: value for value in vars(tables).values() if isinstance(value, tables.Table)}
"""Our tables, by name."""
_PREFIX = b"commbert."
_SHARD = re.compile(r".+-\d{5}-of-\d{5}")
"""Name of a shard (settings.corpus): such files of a folder are together one table."""


@dataclass(frozen=True)
class Part:
    """One Parquet file: what its footer says."""

    path: Path
    n_bytes: int
    group_rows: tuple[int, ...]
    """Rows of each row group."""
    schema: pa.Schema
    about: dict[str, str]
    """Our metadata; empty in a file of others."""

    @property
    def n_rows(self) -> int:
        """Rows of the file."""
        return sum(self.group_rows)


@dataclass(frozen=True)
class Opened:
    """One table: a file, or the files that together are it."""

    path: Path
    parts: tuple[Part, ...]
    about: dict[str, str]
    """Name, version, digests; of a list of files what the list says."""
    notes: tuple[str, ...]
    """What a reader should know: not ours, another version, files of different kinds."""

    @property
    def name(self) -> str:
        """Name of the table; empty if it is none of ours."""
        return self.about.get("table", "") if self.about.get("table") in KNOWN else ""

    @property
    def n_rows(self) -> int:
        """Rows of all files."""
        return sum(part.n_rows for part in self.parts)

    @property
    def schema(self) -> pa.Schema:
        """Columns, as the first file has them."""
        return self.parts[0].schema


def open_tables(path: Path) -> list[Opened]:
    """Read the footers of what lies at a path.

    Args:
        path: A Parquet file; a list of files (``windows/train.json``); or a folder of Parquet files, where the shards
            of one table are one table and every other file is one of its own.

    Raises:
        DataError: If there is none, or one cannot be read.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise DataError(f"{path}: expected a table, found nothing. Look for one in the folder results.")
    if not path.is_file():
        raise DataError(f"{path}: expected a file or a folder, found something else, which may never end.")
    if path.suffix == ".json":
        return [_open_list(path)]
    return [_as_one(path, [open_part(path)])]


def open_part(path: Path) -> Part:
    """Read the footer of a Parquet file.

    Raises:
        DataError: If it is no Parquet file.
    """
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            about = {
                k[len(_PREFIX) :].decode(errors="replace"): v.decode(errors="replace")
                for k, v in (metadata.metadata or {}).items()
                if k.startswith(_PREFIX)
            }
            groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
            return Part(path, path.stat().st_size, groups, file.schema_arrow.remove_metadata(), about)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error of a file that is no Parquet, in one line."""
    told = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"{path}: expected a Parquet file, found one that cannot be read as such: {told}")


def _open_folder(folder: Path) -> list[Opened]:
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        inner = sorted({p.parent.name for p in folder.glob("*/*.parquet")})[:10]
        raise DataError(
            f"{folder}: expected a folder with .parquet files, found none"
            + (f". There are some in: {', '.join(inner)}." if inner else ".")
        )
    shards: dict[tuple[Any, ...], list[Part]] = {}
    out: list[Opened] = []
    for path in paths:
        part = open_part(path)
        if _SHARD.fullmatch(path.stem):
            shards.setdefault((part.about.get("table"), part.about.get("version")), []).append(part)
        else:
            out.append(_as_one(path, [part]))
    return [*(_as_one(folder, parts) for parts in shards.values()), *out]


def _open_list(path: Path) -> Opened:
    listed = read_json(path)
    entries = listed.get("parts") if isinstance(listed, dict) else None
    are_files = isinstance(entries, list) and all(
        isinstance(e, dict) and isinstance(e.get("path"), str) for e in entries
    )
    if not entries or not are_files:
        raise DataError(
            f"{path}: expected a .parquet file or a list of them (as windows/train.json), found other JSON."
        )
    parts = [open_part(path.parent / entry["path"]) for entry in entries]
    stale = [p.path.name for p, entry in zip(parts, entries, strict=True) if p.n_rows != entry.get("rows")]
    about = {k: str(v) for k, v in listed.items() if k != "parts"}
    notes = (f"The list was written for other files: {', '.join(stale[:5])}.",) if stale else ()
    return _as_one(path, parts, about, notes)


def _as_one(
    path: Path, parts: Sequence[Part], about: dict[str, str] | None = None, notes: tuple[str, ...] = ()
) -> Opened:
    about = _common([p.about for p in parts]) if about is None else about
    return Opened(path, tuple(parts), about, (*notes, *_notes(parts, about)))


def _common(abouts: Sequence[dict[str, str]]) -> dict[str, str]:
    """Return the entries of the first file, with what differs between files said so; rows are counted elsewhere."""
    return {
        k: v if all(a.get(k) == v for a in abouts) else "differs by file" for k, v in abouts[0].items() if k != "rows"
    }


def _notes(parts: Sequence[Part], about: dict[str, str]) -> list[str]:
    notes: list[str] = []
    known = KNOWN.get(about.get("table", ""))
    if known is None:
        notes.append("Not a table of commbert: shown as plain Parquet.")
    elif about.get("version") != str(known.version):
        notes.append(f"Version {about.get('version')}; this commbert reads version {known.version}.")
    elif parts[0].schema != known.schema:
        notes.append(f"The columns are not those of {known.name}.")
    if known is not None and any(p.about.get("rows") != str(p.n_rows) for p in parts):
        notes.append("The number of rows is not the one that was written: the file is damaged.")
    if any(p.schema != parts[0].schema for p in parts):
        notes.append("The files differ in their columns; shown are those of the first.")
    return notes
