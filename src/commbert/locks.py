"""Locks that end with their process, however that ends: one workflow in a working folder, one training in a run.

Snakemake's own lock is a file that a killed process leaves behind; the same command then stops until somebody takes it
away by hand. These are held by the kernel (flock), between machines where the file system carries it: NFSv4 (by the
server, for as long as the client lives), Lustre mounted with ``flock``, GPFS, CephFS.
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
    fd = opened(path)
    try:
        is_held = take(fd, path)
        holder = "" if is_held else who_holds(fd)
    except OSError:
        os.close(fd)
        raise
    if not is_held:
        os.close(fd)
        raise BusyError(
            f"{folder.absolute().parent}: another snakemake runs here ({holder}). "
            "Wait for it, or end it there (Ctrl-C, or kill -INT with its process id). "
            "Nothing has to be unlocked: the lock ends with its process."
        )
    sign(fd)
    _held[path] = fd


def opened(path: Path) -> int:
    """Open a lock's file, made if it is not there; one behind a link, which would be overwritten, is refused."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def take(fd: int, path: Path) -> bool:
    """Lock a file that is open for as long as it is; where the file system has no locks, a warning says so.

    Returns:
        False if somebody else holds it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        _log.warning(
            "%s: this file system has no locks (%s): see to it yourself that nobody else works there (on Lustre, mount "
            "it with -o flock).",
            *(path.parent, error.strerror),
        )
    return True


def sign(fd: int) -> None:
    """Write into a lock's file who holds it."""
    job = os.environ.get("SLURM_JOB_ID")
    who = f"process {os.getpid()} on {socket.gethostname()}" + (f", Slurm job {job}" if job else "")
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{who}, since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}\n".encode(), 0)


def who_holds(fd: int) -> str:
    """Return what the holder of a lock has written into its file."""
    text = os.pread(fd, 500, 0).decode("utf-8", "replace")
    return "".join(c for c in text if c.isprintable()).strip() or "it does not say who"
