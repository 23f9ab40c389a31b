"""One training at a time writes a folder of checkpoints. Imports no torch."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commbert.errors import TrainingError
from commbert.locks import sign, take, who_holds
from commbert.training.stopping import listening

_log = logging.getLogger(__name__)
_SAY_EVERY_S = 300.0
_STOPPING_S = 30.0
"""That long a training whose workflow was killed may still save, when the same command is already there again."""


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep a second training out of a folder for as long as this process lives.

    Raises:
        TrainingError: If another process holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    with path.open("a+") as file:
        if not take(file.fileno(), path):
            holder = who_holds(file.fileno())
            raise TrainingError(f"{root}: another training ({holder}) writes here. Wait for it or stop it.")
        sign(file.fileno())
        yield


def wait_until_free(root: Path, most_s: float | str) -> bool:
    """Wait until nobody writes a folder of checkpoints.

    Args:
        root: The folder.
        most_s: Seconds; ``auto``: in a Slurm job without end, else for as long as one that was told to stop may take.

    Returns:
        Whether it is worth to go on: the folder is free, or the time is over and ``locked`` will say who holds it.
        False: this process was asked to stop.
    """
    if most_s == "auto":
        most_s = float("inf") if "SLURM_JOB_ID" in os.environ else _STOPPING_S
    path, deadline, said_at = root / ".lock", time.monotonic() + float(most_s), float("-inf")
    if not path.is_file():
        return True
    with listening() as stop, path.open("a+") as file:
        while not take(file.fileno(), path):
            now = time.monotonic()
            if stop.requested:
                return False
            if now >= deadline:
                return True
            if now - said_at > _SAY_EVERY_S:
                holder = who_holds(file.fileno())
                _log.warning("%s: another training (%s) writes here; waiting for its end", root, holder)
                said_at = now
            time.sleep(min(1.0, deadline - now))
    return True
