"""Locks, identities and network file systems of project files."""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["ProjectLock", "is_network"]


class ProjectLock:
    """A lock of the operating system, which ends with the process that holds it.

    The lock file, beside the project, names process and host of its holder. It is removed when
    the lock is released, and stays if the holder is killed. The project need not exist.
    """

    def __init__(self, project: Path) -> None:
        # Not "NAME.lock", the name that SQLite's VFS "unix-dotfile" takes for its own lock.
        self.path = project.with_name(f".{project.name}.lock")
        self._lock = FileLock(self.path, thread_local=False)

    def acquire(self, seconds: float = 0.0) -> bool:
        """Wait up to `seconds` for the lock; return True if it was taken.

        Raises `OSError` if no file can be written here.
        """
        try:
            self._lock.acquire(timeout=seconds, poll_interval=0.02)
        except Timeout:
            return False
        self._sign()
        return True

    def release(self) -> None:
        """Release the lock and remove its file."""
        if self._lock.is_locked:
            with suppress(OSError):
                self.path.unlink()
            self._lock.release()

    @property
    def owner(self) -> str:
        """Process and host that hold it, or were killed while holding it, as far as known."""
        # filelock keeps Windows' other processes from reading it.
        with suppress(OSError, ValueError):
            process, host, *_ = self.path.read_text(encoding="utf-8").split("\n")
            return f"process {int(process)} on {host}"
        return "another process"

    def _sign(self) -> None:
        """Write process and host into the lock file, as `filelock.SoftFileLock` does itself."""
        process, host = os.getpid(), socket.gethostname()
        if self.owner == f"process {process} on {host}":
            return
        with suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY)
            try:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{process}\n{host}\n".encode())
            finally:
                os.close(descriptor)


_MOUNTS = Path("/proc/self/mounts")
_NETWORK = re.compile(
    r"(nfs|nfs4|cifs|smb\d?|smbfs|ncpfs|afs|9p|ceph|glusterfs|lustre|gpfs|beegfs|pvfs2|orangefs"
    r"|davfs|vboxsf|vmhgfs|drvfs|virtiofs|prl_fs|fuse\.(?!fuseblk|ext\w*|ntfs\w*|exfat).+)"
)
_DRIVE_REMOTE = 4  # what Windows' GetDriveTypeW returns


def is_network(folder: Path, mounts: str | None = None) -> bool:
    """Return True if a folder lies on a network file system, or one of a VM's host.

    False where the system does not report it, e.g. on macOS. `folder` is an absolute
    path; `mounts` is the text of ``/proc/self/mounts``, None reads it.
    """
    if sys.platform == "win32":
        import ctypes

        drive = folder.drive
        is_share = drive.startswith("\\\\")
        return is_share or ctypes.windll.kernel32.GetDriveTypeW(f"{drive}\\") == _DRIVE_REMOTE
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(errors="surrogateescape")
        except OSError:
            return False
    kind, deepest = "", -1
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        place = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point))
        # Of several on one another the last one counts.
        if folder.is_relative_to(place) and len(place.parts) >= deepest:
            kind, deepest = found, len(place.parts)
    return _NETWORK.fullmatch(kind) is not None
