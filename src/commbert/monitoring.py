"""What a stage ran on and what it took: device names, seconds, memory. Missing sensors give None, never a guess."""

import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


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


def gpu_count() -> int:
    """Return the number of NVIDIA GPUs of this machine, 0 without a driver."""
    return len(_gpus())


def usable_threads(wanted: int) -> int:
    """Return ``wanted``, or what Snakemake granted the rule, or the cores this process may use, whichever is least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted, cores))


def machine() -> dict[str, Any]:
    """Return what this machine is: CPU, cores, memory, GPUs."""
    return {
        "cpu": _cpu_name(),
        "cores": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[dict[str, Any]]:
    import pynvml  # noqa: PLC0415  (50 ms that the data stages need not spend)

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        # No driver: a machine without NVIDIA GPUs.
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            {
                "name": str(pynvml.nvmlDeviceGetName(h)),
                "memory_gib": round(pynvml.nvmlDeviceGetMemoryInfo(h).total / 2**30, 1),
            }
            for h in handles
        ]
    finally:
        pynvml.nvmlShutdown()
