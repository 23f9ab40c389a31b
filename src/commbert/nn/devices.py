"""Which device and which precision; an automatic choice always comes with its reason."""

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
    if not has[wanted]:
        there = ", ".join(name for name, is_there in has.items() if is_there)
        raise SettingsError(f"runtime.device: expected one of {there} on this machine, found {wanted!r}. Use auto.")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> tuple[str, str]:
    """Return ``fp32`` or ``bf16`` and why; ``auto`` takes bf16 only on a GPU that has it in hardware.

    Raises:
        SettingsError: If bf16 is asked for on a GPU without it.
    """
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and device.type == "cuda" and not has_bf16:
        raise SettingsError("training.precision: this GPU has no bf16. Use auto or fp32.")
    if wanted != "auto":
        return wanted, "as set"
    return ("bf16", "the GPU has it") if has_bf16 else ("fp32", f"no bf16 hardware used on {device.type}")
