"""One workflow at a time in a working folder, by a lock that dies with its holder.

Snakemake's own lock is a file that a killed process leaves behind; the same command then stops until somebody takes it
away by hand. This one is held by the kernel (or, on NFSv4, by the server for as long as the client lives).
"""

import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

from commbert.errors import BusyError

_log = logging.getLogger("commbert")
_held: dict[Path, int] = {}
"""Descriptors of this process's locks: open, and so held, until it ends."""
_NOT_THERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def hold_run_lock(folder: Path) -> None:
    """Lock a working folder until this process ends, however it does.

    What this process starts does not hold it: a job that outlives its workflow does not keep the next one out. Where
    the file system has no locks, a warning says so.

    Args:
        folder: Where the lock's file ``commbert.lock`` lies; it stays there, and says who took it last.

    Raises:
        BusyError: If another process holds it; the message names its host and process.
    """
    path = folder.absolute() / "commbert.lock"
    if path in _held:
        return
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 500, 0).decode("utf-8", "replace").strip()
        os.close(fd)
        if error.errno in _NOT_THERE:
            _log.warning(
                "%s: this file system has no locks (%s): see to it yourself that no second snakemake runs here.",
                folder,
                error.strerror,
            )
            return
        if not isinstance(error, BlockingIOError):
            raise
        raise BusyError(
            f"{folder.absolute().parent}: another snakemake runs here ({holder or 'it does not say which'}). "
            "Wait for it, or end it there (Ctrl-C, or kill -INT with its process id). "
            "Nothing has to be unlocked: the lock ends with its process."
        ) from error
    os.ftruncate(fd, 0)
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    os.pwrite(fd, f"host {socket.gethostname()}, process {os.getpid()}, since {began}\n".encode(), 0)
    _held[path] = fd
