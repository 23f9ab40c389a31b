"""One training at a time writes a folder of checkpoints. Imports no torch."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commbert.errors import TrainingError
from commbert.locks import opened, sign, take, who_holds
from commbert.training.restarting import ATTEMPT
from commbert.training.stopping import Stop, listening

_log = logging.getLogger(__name__)
_SAY_EVERY_S = 300.0
_STOPPING_S = 30.0
"""That long a training whose workflow was killed may still save, when the same command is already there again."""


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second training out of a folder for as long as this process lives.

    After a restart the one before may still take its last step, where it has not noticed that others were killed: it is
    waited for.

    Raises:
        TrainingError: If another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    fd = opened(path)
    wait_s = 0.0 if os.environ.get(ATTEMPT, "0") == "0" else _STOPPING_S
    try:
        with listening() as stop:
            if not _waited(path, fd, time.monotonic() + wait_s, stop):
                raise _busy(root, fd)
        sign(fd)
        yield
    finally:
        os.close(fd)


def wait_for_turn(root: Path, most_s: float | str) -> bool:
    """Wait until nobody trains into a folder, and let later ones wait for as long as this process lives.

    The first training process takes the lock only when it has started, maybe on another machine: of two jobs that find
    it free at the same time one would fail. So whoever starts the processes has a lock too, the turn. It outlives
    ``exec``; the processes below do not hold it.

    Args:
        root: The folder.
        most_s: Seconds; ``auto``: in a Slurm job without end, else for as long as one that was told to stop may take.

    Returns:
        False: this process was asked to stop.

    Raises:
        TrainingError: If another process holds it when the time is over.
    """
    if most_s == "auto":
        most_s = float("inf") if "SLURM_JOB_ID" in os.environ else _STOPPING_S
    deadline = time.monotonic() + float(most_s)
    root.mkdir(parents=True, exist_ok=True)
    with listening() as stop:
        turn, lock = (opened(root / name) for name in (".turn", ".lock"))
        if _waited(root / ".turn", turn, deadline, stop):
            sign(turn)
            os.set_inheritable(turn, True)
            _waited(root / ".lock", lock, deadline, stop)
        os.close(lock)
        return not stop.requested


def _waited(path: Path, fd: int, deadline: float, stop: Stop) -> bool:
    """Wait for a lock; False: this process was asked to stop."""
    said_at = float("-inf")
    while not take(fd, path):
        now = time.monotonic()
        if stop.requested:
            return False
        if now >= deadline:
            raise _busy(path.parent, fd)
        if now - said_at > _SAY_EVERY_S:
            _log.warning("%s: another training (%s) writes here; waiting for its end", path.parent, who_holds(fd))
            said_at = now
        time.sleep(min(1.0, deadline - now))
    return True


def _busy(root: Path, fd: int) -> TrainingError:
    return TrainingError(f"{root}: another training ({who_holds(fd)}) writes here. Wait for it or stop it.")
