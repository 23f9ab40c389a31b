"""A process on chosen cores: what it took, and its memory over time. Standard library and psutil only.

A small program: what it holds itself when it starts another counts as that one's peak memory.
"""

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SAMPLE_S = 0.05
BUSY = 1.06
"""A process of one thread that takes this much longer than its CPU time shared its core, or waited for the disk."""


@dataclass(frozen=True)
class Ran:
    """What a process took."""

    wall_s: float
    cpu_s: float
    peak_rss_mib: float
    load_before: float
    stdout: str
    curve: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since its start, MiB of it and its children), if it was asked for."""

    def as_dict(self) -> dict[str, float]:
        shown = {name: round(getattr(self, name), 3) for name in ("wall_s", "cpu_s", "peak_rss_mib", "load_before")}
        return {**shown, "is_quiet": self.wall_s < BUSY * self.cpu_s}


def run(command: Sequence[str], *, cores: Sequence[int], log: Path, is_sampled: bool = False) -> Ran:
    """Run a command on some cores to its end, one thread per library.

    Raises:
        RuntimeError: If it fails, with the end of what it said.
    """
    threads = str(len(cores))
    src = str(Path(__file__).resolve().parents[2] / "src")
    path = os.pathsep.join([src, *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "OMP_NUM_THREADS": threads, "POLARS_MAX_THREADS": threads, "PYTHONPATH": path}
    # Bytecode is kept here whether or not the packages were compiled when installed; without it imports take twice
    # as long and are what is measured.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["PYTHONPYCACHEPREFIX"] = str(log.parent.resolve() / "bytecode")
    load = os.getloadavg()[0]
    log.parent.mkdir(parents=True, exist_ok=True)
    out = log.with_suffix(".out")
    with log.open("wb") as errors, out.open("wb") as output:
        pinned = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
        began = time.monotonic()
        process = subprocess.Popen(pinned, env=env, stdout=output, stderr=errors)
        curve = _Curve(process.pid, began) if is_sampled else None
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        samples = curve.stop() if curve else []
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]}\nended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return Ran(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, load, out.read_text(), samples)


class _Curve:
    """Memory of a process and its children, looked at every 50 ms from another thread."""

    def __init__(self, pid: int, began: float) -> None:
        self._process, self._began = psutil.Process(pid), began
        self._samples: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> list[tuple[float, float]]:
        self._ended.set()
        self._thread.join()
        return self._samples

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                n_bytes = sum(p.memory_info().rss for p in family)
            except psutil.Error:
                continue
            self._samples.append((round(time.monotonic() - self._began, 2), round(n_bytes / 2**20, 1)))


def thinned(curve: list[tuple[float, float]], n: int) -> list[tuple[float, float]]:
    """Return about ``n`` points of a curve, of each stretch its highest."""
    step = max(1, len(curve) // n)
    return [max(curve[i : i + step], key=lambda point: point[1]) for i in range(0, len(curve), step)]


def total(parts: Sequence[Ran]) -> dict[str, Any]:
    """Return what processes took that ran one after another."""
    return {
        "jobs": len(parts),
        "wall_s": round(sum(p.wall_s for p in parts), 3),
        "cpu_s": round(sum(p.cpu_s for p in parts), 3),
        "peak_rss_mib": round(max(p.peak_rss_mib for p in parts), 1),
        "is_quiet": all(p.wall_s < BUSY * p.cpu_s for p in parts),
    }
