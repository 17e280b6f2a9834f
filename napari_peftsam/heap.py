"""Memory that a process has freed: kept for its next tensors, or given back to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

_VARIABLE = "NAPARI_PEFTSAM_KEEP_MEMORY"
# Parameters of glibc's `mallopt`, see mallopt(3): mmap threshold, trim threshold and arenas, and
# what to set them to. Older versions refuse an mmap threshold above 32 MB. With threads' arenas
# of their own, which hold 64 MB at most, large tensors would be given back all the same.
_KEEPING = ((-3, (1 << 30, 32 << 20)), (-1, ((1 << 31) - 1,)), (-8, (1,)))


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next tensors; return True if it does.

    glibc gives large blocks back to the system, and getting their pages again takes a third of
    the time of many prompts. `give_back_memory` gives them back. Does nothing without glibc, or
    where the variable ``NAPARI_PEFTSAM_KEEP_MEMORY`` is 0, false, no or off.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None or _is_off(os.environ.get(_VARIABLE, "")):
        return False
    return all(any(mallopt(name, value) for value in values) for name, values in _KEEPING)


def give_back_memory() -> None:
    """Give what this process has freed back to the system."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _is_off(value: str) -> bool:
    return value.strip().lower() in {"0", "false", "no", "off"}


def _glibc(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    # Other C libraries have functions of these names that do nothing.
    return getattr(library, name) if hasattr(library, "gnu_get_libc_version") else None
