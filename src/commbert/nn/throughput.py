"""How fast this device multiplies matrices: measured, for shares of it are told in the record of a training."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from commbert.nn.products import linear

_BUDGET_S = 0.2
_MOST_PRODUCTS = 50
_SIZES = {"cuda": 8192, "mps": 4096, "cpu": 1024}
"""Rows of the square matrices: large enough for the device to reach its speed, small enough for the budget."""


@dataclass(frozen=True)
class MatmulSpeed:
    """What was measured, and how."""

    tflops: float
    """10^12 floating-point operations per second, of the fastest product."""
    how: str


def matmul_speed(device: torch.device, precision: str) -> MatmulSpeed:
    """Measure products of square matrices in the run's precision, as the encoder makes them, for about 0.2 s.

    The fastest one counts: other work of the machine can only make a product slower.

    Args:
        device: Where to compute.
        precision: ``fp32`` or ``bf16``.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = _size(device)
    # Values do not change the time on a CPU; on a GPU zeros take less power and are faster, so they are drawn.
    rng = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=rng, device=device).to(dtype) for _ in range(2))
    times: list[float] = []
    with torch.inference_mode():
        _timed(left[:64], right, device)
        while not times or (sum(times) + min(times) < _BUDGET_S and len(times) < _MOST_PRODUCTS):
            times.append(_timed(left, right, device))
    del left, right
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    where = f"{device.type}, {torch.get_num_threads()} thread(s)" if device.type == "cpu" else device.type
    how = f"fastest of {len(times)} product(s) of {size} x {size} matrices in {precision} on {where}, at the start"
    return MatmulSpeed(2 * size**3 / min(times) / 1e12, how)


def _size(device: torch.device) -> int:
    """Return the rows of the matrices: as the device is wont to, or what a quarter of its free memory holds."""
    wanted = _SIZES.get(device.type, 1024)
    if device.type != "cuda":
        return wanted
    free, _ = torch.cuda.mem_get_info(device)
    # Four matrices of at most four bytes a number: two factors, a product, one on its way to another precision.
    return max(1024, min(wanted, math.isqrt(free // 64) // 1024 * 1024))


def _timed(left: Tensor, right: Tensor, device: torch.device) -> float:
    """Return the seconds of one product."""
    _wait(device)
    began = time.perf_counter()
    linear(left, right)
    _wait(device)
    return max(time.perf_counter() - began, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
