"""A folder of zarr arrays with checksums, for the embedding store and the activation cache."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import xxhash

from napari_peftsam.errors import ExportError, PeftSamError
from napari_peftsam.files import atomic_path
from napari_peftsam.folders import create_folder, is_own
from napari_peftsam.outputs import file_identity, write_failure

__all__ = ["EntryFolder"]

_log = logging.getLogger(__name__)
_FORMAT = 2
_SUFFIX = ".zarr"
# Where `atomic_path` writes, and what a killed process leaves behind.
_TEMPORARY = ".tmp-*"
_LEFTOVER_AGE_SECONDS = 24 * 3600
LOOK_SHARE = 1 / 16
"""Share of the budget that is written between two looks at the whole folder, which take time."""


class _DamagedEntryError(Exception):
    """An entry differs from the data that was written."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One array and its attributes: JSON values, ``key`` among them."""

    values: npt.NDArray[Any]
    attributes: Mapping[str, Any]


class EntryFolder:
    """Zarr arrays by name, in a folder that may be shared between processes and may be lost.

    An entry is written beside its place and then renamed, and carries a checksum of its
    values and attributes: an interrupted, truncated or otherwise damaged entry is
    recognised and removed. With a budget, the entries that were not used for longest are
    removed. When an entry was used is the modification time of its folder, which reading
    sets anew, since many file systems keep no access times.

    Parameters
    ----------
    folder
        Created by the first `write`, with its parents.
    what
        Plural name of the entries for messages.
    budget
        Disk space in bytes, None for no limit. Other processes may take a folder over it
        by a sixteenth until the next look.
    """

    def __init__(self, folder: Path, what: str, budget: int | None = None) -> None:
        self.folder = folder
        self.budget = budget
        self._what = what
        self._lock = threading.Lock()
        self._unseen = float("inf")  # bytes written since the last look at the whole folder

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_dir()

    def read(self, name: str, key: object) -> Entry | None:
        """Return the entry called `name`, or None if it is not there or was damaged.

        A damaged entry, or one whose attribute ``key`` is another, is removed and a
        warning logged. Never raises for what is on disk.
        """
        path = self._path(name)
        before = file_identity(path)
        try:
            if before is None:
                return None
            entry = _read(path, key)
            with suppress(OSError):  # reading works in a folder of someone else, too
                os.utime(path)
        except PermissionError as error:
            _log.warning("cannot read %s of the stored %s: %s", path, self._what, error)
        except Exception as error:  # noqa: BLE001 - damaged metadata makes zarr raise anything
            if file_identity(path) == before:  # else another process just replaced or removed it
                _log.warning(
                    "%s of the stored %s is damaged and is computed again (%s: %s)",
                    *(path, self._what, type(error).__name__, error),
                )
                self.discard(name)
        else:
            return entry
        return None

    def write(self, name: str, entry: Entry) -> bool:
        """Keep an entry; one of the same name is replaced.

        Returns
        -------
        bool
            Whether it is kept; False if it alone is larger than the budget.

        Raises
        ------
        ExportError
            If it cannot be written (disk full, read-only); the folder stays usable.
        """
        size = entry.values.nbytes
        if self.budget is not None and size > self.budget:
            return False
        try:
            create_folder(self.folder)
            self._remove_leftovers()
        except OSError as error:
            raise ExportError(
                f"cannot store {self._what} in {self.folder}: {write_failure(error)}"
            ) from error
        with atomic_path(self._path(name)) as path:
            _write(path, entry)
            if is_own(path):
                _make_private(path)
        self._keep_to_budget(size)
        return True

    def discard(self, name: str) -> None:
        """Remove the entry called `name` if it is there; failing to is no error."""
        _remove(self._path(name))

    def size_bytes(self) -> int:
        """Return the disk space of all entries, in bytes."""
        return sum(_folder_size(path) for path in self._entries())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{_SUFFIX}"

    def _entries(self) -> list[Path]:
        return [p for p in self.folder.glob(f"*{_SUFFIX}") if not p.name.startswith(".")]

    def _remove_leftovers(self) -> None:
        for path in self.folder.glob(_TEMPORARY):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime >= _LEFTOVER_AGE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)

    def _keep_to_budget(self, written: int) -> None:
        if self.budget is None:
            return
        with self._lock:
            self._unseen += written
            if self._unseen > self.budget * LOOK_SHARE:
                # Room for what is written until the next look.
                self._evict(self.budget * (1 - LOOK_SHARE))
                self._unseen = 0

    def _evict(self, allowed: float) -> None:
        """Remove the entries that were not used for longest, the latest one never."""
        used: list[tuple[int, int, Path]] = []
        for path in self._entries():
            with suppress(OSError):  # another process may be removing it
                used.append((path.stat().st_mtime_ns, _folder_size(path), path))
        total = sum(size for _, size, _ in used)
        for _, size, path in sorted(used)[:-1]:
            if total <= allowed:
                return
            _remove(path)
            total -= size


def _write(path: Path, entry: Entry) -> None:
    import zarr  # takes a third of a second, and a training needs it late if at all

    values = np.ascontiguousarray(entry.values)
    described = {
        **entry.attributes,
        "format": _FORMAT,
        "dtype": values.dtype.str,
        "shape": values.shape,
    }
    # What is kept here looks like noise to a compressor: it would save a few percent.
    zarr.create_array(
        path,
        data=values,
        chunks=tuple(max(1, n) for n in values.shape),
        compressors=None,
        attributes={**described, "checksum": _checksum(values, described)},
    )


def _make_private(path: Path) -> None:
    for each in (path, *path.rglob("*")):
        each.chmod(0o700 if each.is_dir() else 0o600)


def _read(path: Path, key: object) -> Entry:
    import zarr

    from napari_peftsam.files.safe_zarr import checked_array

    array = checked_array(zarr.open_array(path, mode="r", zarr_format=3), path)
    attributes = cast("dict[str, Any]", dict(array.attrs))
    checksum = attributes.pop("checksum")
    if attributes.get("format") != _FORMAT or attributes.get("key") != key:
        raise _DamagedEntryError("its metadata does not belong to its name")
    described = (attributes["dtype"], attributes["shape"])
    # Before reading: a damaged shape must not make us ask for terabytes.
    if (array.dtype.str, list(array.shape)) != described or array.nbytes > _folder_size(path):
        raise _DamagedEntryError("values are missing")
    values = np.asarray(array[...])
    if _checksum(values, attributes) != checksum:
        raise _DamagedEntryError("its checksum does not match")
    return Entry(values, attributes)


def _checksum(values: npt.NDArray[Any], attributes: Mapping[str, Any]) -> str:
    digest = xxhash.xxh128(json.dumps(attributes, sort_keys=True).encode())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _remove(path: Path) -> None:
    # Renamed first, so that nobody reads a folder that is half removed.
    with suppress(PeftSamError, OSError):
        aside = path.with_name(f"{_TEMPORARY[:-1]}removed-{time.time_ns():x}")
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _folder_size(path: Path) -> int:
    total = 0
    for file in path.rglob("*"):
        with suppress(OSError):  # another process may be removing it
            total += file.stat().st_size if file.is_file() else 0
    return total
