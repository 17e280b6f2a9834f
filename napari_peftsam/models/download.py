"""Download a model's files as a stream of events: resumed, verified, placed in one step.

Why not pooch: it verifies and places files as well, but begins anew after every
interruption (up to 2.5 GB here), tells its progress only to a progress bar of its own, and
cannot be stopped but by an exception out of that bar. ``requests``, on which it rests, is
used directly.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import xxhash
from filelock import FileLock, Timeout

from napari_peftsam.errors import DownloadError
from napari_peftsam.folders import MODELS_VARIABLE
from napari_peftsam.models._transfer import connect
from napari_peftsam.models.entry import ModelEntry, Part, RemoteFile

__all__ = ["DownloadEvent", "DownloadFinished", "DownloadProgress", "download", "file_digest"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_BLOCK = 1 << 20
_SECONDS_BETWEEN_EVENTS = 0.1


@dataclass(frozen=True)
class DownloadProgress:
    """So many bytes are here, of so many (None if the server does not tell).

    While what came is verified, `verified` is how many bytes of it were looked at; None
    before. Of a fast download only some progress is told, ten times a second at most.
    """

    received: int
    total: int | None
    verified: int | None = None

    @property
    def fraction(self) -> float:
        """The share that is here, in [0, 1]; 0 while the total is unknown."""
        return min(self.received / self.total, 1.0) if self.total else 0.0


@dataclass(frozen=True)
class DownloadFinished:
    """The file is complete at `path`; `was_here` if there was nothing to download."""

    path: Path
    was_here: bool = False


DownloadEvent: TypeAlias = DownloadProgress | DownloadFinished


def download(
    entry: ModelEntry,
    folder: Path | None = None,
    *,
    part: Part = "encoder",
    timeout: float = 30.0,
) -> Generator[DownloadEvent, None, None]:
    """Download a part of a model, unless it is here; the last event is `DownloadFinished`.

    If the download fails or is closed, its bytes stay beside the target. The next one
    continues there if the entry has a digest, which proves the whole, else it starts over.
    The file gets its name only when it is complete and has the digest.

    Parameters
    ----------
    entry
        The model.
    folder
        Where to keep it; default: the entry's, see `ModelEntry.target`.
    timeout
        Seconds without a byte after which the connection counts as stalled.

    Raises
    ------
    ConfigurationError
        If the part is not one that is downloaded.
    DownloadError
        If it cannot be downloaded (no network, not there, stalled, cut short), does not have the
        right digest, cannot be written, or another process is downloading it.
    """
    remote, target = entry.remote(part), entry.target(part, folder)
    with _explained(target), _only_one(target):
        if target.is_file():  # perhaps only since another process has let go of the lock
            yield DownloadFinished(target, was_here=True)
            return
        unfinished = entry.unfinished(part, folder)
        yield from _receive(remote, unfinished, timeout)
        yield from _verify(remote, unfinished)
        unfinished.replace(target)
    yield DownloadFinished(target)


def file_digest(path: Path) -> str:
    """Return the xxh128 (hex) of a file's content."""
    digest = xxhash.xxh128()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


class _Pace:
    """Tells which events are due, so that a fast transfer does not flood who shows them."""

    def __init__(self) -> None:
        self._next: float | None = None  # the first is due

    def due(self) -> bool:
        """Whether the last event is long enough ago; if so, count this one."""
        now = time.monotonic()
        if self._next is not None and now < self._next:
            return False
        self._next = now + _SECONDS_BETWEEN_EVENTS
        return True


@contextmanager
def _only_one(target: Path) -> Iterator[None]:
    """Keep other processes from the same file; the system lets go of it if this one dies."""
    if target.is_file():  # nothing will be written, and the folder may be read-only
        yield
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # A generator may be closed in another thread than it was started in.
    lock = FileLock(target.with_name(f"{target.name}.lock"), thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise DownloadError(
            f"{target.name} is being downloaded by another program: wait for it"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _receive(remote: RemoteFile, unfinished: Path, timeout: float) -> Iterator[DownloadProgress]:
    """Fetch the missing bytes of a file and sync them to the disk."""
    start = unfinished.stat().st_size if remote.xxh128 and unfinished.is_file() else 0
    if start and file_digest(unfinished) == remote.xxh128:
        return  # the last download ended while it was verified
    with connect(remote.url, start, timeout, bool(remote.xxh128)) as transfer:
        received, total = transfer.start, transfer.length
        told, pace = received, _Pace()
        _check_space(unfinished.parent, total, received)
        yield DownloadProgress(received, total)
        with unfinished.open("ab" if received else "wb") as file:
            for block in transfer.blocks():
                file.write(block)
                received += len(block)
                if pace.due():
                    told = received
                    yield DownloadProgress(received, total)
            file.flush()
            os.fsync(file.fileno())
        if told != received:
            yield DownloadProgress(received, total)


def _check_space(folder: Path, total: int | None, received: int) -> None:
    needed = (total or 0) - received
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{_megabytes(needed)} more are needed, {_megabytes(free)} free"
        )


def _verify(remote: RemoteFile, unfinished: Path) -> Iterator[DownloadProgress]:
    """Compare the digest; if this is closed meanwhile, the next download does it."""
    if not remote.xxh128:
        return
    size, verified = unfinished.stat().st_size, 0
    digest, pace = xxhash.xxh128(), _Pace()
    for block in _blocks(unfinished):
        digest.update(block)
        verified += len(block)
        if pace.due():
            yield DownloadProgress(size, size, verified)
    found = digest.hexdigest()
    if found == remote.xxh128:
        return
    unfinished.unlink(missing_ok=True)
    raise DownloadError(
        f"what came from {remote.url} has the digest {found}, but {remote.xxh128} is expected, and "
        "was removed: download it again; if that does not help, it was replaced there by a file "
        "that this program does not know"
    )


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn the errors of the disk into a `DownloadError` of one line."""
    try:
        yield
    except OSError as error:
        raise DownloadError(f"cannot write to {target.parent}: {_disk_reason(error)}") from error


def _disk_reason(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return f"the disk is full ({reason}); free some space, then download it again to go on"
    if error.errno in _FORBIDDEN:
        return f"{reason}; choose another folder for models, with {MODELS_VARIABLE} or in napari"
    return reason


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
