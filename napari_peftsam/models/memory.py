"""Free memory, the peak of a piece of work, and errors of running out."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_peftsam.heap import free_main_memory, give_back_memory, text_of

# What torch raises besides its OutOfMemoryError: the CPU's allocator on Linux and on Windows,
# CUDA's libraries, which take memory of their own, and Apple's GPUs.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
)
_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # see proc(5), clear_refs


def readable_bytes(count: int) -> str:
    """Return a size for people: ``850 MB``, ``1.9 GB``, ``24 GB``."""
    if count < 1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error of any device that says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(t in str(error) for t in _OUT_OF_MEMORY)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process can still take on a device.

    On the CPU these are available without swapping, within the limits of its container.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Torch keeps what it freed for the next tensors.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        taken = torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory()
        return int(torch.mps.recommended_max_memory() - taken)
    return free_main_memory()


def release_memory() -> None:
    """Give back what nothing refers to any longer: Python's, torch's and the C library's."""
    gc.collect()
    _release_caches()


def _release_caches() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    give_back_memory()


def tensor_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's parameters, buffers and gradients, each counted once."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [p.grad for p in module.parameters() if p.grad is not None]
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(sizes.values())


class _LiveBytes(TorchDispatchMode):
    """Counter of the bytes of all tensors made inside the ``with`` block; kernels' own not seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0  # bytes at present, and at most so far
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for storage in (t.untyped_storage() for t in tree_leaves(out) if isinstance(t, Tensor)):
            key = id(storage)  # one per storage, however many tensors look at it
            if key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self.now += self._sizes[key]
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, key).atexit = False
        return out

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


@dataclass
class MemoryPeak:
    """Result of `measure_peak`, once its block has ended."""

    rise: int = 0
    """Bytes at the highest point above those before the block."""


@contextmanager
def measure_peak(device: torch.device) -> Iterator[MemoryPeak]:
    """Measure the highest memory inside the ``with`` block.

    The source is torch's allocator on CUDA, and on the CPU the operating system if it can
    (Linux), else a count of the tensors. The first two forget the highest memory of the
    process so far: read it before if you need it.
    """
    peak = MemoryPeak()
    _release_caches()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.rise = torch.cuda.max_memory_allocated(device) - before
    elif device.type == "cpu" and _reset_peak():
        before = _status("VmRSS")
        yield peak
        peak.rise = max(0, _status("VmHWM") - before)
    else:
        with _LiveBytes() as live:
            yield peak
        peak.rise = live.peak


def _reset_peak() -> bool:
    """Let Linux forget the highest memory of this process so far; False if it cannot."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return _status("VmHWM") > 0


def _status(name: str) -> int:
    for line in text_of(_PROCESS / "status").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0
