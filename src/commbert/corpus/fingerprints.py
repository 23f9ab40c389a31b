"""Digests of what lies outside of the workflow, so that edited files rerun a stage and touched ones do not."""

from functools import cache
from pathlib import Path

from commbert.corpus.pinned import expanded
from commbert.corpus.selection import selection_of
from commbert.corpus.trees import tree_paths
from commbert.errors import SourceError
from commbert.modelfolder import FILES
from commbert.provenance import fingerprint_paths
from commbert.settings.corpus import ArchiveSource, PathSource, Source, TableSource
from commbert.settings.model import BaseModelSource, PathModel

_MISSING = "missing"
_PINNED = "pinned"


def fingerprint_shard(source: Source, shard: int) -> str:
    """Return the digest of what one shard of a source reads, as it was when this process first asked.

    A missing path counts as missing: the stage ``ingest`` will say so, with its name.
    """
    return _remembered(source)[shard]


def fingerprint_shards(source: Source) -> tuple[str, ...]:
    """Return the digest of each shard, as of now; a tree is walked once for all of them.

    What a digest or a commit pins is named by its settings, and only asked whether it is there.
    """
    if isinstance(source, PathSource):
        try:
            return tuple(
                fingerprint_paths(paths, n_parts=source.shards) for paths in tree_paths(source, selection_of(source, 0))
            )
        except SourceError:
            return (_MISSING,) * source.shards
    if isinstance(source, TableSource | ArchiveSource) and source.path is not None:
        try:
            is_there = expanded(source.path, source.name).is_file()
        except SourceError:
            is_there = False
        return (_PINNED if is_there else _MISSING,) * source.shards
    return (_PINNED,) * source.shards


_remembered = cache(fingerprint_shards)


def fingerprint_base(source: BaseModelSource) -> str:
    """Return the digest of a base model folder; the other kinds are pinned by their settings."""
    if not isinstance(source, PathModel):
        return _PINNED
    try:
        folder = Path(source.path).expanduser()
    except RuntimeError:
        return _MISSING
    return fingerprint_paths([folder / name for name in FILES if (folder / name).is_file()])
