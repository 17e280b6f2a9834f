"""Choice of the torch device and of the arithmetic precision."""

from __future__ import annotations

import torch

from napari_peftsam.errors import ConfigurationError

__all__ = ["DEVICES", "autocast", "device_memory", "pick_device"]

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(device: str = "auto") -> str:
    """Return the torch device to use; ``auto`` prefers CUDA, then MPS, then the CPU.

    Raises
    ------
    ConfigurationError
        If the device is unknown or not there.
    """
    if device not in DEVICES:
        raise ConfigurationError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    found = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, there in found.items() if there)
    if not found[device]:
        raise ConfigurationError(f"no {device} device was found on this computer: use 'auto'")
    return device


def device_memory(device: str = "auto") -> int | None:
    """Return the bytes of memory that a GPU has, in all; None for the CPU.

    Raises
    ------
    ConfigurationError
        As `pick_device`.
    """
    kind = pick_device(device)
    if kind == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    if kind == "mps":  # of the memory it shares with the CPU
        return int(torch.mps.recommended_max_memory())
    return None


def autocast(device: str) -> torch.autocast:
    """Return the mixed-precision context for training on `device`.

    bfloat16 where the hardware multiplies it natively (Ampere and later; CPUs with
    AVX512-BF16 or AMX), otherwise a disabled context, that is float32.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        enabled = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == "cpu":
        enabled = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    else:
        enabled = False
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=enabled)
