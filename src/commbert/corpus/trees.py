"""Files below a folder: no link is followed, nothing hangs, what cannot be read is named with its reason."""

import glob
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from commbert.corpus.pinned import expanded
from commbert.corpus.selection import Selection, SourceFile
from commbert.errors import SourceError
from commbert.settings.corpus import PathSource

CHANGED = "changed while it was read"
_FILE = "file"
_IGNORED_FOLDERS = frozenset({".git", ".hg", ".svn", "__pycache__", ".snakemake", ".venv", "node_modules"})
_OWN_FOLDERS = ("results", "reports")
"""What this workflow writes below the working folder is no source of it."""


class _Entry(NamedTuple):
    base: str
    """The folder from which the file is opened, a component at a time."""
    relative: str
    """From ``base`` to the file."""
    name: str
    kind: str
    """``file``, or why it is none."""

    @property
    def path(self) -> str:
        return os.path.join(self.base, self.relative)  # noqa: PTH118  (a Path of each of a million files is slow)


def tree_files(source: PathSource, selection: Selection, *, max_bytes: int) -> Iterator[SourceFile]:
    """Yield the files of one shard in the order of ``selection``, read or with a reason.

    Raises:
        SourceError: If nothing lies at the source's path.
    """
    entries = [entry for entry in _walked(source) if selection.is_here(entry.name)]
    entries.sort(key=lambda entry: (selection.order(entry.name), os.fsencode(entry.relative)))
    with _Folders() as folders:
        for entry in entries:
            reason = selection.reason(entry.name)
            if entry.kind.startswith("unreadable"):
                yield SourceFile(source.name, entry.name, 0, None, entry.kind)
            elif entry.kind != _FILE:
                yield SourceFile(source.name, entry.name, 0, None, reason or entry.kind)
            elif reason:
                yield SourceFile(source.name, entry.name, _size(entry.path), None, reason)
            else:
                yield _read(source.name, entry, folders, max_bytes)


def tree_paths(source: PathSource, selection: Selection) -> list[list[Path]]:
    """Return for each shard the regular files that the patterns select, sorted; the tree is walked once."""
    found: list[list[Path]] = [[] for _ in range(selection.n_shards)]
    for entry in _walked(source):
        if entry.kind == _FILE and not selection.reason(entry.name):
            found[selection.shard_of(entry.name)].append(Path(entry.path))
    return [sorted(paths, key=os.fsencode) for paths in found]


class _Folders:
    """Opens files relative to the folder of the file before, which is entered without following any link.

    ``O_NOFOLLOW`` alone looks at the last component only: a folder that a link took the place of would lead away.
    """

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._fd = -1

    def __enter__(self) -> "_Folders":
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    @contextmanager
    def opened(self, entry: _Entry) -> Iterator[int]:
        """Give a descriptor of a file; O_NONBLOCK: a fifo that took its place does not hang."""
        parent, _, name = entry.relative.rpartition("/")
        if (entry.base, parent) != self._key:
            self._leave()
            self._enter(entry.base, parent)
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def _enter(self, base: str, parent: str) -> None:
        self._fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        for part in parent.split("/") if parent else ():
            outer = self._fd
            try:
                self._fd = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=outer)
            except OSError:
                self._leave()
                raise
            os.close(outer)
        self._key = (base, parent)

    def _leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._key = -1, None


def _read(source: str, entry: _Entry, folders: _Folders, max_bytes: int) -> SourceFile:
    try:
        with folders.opened(entry) as fd:
            n_bytes, data, reason = _content(fd, max_bytes)
    except OSError as error:
        return SourceFile(source, entry.name, _size(entry.path), None, f"unreadable ({error.strerror})")
    return SourceFile(source, entry.name, n_bytes, data, reason)


