"""The lock beside a project that keeps other programs from writing to it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

__all__ = ["Owner", "ProjectLock", "file_identity"]


class Owner(NamedTuple):
    """Who holds a lock."""

    process: int
    host: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of the same name, None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class ProjectLock:
    """A lock of the operating system, which ends with the process that holds it.

    The lock file names process and host of its holder. It is removed when the lock is
    released, and stays if the holder is killed.

    Parameters
    ----------
    project
        The project file; need not exist.
    """

    def __init__(self, project: Path) -> None:
        # Not "NAME.lock", the name that SQLite's VFS "unix-dotfile" takes for its own lock.
        self.path = project.with_name(f".{project.name}.lock")
        self._lock = FileLock(self.path, thread_local=False)

    def acquire(self, seconds: float = 0.0) -> bool:
        """Take the lock unless somebody holds it for `seconds`; say whether it was taken.

        Raises
        ------
        OSError
            If no file can be written here.
        """
        try:
            self._lock.acquire(timeout=seconds, poll_interval=0.02)
        except Timeout:
            return False
        self._sign()
        return True

    def release(self) -> None:
        """Let go of the lock and remove its file."""
        if self._lock.is_locked:
            with suppress(OSError):
                self.path.unlink()
            self._lock.release()

    @property
    def owner(self) -> Owner | None:
        """Who holds it or was killed while holding it; None if that cannot be told."""
        # filelock keeps Windows' other processes from reading it.
        with suppress(OSError, ValueError):
            process, host, *_ = self.path.read_text(encoding="utf-8").split("\n")
            return Owner(int(process), host)
        return None

    def _sign(self) -> None:
        """Write process and host into the lock file, as `filelock.SoftFileLock` does itself."""
        here = Owner(os.getpid(), socket.gethostname())
        if self.owner == here:
            return
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY)
            try:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{here.process}\n{here.host}\n".encode())
            finally:
                os.close(descriptor)
