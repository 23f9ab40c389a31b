"""Ending with the process that started this one, so that nothing works on unseen after a workflow was killed.

Linux tells a process of its parent's death only (``PR_SET_PDEATHSIG``), and between a workflow and a stage there is a
shell. So the workflow names itself in the environment, and a stage watches it.
"""

import errno
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_log = logging.getLogger("commbert")
STARTED_BY = "COMMBERT_STARTED_BY"
"""The process that the stages are to end with, and where its number means something."""
_LOOKS_EVERY_S = 1.0


def this_process() -> str:
    """Return what names this process in ``STARTED_BY``: its number, its machine, and its namespace there."""
    return f"{os.getpid()} {_where()}"


def end_with_starter() -> None:
    """Watch the process that ``STARTED_BY`` names, if any: when it is gone, this process gets a SIGTERM.

    A training then saves its state and stops; other stages end as by any SIGTERM. The name of a process on another
    machine, or in another container, is passed over: a launcher has brought the variable there.
    """
    number, _, where = os.environ.get(STARTED_BY, "").partition(" ")
    if not number.isdigit() or where != _where():
        return

    def end() -> None:
        _log.warning("process %s, which started this one, has ended: stopping.", number)
        os.kill(os.getpid(), signal.SIGTERM)

    when_gone(int(number), end)


def when_gone(number: int, act: Callable[[], None]) -> None:
    """Call a function, in a thread, when a process of this machine has ended, or if it has already."""
    threading.Thread(target=_act_after, args=(_handle(number), number, act), daemon=True).start()


def _where() -> str:
    """Return the machine and, on Linux, the namespace in which a process number means something."""
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}".strip()


def _handle(number: int) -> int | None:
    """Return a descriptor that can be read when the process has ended; None where there is no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None  # macOS
    try:
        return os.pidfd_open(number)
    except OSError as error:
        # A process that is gone is found out by looking; so is every one where the kernel or a sandbox refuses.
        if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            _log.warning("process %d cannot be watched (%s): looking every second.", number, error.strerror)
        return None


def _act_after(handle: int | None, number: int, act: Callable[[], None]) -> None:
    if handle is None:
        while _is_there(number):
            time.sleep(_LOOKS_EVERY_S)
    else:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        waiting.poll()
    act()


def _is_there(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
