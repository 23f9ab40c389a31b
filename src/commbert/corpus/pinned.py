"""Files that a digest pins: opened once, checked, then read from the same handle."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from commbert.errors import SourceError


def expanded(path: str, where: str) -> Path:
    """Return a path with ``~`` resolved.

    Raises:
        SourceError: If there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SourceError(f"{where}: {path!r}: {error} Set corpus.sources[].path.") from error


@contextmanager
def pinned_file(path: Path, sha256: str, where: str) -> Iterator[BinaryIO]:
    """Open a regular file whose bytes have the expected digest, at its start.

    Raises:
        SourceError: If it is missing, no regular file, unreadable, or another one.
    """
    try:
        # O_NONBLOCK: a fifo must not hang; what is no regular file is refused right after.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{where}: expected a file at {str(path)!a}, found: {_said(error)}. Check its path."
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SourceError(f"{where}: expected a file at {str(path)!a}, found a folder or device. Check its path.")
    with os.fdopen(fd, "rb") as file:
        check_digest(file, sha256, where)
        try:
            yield file
        except OSError as error:
            raise SourceError(f"{where}: {str(path)!a} cannot be read: {_said(error)}.") from error


def check_digest(file: BinaryIO, expected: str, where: str) -> None:
    """Compare an open file's digest with the pinned one, and go back to its start.

    Raises:
        SourceError: If they differ.
    """
    try:
        digest = hashlib.sha256()
        while piece := file.read(2**20):
            digest.update(piece)
        found = digest.hexdigest()
        file.seek(0)
    except OSError as error:
        raise SourceError(f"{where}: expected a readable file, found: {_said(error)}.") from error
    if found != expected:
        raise SourceError(
            f"{where}: expected sha256 {expected}, found {found}. "
            "The file is not the pinned one: fetch it again, and change sha256 only if you trust the new file."
        )


def _said(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
