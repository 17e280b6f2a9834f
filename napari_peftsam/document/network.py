"""Network file systems, where SQLite must not use shared memory."""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["is_network"]

_MOUNTS = Path("/proc/self/mounts")
_NETWORK = re.compile(
    r"(nfs|nfs4|cifs|smb\d?|smbfs|ncpfs|afs|9p|ceph|glusterfs|lustre|gpfs|beegfs|pvfs2|orangefs"
    r"|davfs|vboxsf|vmhgfs|drvfs|virtiofs|prl_fs|fuse\.(?!fuseblk|ext\w*|ntfs\w*|exfat).+)"
)
_DRIVE_REMOTE = 4  # what Windows' GetDriveTypeW returns


def is_network(folder: Path, mounts: str | None = None) -> bool:
    """Say whether a folder lies on a network file system, or one of a virtual machine's host.

    Where the system does not say, e.g. on macOS, the answer is no.

    Parameters
    ----------
    folder
        An absolute path.
    mounts
        What ``/proc/self/mounts`` says; None reads it.
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
