"""Being asked to stop: SIGTERM, SIGINT and SIGUSR1 become a wish that the training loop grants after its step.

Imports no torch, so that a signal that comes while a process still starts is a wish too.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stop:
    """Whether anybody asked."""

    requested = False


_listening: list[Stop] = []


@contextmanager
def listening() -> Iterator[Stop]:
    """Turn the signals into a request; a second SIGINT stops at once. Within itself it gives the same request."""
    if _listening:
        yield _listening[0]
        return
    stop = Stop()

    def request(number: int, _frame: object) -> None:
        stop.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    old = {s: signal.signal(s, request) for s in SIGNALS}
    _listening.append(stop)
    # A launcher holds them back until here, so that none is lost while this process starts.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield stop
    finally:
        _listening.clear()
        for s, handler in old.items():
            signal.signal(s, handler)
