"""One training at a time writes a folder of checkpoints. Imports no torch.

The lock is the kernel's (flock): it ends with its process, however that ends, and holds between machines where the file
system carries it (NFS 4, Lustre mounted with ``flock``, GPFS, CephFS).
"""

import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from commbert.errors import TrainingError
from commbert.training.stopping import listening

_log = logging.getLogger(__name__)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_SAY_EVERY_S = 300.0


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second training out of a folder for as long as this process lives.

    Raises:
        TrainingError: If another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    with path.open("a+") as file:
        if not _take(file):
            raise TrainingError(f"{root}: another training ({_holder(file)}) writes here. Wait for it or stop it.")
        file.truncate(0)
        file.write(_myself())
        file.flush()
        yield


def wait_until_free(root: Path, most_s: float | str) -> bool:
    """Wait until nobody writes a folder of checkpoints.

    Args:
        root: The folder.
        most_s: Seconds; ``auto``: in a Slurm job without end, else not at all.

    Returns:
        Whether it is worth to go on: the folder is free, or the time is over and ``locked`` will say who holds it.
        False: this process was asked to stop.
    """
    if most_s == "auto":
        most_s = float("inf") if "SLURM_JOB_ID" in os.environ else 0.0
    path, deadline, said_at = root / ".lock", time.monotonic() + float(most_s), float("-inf")
    if not path.is_file():
        return True
    with listening() as stop, path.open("a+") as file:
        while not _take(file):
            now = time.monotonic()
            if stop.requested:
                return False
            if now >= deadline:
                return True
            if now - said_at > _SAY_EVERY_S:
                _log.warning("%s: another training (%s) writes here; waiting for its end", root, _holder(file))
                said_at = now
            time.sleep(min(1.0, deadline - now))
    return True


def _take(file: IO[str]) -> bool:
    """Lock a file that is open; without a word from whoever holds it, False."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _log.warning(
            "%s: this file system has no locks (%s), so nothing keeps a second training of this run out. "
            "On Lustre, mount it with -o flock.",
            *(file.name, error.strerror),
        )
    return True


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read(200).strip() or "unknown"


def _myself() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {socket.gethostname()}" + (f", Slurm job {job}" if job else "")
