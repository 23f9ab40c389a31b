"""Time and memory of a block, as the kernel counts them for this process and its ended children."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Usage:
    """Filled when the measured block ends."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_gib: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name."""
        return {k: round(v, 3) for k, v in vars(self).items()}


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure wall time, CPU time and peak memory of this process and its ended children."""
    usage = Usage()
    wall = time.monotonic()
    try:
        yield usage
    finally:
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        usage.wall_s = time.monotonic() - wall
        usage.cpu_s = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
        usage.peak_rss_gib = max(own.ru_maxrss, children.ru_maxrss) / 2**20
