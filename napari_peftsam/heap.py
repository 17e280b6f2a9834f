"""Main memory: what is free, and what a process has freed, to keep or to give back."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import psutil

_PROCESS = Path("/proc/self")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_VARIABLE = "NAPARI_PEFTSAM_KEEP_MEMORY"
_OFF = {"0", "false", "no", "off"}
# Parameters of glibc's `mallopt`, see mallopt(3): mmap threshold, trim threshold and arenas, and
# what to set them to. Older versions refuse an mmap threshold above 32 MB. With threads' arenas
# of their own, which hold 64 MB at most, large tensors would be given back all the same.
_KEEPING = ((-3, (1 << 30, 32 << 20)), (-1, ((1 << 31) - 1,)), (-8, (1,)))
_spares = Event()  # `gc.get_freeze_count` counts all objects one by one, which takes 40 ms


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next tensors; return True if it does.

    glibc gives large blocks back to the system, and getting their pages again takes a third of
    the time of many prompts. `give_back_memory` gives them back. Does nothing without glibc, or
    where the variable ``NAPARI_PEFTSAM_KEEP_MEMORY`` is 0, false, no or off.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None or os.environ.get(_VARIABLE, "").strip().lower() in _OFF:
        return False
    return all(any(mallopt(name, value) for value in values) for name, values in _KEEPING)


def give_back_memory() -> None:
    """Give what this process has freed back to the system."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def spare_collections(*, collect: bool = True) -> None:
    """Let garbage collections pass over what there is now, unless they pass over something.

    With torch they take 0.3 s otherwise. `collect_all` ends it. What is garbage already is passed
    over, too, unless it is collected first.
    """
    if _spares.is_set():
        return
    if collect:
        gc.collect()
    gc.freeze()
    _spares.set()


def collect_all() -> None:
    """Let garbage collections look at everything again, see `spare_collections`."""
    _spares.clear()
    gc.unfreeze()


def free_main_memory() -> int:
    """Return the bytes available without swapping, within the limits of the container."""
    available = int(psutil.virtual_memory().available)
    return min((available, *_room_in_groups(_PROCESS, _CONTROL_GROUPS)))


def _room_in_groups(process: Path, groups: Path) -> Iterator[int]:
    """Yield what is left in each of Linux's control groups that limits a process."""
    for line in text_of(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            root, limit, usage, cached = groups, "memory.max", "memory.current", "inactive_file"
        elif controllers == "memory":  # version 1
            root, limit, usage = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        folder = root / path.lstrip("/")
        # A container often sees its own group as the root, whatever the name says.
        for group in (folder, *folder.parents):
            most, used = (text_of(group / name).strip() for name in (limit, usage))
            if most.isdecimal() and used.isdecimal():
                rows = text_of(group / "memory.stat").splitlines()
                statistics = dict(row.split() for row in rows)
                # Files that were read are forgotten when memory is needed.
                taken = int(used) - int(statistics.get(cached, 0))
                yield max(0, int(most) - taken)
            if group == root:
                break


def text_of(path: Path) -> str:
    """Return the text of one of the system's files, empty if there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _glibc(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    # Other C libraries have functions of these names that do nothing.
    return getattr(library, name) if hasattr(library, "gnu_get_libc_version") else None
