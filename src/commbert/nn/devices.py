"""Which device and which precision; an automatic choice always comes with its reason."""

from functools import cache
from pathlib import Path

import torch

from commbert.errors import SettingsError


def choose_device(wanted: str) -> torch.device:
    """Return the device: ``auto`` is CUDA, else MPS, else CPU.

    Raises:
        SettingsError: If a device is asked for that this machine lacks.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, is_there in has.items() if is_there))
    if not has.get(wanted):
        there = ", ".join(name for name, is_there in has.items() if is_there)
        raise SettingsError(f"runtime.device: expected one of {there} on this machine, found {wanted!r}. Use auto.")
    return torch.device(wanted)


@cache
def _cpu_info() -> str:
    """Return what Linux says of the processors; empty elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def is_amd_cpu() -> bool:
    """Return whether Linux says that AMD made the processor."""
    return "AuthenticAMD" in _cpu_info()


def has_bf16_cpu() -> bool:
    """Return whether Linux says that the processor multiplies bf16 by itself."""
    flags = next((line for line in _cpu_info().splitlines() if line.lower().startswith(("flags", "features"))), "")
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Return ``fp32`` or ``bf16`` and why; ``auto`` takes bf16 only on a GPU that has it in hardware.

    On a CPU it stays with fp32, in which any number of processes gives the same numbers.

    Raises:
        SettingsError: If bf16 is asked for where the hardware lacks it (on such a CPU it is 20 times slower).
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = device.type == "cpu" and has_bf16_cpu()
    if wanted == "bf16" and not has_bf16:
        raise SettingsError(f"training.precision: this {device.type} has no bf16 hardware. Use auto or fp32.")
    if wanted != "auto":
        return wanted, "as set"
    if device.type == "cuda":
        return ("bf16", "the GPU has it") if has_bf16 else ("fp32", "this GPU has no bf16 hardware")
    if has_bf16:
        return "fp32", "exact on a cpu; it has bf16 too, which is faster and rounds: training.precision"
    return "fp32", f"no bf16 hardware in this {device.type}"
