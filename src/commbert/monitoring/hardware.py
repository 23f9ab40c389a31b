"""What this machine is, and which part of it this process may use."""

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from commbert.monitoring.nvml import Driver, load_library


def gpu_count() -> int:
    """Return the number of NVIDIA GPUs that this process may use (CUDA_VISIBLE_DEVICES), 0 without a driver."""
    with Driver(load_library, visible=os.environ.get("CUDA_VISIBLE_DEVICES")) as driver:
        return len(driver.gpus)


def usable_threads(wanted: int) -> int:
    """Return ``wanted``, or what Snakemake granted the rule, or the cores this process may use, whichever is least."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted, cores))


def machine() -> dict[str, Any]:
    """Return what this machine is: CPU, cores, memory, all GPUs."""
    with Driver(load_library) as driver:
        gpus = [{"name": gpu.name, "memory_gib": gpu.memory_gib} for gpu in driver.gpus]
    return {
        "cpu": _cpu_name(),
        "cores": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
