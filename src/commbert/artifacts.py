"""Files and folders that appear whole or not at all, with the digests of what is in them.

Write to a sibling, fsync, rename: a reader sees the old state or the new one, and a full disk or a kill leaves the old.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commbert.errors import ArtifactError

MANIFEST = "manifest.json"
_LEFTOVER = re.compile(r"\.(.+)\.(tmp|old)-\d+")
"""Names of what is being written or set aside, with the process that does it."""


def _own_number() -> str:
    """Return a number of this process: on a shared file system one of another machine may have its process id."""
    return f"{zlib.crc32(socket.gethostname().encode())}{os.getpid():07d}"


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write; on success it becomes ``path``, on any error it vanishes.

    Raises:
        ArtifactError: If the disk is full; the message names the path and the free space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.tmp-{_own_number()}")
    try:
        with disk_full_named(path):
            yield tmp
            _fsync(tmp)
            tmp.replace(path)
            _fsync(path.parent)
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, about: dict[str, Any] | None = None) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it becomes ``path``, with a manifest of its files.

    Args:
        about: Stored in the manifest under ``about``.

    Raises:
        ArtifactError: If the disk is full; the message names the path and the free space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.tmp-{_own_number()}")
    old = path.with_name(f".{path.name}.old-{_own_number()}")
    shutil.rmtree(tmp, ignore_errors=True)
    try:
        with disk_full_named(path):
            tmp.mkdir()
            yield tmp
            _write_manifest(tmp, about or {})
            if path.exists():
                path.rename(old)
            tmp.rename(path)
            _fsync(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        shutil.rmtree(tmp, ignore_errors=True)
        if old.is_symlink():
            old.unlink()  # into a cache: what it points to is not ours
        else:
            shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove temporary files and folders that a killed writer left; bring back what it had set aside.

    Args:
        folder: Where to look.
        names: The files and folders that we write there; None: all of the folder is ours.
    """
    found = [(path, m) for path in folder.glob(".*") if (m := _LEFTOVER.fullmatch(path.name))]
    ours = [(path, m[1], m[2]) for path, m in found if names is None or m[1] in names]
    for path, name, kind in ours:
        if kind == "old" and not (folder / name).exists():
            path.rename(folder / name)
    for path, _, _ in ours:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder written by ``atomic_folder``.

    Raises:
        ArtifactError: If there is none.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not (isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and "about" in manifest):
            raise ValueError("not a manifest")
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: expected a complete folder, found no readable {MANIFEST}. Make it anew."
        ) from error
    return manifest


def verify_folder(folder: Path) -> dict[str, Any]:
    """Check every file against the manifest and return it.

    Raises:
        ArtifactError: Naming the first file that is missing or differs.
    """
    manifest = read_manifest(folder)
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path}: named in {MANIFEST}, but missing. The folder is damaged; make it anew.")
        found = sha256_file(path)
        if found != digest:
            raise ArtifactError(f"{path}: expected sha256 {digest[:16]}, found {found[:16]}. The file is damaged.")
    return manifest


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole."""
    with atomic_file(path) as tmp:
        tmp.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write readable, sorted, valid JSON (a NaN is an error, not a token that other readers refuse)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: If it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected a JSON file, found: {error}. Rerun the stage that makes it.") from error


def free_gib(path: Path) -> float:
    """Return the free space, in GiB, of the file system that holds ``path`` or its nearest existing parent."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free / 2**30


@contextmanager
def disk_full_named(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk into a message that names the path and the free space."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not full and "No space left" not in str(error) and "File too large" not in str(error):
            raise
        raise ArtifactError(
            f"{path}: the disk is full ({free_gib(path):.2f} GiB free). Nothing was replaced; make room and run again."
        ) from error


def _write_manifest(folder: Path, about: dict[str, Any]) -> None:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        _fsync(path)
    digests = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    text = json.dumps({"about": about, "files": digests}, indent=1, sort_keys=True, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    _fsync(folder / MANIFEST)
    _fsync(folder)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
