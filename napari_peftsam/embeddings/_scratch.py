"""A scratch folder for one run's large arrays, removed even after the run was killed."""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from napari_peftsam.folders import create_folder

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
