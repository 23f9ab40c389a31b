"""Which files of a source a shard reads, and the order of files that no number of shards changes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pathspec

from commbert.settings.corpus import Source

NOT_INCLUDED = "not included"
EXCLUDED = "excluded"


@dataclass(frozen=True)
class SourceFile:
    """One file of a source; ``data`` is None where ``reason`` says why it was not read."""

    source: str
    path: str
    """Name inside the source, ``/`` between folders; bytes that are no UTF-8 as ``\\xNN``."""
    n_bytes: int
    data: bytes | None
    reason: str
    """Empty for a file that was read."""
    split: str = ""
    """Where the source says that it belongs; empty if it does not."""


@dataclass(frozen=True)
class Selection:
    """The files of one shard of a source.

    Files are dealt by a hash of their group, which is their directory (or the file itself), so that a new file or
    directory touches the shard it belongs to and no other. The order of files is that of these hashes: shard after
    shard it is the same for any number of shards.
    """

    include: Sequence[str]
    exclude: Sequence[str]
    shard: int = 0
    n_shards: int = 1
    by_file: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "_include", pathspec.GitIgnoreSpec.from_lines(self.include))
        object.__setattr__(self, "_exclude", pathspec.GitIgnoreSpec.from_lines(self.exclude))

    def is_here(self, path: str) -> bool:
        """Return whether the path belongs to this shard, whatever the patterns say of it."""
        return self.n_shards == 1 or self.shard_of(path) == self.shard

    def shard_of(self, path: str) -> int:
        """Return the shard that the path belongs to."""
        return self._hash(path) * self.n_shards >> 64

    def reason(self, path: str) -> str:
        """Return why the patterns leave the path out; empty if they do not."""
        if not self._include.match_file(path):  # type: ignore[attr-defined]
            return NOT_INCLUDED
        return EXCLUDED if self._exclude.match_file(path) else ""  # type: ignore[attr-defined]

    def order(self, path: str) -> tuple[int, bytes]:
        """Return the key that files are sorted by."""
        return self._hash(path), path.encode("utf-8", "surrogatepass")

    def _hash(self, path: str) -> int:
        group = path if self.by_file else str(PurePosixPath(path).parent)
        digest = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big")


def selection_of(source: Source, shard: int) -> Selection:
    """Return which files one shard of a source reads."""
    return Selection(source.include, source.exclude, shard, source.shards, source.shard_by == "file")
