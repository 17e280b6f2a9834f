"""Choice of the torch device and of the arithmetic precision."""

from __future__ import annotations

import torch

from napari_peftsam.errors import ConfigurationError

__all__ = [
    "DEVICES",
    "PRECISIONS",
    "autocast",
    "device_memory",
    "pick_device",
    "pick_precision",
]

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_TENSOR_CORES = (7, 0)  # compute capability from which fp16 is faster than fp32


def pick_device(device: str = "auto") -> str:
    """Return the torch device to use; ``auto`` prefers CUDA, then MPS, then the CPU.

    Raises
    ------
    ConfigurationError
        If the device is unknown or not there.
    """
    if device not in DEVICES:
        raise ConfigurationError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    mps = torch.backends.mps.is_available()
    found = {"cuda": torch.cuda.is_available(), "mps": mps, "cpu": True}
    if device == "auto":
        return next(name for name, there in found.items() if there)
    if not found[device]:
        raise ConfigurationError(f"no {device} device was found on this computer: use 'auto'")
    return device


def device_memory(device: str = "auto") -> int | None:
    """Return the bytes of memory of a GPU, used ones included; None for the CPU."""
    kind = pick_device(device)
    if kind == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    if kind == "mps":  # of the memory it shares with the CPU
        return int(torch.mps.recommended_max_memory())
    return None


def pick_precision(device: str, precision: str = "auto") -> str:
    """Return the arithmetic to compute in on a device.

    ``auto`` takes ``bf16`` where the hardware multiplies it natively (CPUs with AMX or
    AVX512-BF16, GPUs from Ampere on, MPS where it works), ``fp16`` on older GPUs with tensor
    cores, and ``fp32`` otherwise. Weights are float32 in any case.

    Raises
    ------
    ConfigurationError
        If the precision is unknown, or the device does not compute in it.
    """
    if precision not in PRECISIONS:
        names = ", ".join(PRECISIONS)
        raise ConfigurationError(f"unknown precision {precision!r}: choose one of {names}")
    kind = torch.device(device).type
    if precision == "fp16" and kind == "cpu":
        raise ConfigurationError("fp16 is for GPUs: choose bf16 or fp32 on the CPU")
    return _native(kind) if precision == "auto" else precision


def _native(kind: str) -> str:
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability() >= _TENSOR_CORES else "fp32"
    if kind == "mps":
        return "bf16" if _multiplies("mps") else "fp32"
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return "bf16" if any(getattr(torch.cpu, probe, bool)() for probe in probes) else "fp32"


def _multiplies(device: str) -> bool:
    """Return True if a device computes in bfloat16, by trying."""
    ones = torch.ones(8, 8, device=device)
    try:
        with torch.autocast(device, torch.bfloat16):
            return bool((ones @ ones == len(ones)).all())
    except (RuntimeError, TypeError):
        return False


def autocast(device: str, precision: str = "auto") -> torch.autocast:
    """Return the mixed-precision context of a precision, see `pick_precision`.

    With ``fp32`` it is a disabled one.
    """
    chosen = pick_precision(device, precision)
    kind = torch.device(device).type
    dtype = torch.float16 if chosen == "fp16" else torch.bfloat16
    return torch.autocast(kind, dtype=dtype, enabled=chosen != "fp32")