def _content(fd: int, max_bytes: int) -> tuple[int, bytes | None, str]:
    before = os.fstat(fd)
    if not stat.S_ISREG(before.st_mode):
        return 0, None, "not a regular file"
    if before.st_size > max_bytes:
        return before.st_size, None, "too large"
    with os.fdopen(fd, "rb", closefd=False) as file:
        data = file.read(max_bytes + 1)
    after = os.fstat(fd)
    if len(data) > max_bytes:
        return len(data), None, "too large"
    if (before.st_size, before.st_mtime_ns) != (len(data), after.st_mtime_ns):
        return len(data), None, CHANGED
    return len(data), data, ""


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _walked(source: PathSource) -> Iterator[_Entry]:
    """Yield everything below a path source once, in no order."""
    start = expanded(source.path, f"source {source.name}")
    is_plain = start.is_file() or start.is_dir()
    roots = [start] if is_plain else _globbed(start, source)
    if not roots:
        raise SourceError(
            f"source {source.name}: expected a file, folder or glob pattern that matches something, "
            f"found nothing at {source.path!a}. Set corpus.sources[].path."
        )
    if is_plain:
        yield from _below(start, "" if start.is_dir() else None)
        return
    # Names are relative to the folder that the pattern starts from, so that no two files share one.
    anchor = Path(*takewhile(lambda part: not glob.has_magic(part), start.parts))
    seen: set[str] = set()
    for root in roots:
        is_folder = root.is_dir() and not root.is_symlink()
        prefix = os.path.relpath(root, anchor) if is_folder else os.path.relpath(root.parent, anchor)
        for entry in _below(root, _text("" if prefix == "." else prefix + "/") if is_folder else None):
            if entry.path not in seen:
                seen.add(entry.path)
                name = entry.name if is_folder or prefix == "." else f"{_text(prefix)}/{entry.name}"
                yield entry._replace(name=name)


def _globbed(pattern: Path, source: PathSource) -> list[Path]:
    try:
        return [Path(p) for p in sorted(glob.glob(str(pattern), recursive=True))]  # noqa: PTH207  (absolute patterns)
    except RecursionError as error:
        raise SourceError(
            f"source {source.name}: {source.path!a} matches folders nested too deep for a pattern. "
            "Name the folder as path, and the pattern in include."
        ) from error


def _below(root: Path, prefix: str | None) -> Iterator[_Entry]:
    """Yield what lies below a folder, with names that begin with the prefix; None: the root is no folder."""
    if prefix is None:
        yield _Entry(str(root.parent), root.name, _text(root.name), _kind(root.lstat().st_mode))
        return
    for relative, kind in _scan(str(root)):
        name = f"{prefix}{_text(relative)}" if relative else prefix.rstrip("/") or _text(root.name) or "."
        yield _Entry(str(root), relative, name, kind)


def _scan(root: str) -> Iterator[tuple[str, str]]:
    """Walk without following links and without recursion (a tree may be thousands of levels deep)."""
    own = {str((Path.cwd() / name).resolve()) for name in _OWN_FOLDERS}
    todo = [""]
    while todo:
        here = todo.pop()
        try:
            entries = list(os.scandir(f"{root}/{here}" if here else root))
        except OSError as error:
            yield here, f"unreadable folder ({error.strerror})"
            continue
        for entry in entries:
            relative = f"{here}/{entry.name}" if here else entry.name
            try:
                if not entry.is_dir(follow_symlinks=False):
                    yield relative, _kind_of(entry)
                elif entry.name not in _IGNORED_FOLDERS and not (
                    entry.name in _OWN_FOLDERS and os.path.realpath(entry.path) in own
                ):
                    todo.append(relative)
            except OSError as error:
                yield relative, f"unreadable ({error.strerror})"


def _kind_of(entry: os.DirEntry[str]) -> str:
    if entry.is_file(follow_symlinks=False):
        return _FILE
    return "symbolic link" if entry.is_symlink() else "not a regular file"


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return _FILE
    return "symbolic link" if stat.S_ISLNK(mode) else "not a regular file"


def _text(name: str) -> str:
    r"""Return a name of the file system as it is shown; bytes that are no UTF-8 as ``\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
