"""The files of a source, in a fixed order, each with its bytes or the reason why there are none."""

import glob
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pathspec

from commbert.corpus.fetching import check_sha256, read_member, wheel_members
from commbert.errors import SourceError
from commbert.settings.corpus import PathSource, WheelSource

_IGNORED_FOLDERS = frozenset({".git", ".hg", ".svn", "__pycache__", ".snakemake", ".venv", "node_modules"})
_OWN_FOLDERS = ("results", "reports")
"""What this workflow writes below the working folder is no source of it."""


@dataclass(frozen=True)
class SourceFile:
    """One file; ``data`` is None where ``reason`` says why it was not read."""

    source: str
    path: str
    n_bytes: int
    data: bytes | None
    reason: str


def files_of(source: WheelSource | PathSource, wheel: Path | None, *, max_bytes: int) -> Iterator[SourceFile]:
    """Yield the files of a source, sorted by path; files that the patterns leave out are yielded with that reason.

    Args:
        source: The settings of the source.
        wheel: The fetched file, for a wheel.
        max_bytes: Larger files are not read.

    Raises:
        SourceError: If the source is missing or is not the pinned one.
    """
    spec = _Patterns(source.include, source.exclude)
    if isinstance(source, WheelSource):
        if wheel is None:
            raise SourceError(f"source {source.name}: the wheel was not fetched. Run the stage fetch first.")
        check_sha256(wheel, source.sha256, f"source {source.name}")
        yield from _wheel_files(source, wheel, spec, max_bytes)
    else:
        yield from _path_files(source, spec, max_bytes)


def paths_of(source: PathSource) -> list[Path]:
    """Return the regular files of a path source that its patterns select, sorted (for a fingerprint)."""
    spec = _Patterns(source.include, source.exclude)
    return [path for root, path, kind in _walked(source) if kind == "file" and spec.reason(_name(root, path)) is None]


class _Patterns:
    def __init__(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> None:
        self._include = pathspec.GitIgnoreSpec.from_lines(include)
        self._exclude = pathspec.GitIgnoreSpec.from_lines(exclude)

    def reason(self, path: str) -> str | None:
        """Return why the patterns leave the path out, None if they do not."""
        if not self._include.match_file(path):
            return "not included"
        return "excluded" if self._exclude.match_file(path) else None


def _wheel_files(source: WheelSource, wheel: Path, spec: _Patterns, max_bytes: int) -> Iterator[SourceFile]:
    for name, n_bytes, member, archive in wheel_members(wheel):
        reason = spec.reason(name) or ("too large" if n_bytes > max_bytes else "")
        data = None if reason else read_member(archive, member, max_bytes)
        yield SourceFile(source.name, name, n_bytes, data, reason)


def _path_files(source: PathSource, spec: _Patterns, max_bytes: int) -> Iterator[SourceFile]:
    for root, path, kind in _walked(source):
        name = _name(root, path)
        reason = spec.reason(name)
        if kind.startswith("unreadable"):
            yield SourceFile(source.name, name, 0, None, kind)
        elif kind != "file":
            yield SourceFile(source.name, name, 0, None, reason or kind)
        elif reason:
            yield SourceFile(source.name, name, path.lstat().st_size, None, reason)
        else:
            yield _read(source.name, name, path, max_bytes)


def _read(source: str, name: str, path: Path, max_bytes: int) -> SourceFile:
    # O_NOFOLLOW and O_NONBLOCK: a link or fifo that took the file's place since the walk neither leads away nor hangs.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        return SourceFile(source, name, _size(path), None, f"unreadable ({error.strerror})")
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return SourceFile(source, name, 0, None, "not a regular file")
        if status.st_size > max_bytes:
            return SourceFile(source, name, status.st_size, None, "too large")
        try:
            data = file.read(max_bytes + 1)
        except OSError as error:
            return SourceFile(source, name, status.st_size, None, f"unreadable ({error.strerror})")
    if len(data) > max_bytes:
        return SourceFile(source, name, len(data), None, "too large")
    return SourceFile(source, name, len(data), data, "")


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _walked(source: PathSource) -> list[tuple[Path, Path, str]]:
    """Return (root, path, kind) of everything below a path source, sorted; kind is ``file`` or why it is none."""
    try:
        start = Path(source.path).expanduser()
    except RuntimeError as error:
        raise SourceError(f"source {source.name}: {source.path!r}: {error} Set corpus.sources[].path.") from error
    if start.is_file() or start.is_dir():
        roots = [start]
    else:
        roots = [Path(p) for p in sorted(glob.glob(str(start), recursive=True))]  # noqa: PTH207  (absolute patterns)
    if not roots:
        raise SourceError(
            f"source {source.name}: expected a file, folder or glob pattern that matches something, "
            f"found nothing at {source.path!r}. Set corpus.sources[].path."
        )
    is_glob = roots != [start]
    anchor = _fixed_part(start) if is_glob else start
    found: dict[Path, tuple[Path, Path, str]] = {}
    for root in roots:
        if (root.is_dir() and not root.is_symlink()) or (root == start and root.is_dir()):
            for path, kind in _scan(root):
                found.setdefault(path, (anchor, path, kind))
        else:
            found.setdefault(root, (anchor if is_glob else root.parent, root, _kind(root.lstat().st_mode)))
    return sorted(found.values(), key=lambda item: os.fsencode(item[1]))


def _fixed_part(pattern: Path) -> Path:
    """Return the folder that a glob pattern starts from: names are relative to it, so that no two files share one."""
    parts = list(takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    return Path(*parts)


def _scan(folder: Path) -> Iterator[tuple[Path, str]]:
    """Walk without following links and without recursion (a tree may be thousands of levels deep)."""
    own = {str((Path.cwd() / name).resolve()) for name in _OWN_FOLDERS}
    todo = [folder]
    while todo:
        here = todo.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            yield here, f"unreadable folder ({error.strerror})"
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _IGNORED_FOLDERS and os.path.realpath(entry.path) not in own:
                    todo.append(Path(entry.path))
            else:
                try:
                    yield Path(entry.path), _kind(entry.stat(follow_symlinks=False).st_mode)
                except OSError as error:
                    yield Path(entry.path), f"unreadable ({error.strerror})"


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    return "symbolic link" if stat.S_ISLNK(mode) else "not a regular file"


def _name(root: Path, path: Path) -> str:
    r"""Return the path inside the source; bytes that are no UTF-8 are shown as ``\xNN``."""
    relative = path.name if root == path else os.path.relpath(path, root)
    return os.fsencode(relative).decode("utf-8", "backslashreplace")
