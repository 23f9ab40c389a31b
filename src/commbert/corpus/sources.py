"""The files of a source of any kind, shard by shard, each with its bytes or the reason why there are none."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from commbert.corpus.archives import archive_files
from commbert.corpus.naming import UNSAFE
from commbert.corpus.pinned import expanded, pinned_file
from commbert.corpus.records import table_files
from commbert.corpus.repositories import git_files
from commbert.corpus.selection import Selection, SourceFile, selection_of
from commbert.corpus.trees import tree_files, tree_paths
from commbert.corpus.zips import zip_files
from commbert.errors import SourceError
from commbert.provenance import digest
from commbert.settings.corpus import ArchiveSource, GitSource, PathSource, Source, TableSource, WheelSource

__all__ = ["SourceFile", "files_of", "paths_of", "selection_of", "source_digest"]


def files_of(source: Source, fetched: Path | None, selection: Selection, *, max_bytes: int) -> Iterator[SourceFile]:
    """Yield every file of a shard; those that are not read too, with their reason.

    They come in the order of ``selection.order(path)``, but for tar archives and tables, which are streams and come in
    their own. One file's bytes are held at a time.

    Args:
        source: The settings of the source.
        fetched: What the stage ``fetch`` made: a wheel, a bare repository, an archive; None for what lies here.
        selection: From ``selection_of``.
        max_bytes: Larger files are not read.

    Raises:
        SourceError: If the source is missing, not the pinned one, or damaged. That may show at the end only: what was
            yielded before counts when the iteration has ended.
    """
    where = f"source {source.name}"
    if isinstance(source, PathSource):
        yield from tree_files(source, selection, max_bytes=max_bytes)
    elif isinstance(source, TableSource):
        yield from table_files(source, selection, max_bytes=max_bytes)
    elif isinstance(source, GitSource):
        folder = _fetched(fetched, "repository", where)
        yield from git_files(source, folder, selection, max_bytes=max_bytes)
    elif isinstance(source, ArchiveSource):
        path = expanded(source.path, where) if source.path is not None else _fetched(fetched, "archive", where)
        with pinned_file(path, source.sha256, where) as file:
            yield from archive_files(source.name, file, selection, max_bytes=max_bytes, where=f"{where}: {path.name!a}")
    else:
        yield from _wheel_files(source, _fetched(fetched, "wheel", where), selection, max_bytes, where)


def paths_of(source: PathSource, selection: Selection) -> list[Path]:
    """Return the regular files of a shard that the patterns select, sorted (for a fingerprint)."""
    return tree_paths(source, selection)[selection.shard]


def source_digest(files: Iterable[tuple[str, str]]) -> str:
    """Return a digest over the files that were read, whatever their order and the number of shards.

    Args:
        files: Path inside the source and SHA-256 of each.
    """
    return digest(*(f"{path}\0{sha256}" for path, sha256 in sorted(files)))


def _wheel_files(
    source: WheelSource, wheel: Path, selection: Selection, max_bytes: int, where: str
) -> Iterator[SourceFile]:
    with pinned_file(wheel, source.sha256, where) as archive:
        inside = f"{where}: {wheel.name!a}"
        for file in zip_files(source.name, archive, selection, max_bytes=max_bytes, where=inside):
            if file.reason == UNSAFE:  # no packaging tool makes such
                raise SourceError(f"{inside}: {file.path!a} points outside of the archive; refused.")
            yield file


def _fetched(path: Path | None, what: str, where: str) -> Path:
    if path is None:
        raise SourceError(f"{where}: the {what} was not fetched. Run the stage fetch first.")
    return path
