"""Memory of the first process while it trains; asking does not wait for the device."""

import resource
import sys

import psutil
import torch


def memory_figures(device: torch.device) -> dict[str, float | None]:
    """Return ``memory_gib`` and ``peak_memory_gib``: of the device what torch's tensors hold, on a CPU the process.

    The peak is since the process began, that of a GPU since training began; None where the device does not tell it.
    """
    peak: float | None
    if device.type == "cuda":
        now, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    elif device.type == "mps":
        now, peak = torch.mps.current_allocated_memory(), None
    else:
        now = psutil.Process().memory_info().rss
        # Linux counts in KiB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        peak = max(peak, now)  # the kernel brings its own peak up to date now and then
    return {"memory_gib": _gib(now), "peak_memory_gib": None if peak is None else _gib(peak)}


def _gib(n_bytes: float) -> float:
    return round(n_bytes / 2**30, 3)
