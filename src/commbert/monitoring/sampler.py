"""One sampler for a stage on a node: a thread beside it that reads all sensors at intervals, at the start and the end.

Nothing that a sensor does can make the stage fail: what cannot be read is null with a reason, said once in the log.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from commbert.monitoring.energy import Gaps
from commbert.monitoring.host import COLUMNS as HOST_COLUMNS
from commbert.monitoring.host import NOTES, Host
from commbert.monitoring.nvml import Driver, Gpu, Reading, usable_driver
from commbert.monitoring.rapl import Rapl
from commbert.monitoring.samples import SampleFile
from commbert.monitoring.totals import GpuTotals, HostTotals, energy_of_all, rounded

GAP_INTERVALS, LEAST_GAP_S = 1.5, 0.5
"""Two samples further apart than both have a gap between them."""
PATIENCE_S = 10.0
"""Time for the last sample, before a sensor that does not answer is left alone."""
_log = logging.getLogger("commbert.monitoring")
T = TypeVar("T")


@dataclass
class Sensors:
    """All that is read."""

    driver: Driver
    host: Host
    rapl: Rapl


def sensors_of(root_pid: int | None) -> Sensors:
    """Return the sensors of this machine for the tree of processes below one (None: this one)."""
    return Sensors(usable_driver(), Host(root_pid), Rapl())


class Monitor:
    """Samples and what they come to.

    Args:
        samples: Where the table of samples goes.
        interval_s: Between two samples.
        sensors: Makes the sensors, in the sampler's thread: a driver may take seconds to answer.
        attempt: Of the stage, from 0.
        clock: Seconds that only grow.
        wall: Seconds since 1970.
    """

    def __init__(
        self,
        samples: Path,
        *,
        interval_s: float,
        sensors: Callable[[], Sensors],
        attempt: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._interval_s, self._make, self._clock, self._wall = interval_s, sensors, clock, wall
        self._gap_s = max(GAP_INTERVALS * interval_s, LEAST_GAP_S)
        self._file = SampleFile(samples, interval_s=interval_s, attempt=attempt)
        self._sensors: Sensors | None = None
        self._host, self._gpus = HostTotals(), dict[int, tuple[Gpu, GpuTotals]]()
        self._gaps, self._n_samples, self._first_s, self._last_s = Gaps(self._gap_s), 0, 0.0, 0.0
        self._broken: str | None = None
        self._cpu_s: float | None = None
        self._said: set[tuple[str, str]] = set()
        self._is_over, self._lock, self._ending = False, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> None:
        """Begin to sample."""
        try:
            self._thread.start()
        except RuntimeError as error:  # as many threads as this user may have
            self._broken = f"the sampler was not started: {error}"
            self._say("monitor", self._broken, logging.WARNING)

    def stop(self) -> None:
        """Take the last sample and write the table."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._broken = f"a sensor did not answer for {PATIENCE_S:.0f} s at the end"
            self._say("monitor", self._broken, logging.WARNING)
        with self._lock:
            self._is_over = True
            self._file.close()
        if self._file.reason:
            self._say("monitor", self._file.reason, logging.WARNING)

    def tick(self, *, is_last: bool = False) -> None:
        """Read all sensors once."""
        if self._sensors is None:
            self._sensors = self._make()
        sensors = self._sensors
        now, wall = self._clock(), self._wall()
        host = self._host_reading(sensors, is_last=is_last)
        gpus = self._attempted("driver", sensors.driver.read, lambda _: [])
        with self._lock:
            if not self._is_over:
                self._take(now, wall, host, gpus)

    def as_dict(self) -> dict[str, Any]:
        """Return what the samples came to: the entries monitoring, energy, gpus and host of a usage record."""
        sampled_s = self._last_s - self._first_s
        of_gpus = [(totals, totals.energy(sampled_s, self._gap_s)) for _, totals in self._gpus.values()]
        sensors = self._sensors
        no_gpu = (sensors.driver.reason if sensors else self._broken) or "no GPU was found"
        gpu, cpu = energy_of_all([e for _, e in of_gpus], no_gpu), self._host.energy(sampled_s, self._gap_s)
        notes = [*(sensors.driver.notes if sensors else ()), *NOTES]
        return {
            "monitoring": {
                "interval_s": self._interval_s,
                "samples": self._n_samples,
                "gaps": self._gaps.n,
                "longest_gap_s": rounded(self._gaps.longest_s),
                "sampled_s": rounded(sampled_s),
                "sampler_cpu_s": rounded(self._cpu_s),
                "reason": self._broken or self._file.reason,
                "notes": notes,
            },
            "energy": {
                "gpu_j": rounded(gpu.joules),
                "gpu_source": gpu.source,
                "gpu_reason": gpu.reason,
                "cpu_j": rounded(cpu.joules),
                "cpu_source": cpu.source,
                "cpu_reason": cpu.reason,
            },
            "gpus": [totals.as_dict(energy) for totals, energy in of_gpus],
            "host": self._host.as_dict(),
        }

    def _run(self) -> None:
        try:
            began = self._clock()
            self.tick()
            while not self._ending.wait(self._until_next(began)):
                self.tick()
            self.tick(is_last=True)
        except Exception as error:  # the stage goes on without its sampler
            self._broken = f"the sampler ended early: {type(error).__name__}: {error}"
            _log.warning("monitor: %s", self._broken, exc_info=True)
        finally:
            if self._sensors is not None:
                self._attempted("driver", self._sensors.driver.close, lambda _: None)
            self._cpu_s = time.thread_time()

    def _until_next(self, began: float) -> float:
        """Return the seconds until the next sample is due; those that were missed are not made up for."""
        passed = (self._clock() - began) / self._interval_s
        return (math.floor(passed) + 1 - passed) * self._interval_s

    def _host_reading(self, sensors: Sensors, *, is_last: bool) -> Reading:
        def nothing(reason: str) -> Reading:
            return Reading(dict.fromkeys(HOST_COLUMNS), dict.fromkeys(HOST_COLUMNS, reason))

        host = self._attempted("host", lambda: sensors.host.read(is_last=is_last), nothing)
        joules = self._attempted("rapl", sensors.rapl.read, lambda _: None)
        missing = {} if joules is not None else {"cpu_energy_j": sensors.rapl.reason or "could not be read"}
        return Reading({**host.values, "cpu_energy_j": joules}, {**host.missing, **missing})

    def _take(self, now: float, wall: float, host: Reading, gpus: list[tuple[Gpu, Reading]]) -> None:
        if not self._n_samples:
            self._first_s = now
        self._n_samples, self._last_s = self._n_samples + 1, now
        self._gaps.add(now)
        self._host.add(now, host, self._sensors.rapl.reason if self._sensors else None)
        rows = [self._row("host", now, wall, host)]
        for gpu, reading in gpus:
            _, totals = self._gpus.setdefault(gpu.index, (gpu, GpuTotals(gpu, self._gap_s)))
            totals.add(now, reading)
            rows.append(self._row(f"gpu{gpu.index}", now, wall, reading))
        self._file.add(rows)

    def _row(self, device: str, now: float, wall: float, reading: Reading) -> dict[str, Any]:
        for reason in dict.fromkeys(reading.missing.values()):
            was_there = self._n_samples > 1
            self._say(device, reason, logging.WARNING if was_there and device != "host" else logging.DEBUG)
        told = "; ".join(f"{name}: {reason}" for name, reason in sorted(reading.missing.items()))
        at = {"time_unix_s": wall, "elapsed_s": now - self._first_s, "device": device, "missing": told or None}
        return {**at, **reading.values}

    def _attempted(self, device: str, read: Callable[[], T], otherwise: Callable[[str], T]) -> T:
        try:
            return read()
        except Exception as error:  # a sensor that breaks in a way that nobody thought of is no reason to stop either
            reason = f"{type(error).__name__}: {error}"
            self._say(device, reason, logging.WARNING)
            return otherwise(reason)

    def _say(self, device: str, reason: str, level: int) -> None:
        """Say a reason once."""
        if (device, reason) not in self._said:
            self._said.add((device, reason))
            _log.log(level, "monitor: %s: %s", device, reason)


@contextmanager
def monitored(
    samples: Path,
    *,
    interval_s: float,
    root_pid: int | None = None,
    attempt: int = 0,
    sensors: Callable[[], Sensors] | None = None,
) -> Iterator[Monitor]:
    """Sample this node while the block runs; the table is written however it ends.

    Args:
        samples: Where the table of samples goes.
        interval_s: Between two samples.
        root_pid: Process of the tree that is measured with all below it; None: this one.
        attempt: Of the stage, from 0; the samples of earlier ones are kept.
        sensors: Makes other sensors than those of this machine.
    """
    make = sensors or (lambda: sensors_of(root_pid))
    monitor = Monitor(samples, interval_s=interval_s, sensors=make, attempt=attempt)
    monitor.start()
    try:
        yield monitor
    finally:
        monitor.stop()
