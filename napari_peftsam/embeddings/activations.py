"""Cache of encoder activations by key, in memory first, then in a scratch folder on disk."""

from __future__ import annotations

import logging
import shutil
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
import xxhash
from filelock import FileLock, Timeout
from torch import Tensor

from napari_peftsam.embeddings._entries import Entry, EntryFolder
from napari_peftsam.embeddings.store import EmbeddingKey
from napari_peftsam.errors import ExportError
from napari_peftsam.folders import create_folder, scratch_folder
from napari_peftsam.lru import Recent

_LOCK_SUFFIX = ".lock"
_PATIENCE_SECONDS = 5.0


class ScratchFolder:
    """A new folder in `parent`; what dead processes left there is removed first.

    A system lock says that the owner lives; it ends with its process. `OSError` is raised if
    nothing can be written there.
    """

    def __init__(self, parent: Path) -> None:
        create_folder(parent)
        _remove_orphans(parent)
        self.path = parent / uuid.uuid4().hex[:12]
        self._lock = _lock_of(self.path)
        self._lock.acquire(timeout=_PATIENCE_SECONDS)  # somebody may just be looking for orphans
        self.path.mkdir(mode=0o700)

    def remove(self) -> None:
        """Remove the folder with all that is in it; failing to is no error."""
        _remove(self.path, self._lock)


def _lock_of(folder: Path) -> FileLock:
    # Beside the folder: on Windows an open file keeps its folder from being removed.
    return FileLock(folder.with_name(f"{folder.name}{_LOCK_SUFFIX}"), thread_local=False)


def _remove_orphans(parent: Path) -> None:
    for lock_file in parent.glob(f"*{_LOCK_SUFFIX}"):
        folder = lock_file.with_suffix("")
        lock = _lock_of(folder)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):
            continue
        _remove(folder, lock)


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    with suppress(OSError):
        Path(lock.lock_file).unlink()


__all__ = ["ActivationCache", "FrozenActivations"]

_log = logging.getLogger(__name__)

# numpy and zarr have no bfloat16: its bits are kept.
_AS_BITS = {torch.bfloat16: torch.uint16}
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16)}


