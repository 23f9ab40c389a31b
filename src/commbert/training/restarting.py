"""How a start of the training processes ended, and whether they are started again. Imports no torch."""

import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from commbert.errors import EXIT_PEER_LOST, EXIT_UNEXPECTED, EXIT_USER_ERROR, printable
from commbert.training.stopping import Stop

ATTEMPT = "COMMBERT_ATTEMPT"
"""How often the training processes were started before, by the same launcher."""


@dataclass(frozen=True)
class Verdict:
    """What the end of all processes means."""

    code: int
    """0, EXIT_STOPPED, or that of a failure."""
    reason: str = ""
    """Of a failure: which rank, and how it ended."""
    said: str = ""
    """What that rank said, as far as nobody has read it yet."""
    is_death: bool = False
    """A process died or was cut off; the same from the last checkpoint may go well. Not so after an error of ours."""


def failure(who: str, code: int, said: str = "") -> Verdict:
    """Return the verdict on a process that failed.

    Args:
        who: Its rank, and where.
        code: Its exit code; below zero: the signal that killed it.
        said: What it said, as far as nobody has read it yet.
    """
    how = f"failed with exit code {code}; its message stands above"
    if code < 0:
        how = f"was killed by {_signal_name(-code)}"
        how += " (out of memory?)" if code == -signal.SIGKILL else ""
    if code == EXIT_PEER_LOST:
        how = "lost the connection to the others"
    is_death = code < 0 or code in (EXIT_PEER_LOST, EXIT_UNEXPECTED)
    return Verdict(EXIT_USER_ERROR, f"{who} {how}", said, is_death)


def until_done(start: Callable[[int], Verdict], *, restarts: int, stop: Stop) -> int:
    """Start the processes, again after a death, and return the exit code.

    Args:
        start: Starts them all and waits for their end; its argument is how often it was called before.
        restarts: Most further starts; each goes on from the last checkpoint.
        stop: Nobody is started again after it.
    """
    for attempt in range(restarts + 1):
        verdict = start(attempt)
        sys.stderr.write(printable(verdict.said))
        if not verdict.reason:
            return verdict.code
        if not verdict.is_death or stop.requested or attempt == restarts:
            break
        _say(f"warning: {verdict.reason}; restart {attempt + 1} of {restarts} from the last checkpoint.")
    after = f" after {attempt} restart(s)" if attempt else ""
    _say(f"error: {verdict.reason}{after}.")
    return verdict.code


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have none
        return f"signal {number}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
