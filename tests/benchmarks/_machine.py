"""What a benchmark ran on, and whether it had the machine to itself; without torch."""

from __future__ import annotations

import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["busy", "machine"]

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, memory, its fast arithmetic."""
    model, flags = _processor()
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gigabytes": memory,
        "features": [name for name in _FEATURES if name in flags],
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _processor() -> tuple[str, frozenset[str]]:
    model, flags = platform.processor() or platform.machine(), frozenset[str]()
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            model = value.strip()
        elif name.strip() == "flags":
            flags = frozenset(value.split())
    return model, flags


def busy(seconds: float = 1.0) -> float | None:
    """Return the share of all cores that other work takes now, looked at for a while.

    The load average would count our own children, which ended just before. None where the
    system does not tell.
    """
    before = _ticks()
    if before is None:
        return None
    time.sleep(seconds)
    after = _ticks()
    assert after is not None
    idle, total = (new - old for new, old in zip(after, before, strict=True))
    return 1 - idle / total if total else None


def _ticks() -> tuple[int, int] | None:
    """Return idle and all clock ticks since the start of the system."""
    path = Path("/proc/stat")
    if not path.exists():
        return None
    values = [int(value) for value in path.read_text().split("\n", 1)[0].split()[1:9]]
    return values[3] + values[4], sum(values)