class ActivationCache:
    """Tensors by key, bit for bit, within a budget of memory and one of disk space.

    The least recently used tensors move from memory to disk, and are finally deleted there.
    A tensor read from disk returns to memory and stays on disk, so it is written once. A
    full or read-only disk logs one warning, and tensors meant for it are dropped. All
    methods may be called from any thread; the disk is written to outside of locks.

    Parameters
    ----------
    memory
        Bytes of tensors in memory.
    entries
        Folder for tensors beyond that budget; None drops them.
    write_through
        True to write everything at once, so that it outlives this object.
    pinned
        True to lock memory, so that CUDA devices can read it on their own.
    """

    def __init__(
        self,
        memory: int,
        entries: EntryFolder | None = None,
        *,
        write_through: bool = False,
        pinned: bool = False,
    ) -> None:
        self._entries = entries
        self._write_through = write_through
        self._pinned = pinned
        self._scratch: tuple[Path, int | None] | None = None
        self._owned: ScratchFolder | None = None
        self._lock = threading.RLock()
        self._tensors: Recent[str, Tensor] = Recent(memory, lambda tensor: tensor.nbytes)
        self._leaving: dict[str, Tensor] = {}  # on their way to the disk
        self._warned = False
        self._closed = False

    @classmethod
    def temporary(
        cls, memory: int, disk: int, parent: Path | None = None, *, pinned: bool = False
    ) -> Self:
        """Return a cache that uses up to `disk` bytes in a folder of its own.

        The folder is made in `parent` (default: the program's scratch folder) when memory
        is full, and removed by `close`; if the process dies, by the next one's first use.
        """
        cache = cls(memory, pinned=pinned)
        if disk > 0:
            cache._scratch = (parent or scratch_folder(), disk)
        return cache

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop all tensors and a temporary folder; later tensors are not kept."""
        with self._lock:
            self._closed = True
            self._tensors.discard()
            self._leaving.clear()
            owned, self._owned, self._entries, self._scratch = self._owned, None, None, None
        if owned is not None:
            owned.remove()

    def __contains__(self, key: str) -> bool:
        with self._lock:
            if key in self._tensors or key in self._leaving:
                return True
            return self._entries is not None and _name(key) in self._entries

    @property
    def memory_budget(self) -> int:
        """Bytes that the tensors in memory may have."""
        return self._tensors.capacity

    @property
    def memory_bytes(self) -> int:
        """Bytes of the tensors in memory."""
        return self._tensors.size

    def get(self, key: str) -> Tensor | None:
        """Return a tensor on the CPU, or None if it is not there any more or was damaged.

        It is the kept one: do not write to it.
        """
        with self._lock:
            found = self._tensors.get(key)
            if found is not None:
                return found
            found, entries = self._leaving.get(key), self._entries
        if found is None and entries is not None:
            entry = entries.read(_name(key), key)
            if entry is not None:
                found = _tensor_of(entry)
                self._hold(key, found)
        return found

    def put(self, key: str, tensor: Tensor) -> None:
        """Keep a copy of a float32, float16 or bfloat16 tensor, in place of an earlier one.

        Raises
        ------
        TypeError
            If it has another type.
        """
        if str(tensor.dtype) not in _DTYPES:
            raise TypeError(f"expected one of {', '.join(_DTYPES)}, got {tensor.dtype}")
        kept = _copy(tensor, self._pinned)
        with self._lock:
            if self._closed:
                return
            stale = self._entries
        if self._write_through:
            self._write(key, kept)
        elif stale is not None:
            stale.discard(_name(key))
        self._hold(key, kept)

    def _hold(self, key: str, tensor: Tensor) -> None:
        """Keep a tensor in memory, and write what has no room there any more."""
        with self._lock:
            if self._closed:
                return
            leaving = self._tensors.put(key, tensor)
            self._leaving |= leaving
        for name, each in leaving.items():
            with self._lock:
                is_written = self._entries is not None and _name(name) in self._entries
            if not is_written:
                self._write(name, each)
            with self._lock:
                if self._leaving.get(name) is each:
                    del self._leaving[name]

    def _write(self, key: str, tensor: Tensor) -> None:
        try:
            entries = self._folder()
            if entries is not None:
                entries.write(_name(key), _entry_of(key, tensor))
        except (ExportError, OSError) as error:
            if not self._warned:
                _log.warning("activations beyond the memory's share are not kept: %s", error)
            self._warned = True

    def _folder(self) -> EntryFolder | None:
        """Return where tensors are written, making the temporary folder at the first call."""
        with self._lock:
            if self._entries is None and self._scratch is not None:
                parent, budget = self._scratch
                self._owned = ScratchFolder(parent)
                self._entries = EntryFolder(self._owned.path, "activations", budget)
            return self._entries


def _name(key: str) -> str:
    return xxhash.xxh128_hexdigest(key.encode())


def _copy(tensor: Tensor, pinned: bool) -> Tensor:
    # An inference tensor could not take part in training later.
    with torch.inference_mode(False), torch.no_grad():
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned).copy_(tensor)


def _entry_of(key: str, tensor: Tensor) -> Entry:
    bits = tensor.view(_AS_BITS.get(tensor.dtype, tensor.dtype))
    return Entry(bits.numpy(), {"key": key, "precision": str(tensor.dtype)})


def _tensor_of(entry: Entry) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(entry.values).view(_DTYPES[entry.attributes["precision"]])


@dataclass(frozen=True, eq=False)
class FrozenActivations:
    """Frozen-block activations of images: tokens that no adapter has changed so far.

    The base model and all adapters that begin later share them, so that a reload need not
    begin at the first block.

    Attributes
    ----------
    cache
        Keeps them bit for bit: an encoding that begins with them equals a full one.
    reach
        First block whose output an adapter changes; the number of blocks without an adapter.
    blocks
        Blocks whose input is worth keeping; never 0.
    """

    cache: ActivationCache = field(repr=False)
    reach: int
    blocks: tuple[int, ...]

    def latest(self, key: EmbeddingKey, turn: int = 0) -> tuple[int, Tensor | None]:
        """Return the last block that an encoding may begin at, and the tokens entering it.

        Block 0 and None if nothing is kept of the image, `turned`.
        """
        for block in sorted(self.blocks, reverse=True):
            tokens = self.cache.get(_address(key, block, turn)) if 0 < block <= self.reach else None
            if tokens is not None:
                return block, tokens.permute(0, 2, 3, 1)
        return 0, None

    def wants(self, block: int) -> bool:
        """Return True if the tokens that enter a block should be kept."""
        return 0 < block <= self.reach and block in self.blocks

    def keep(self, key: EmbeddingKey, block: int, tokens: Tensor, turn: int = 0) -> None:
        """Keep the tokens ``(1, h, w, width)`` of a turned image that enter a block."""
        address = _address(key, block, turn)
        if address not in self.cache:
            # Channels first, as the convolution that made the tokens left them in memory:
            # in another layout the next layers would add up in another order.
            self.cache.put(address, tokens.permute(0, 3, 1, 2))


def _address(key: EmbeddingKey, block: int, turn: int) -> str:
    # Everything an embedding depends on but the adapter; no adapter has such a name.
    where = f" turned {turn}" if turn else ""
    return replace(key, adapter=f"exact tokens entering block {block}{where}").digest
