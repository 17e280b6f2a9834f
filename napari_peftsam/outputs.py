"""Outputs: checked before the work starts, and written so that a reader sees no part of one."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from zlib import crc32

import psutil

from napari_peftsam.errors import ConfigurationError, ExportError

__all__ = ["atomic_path", "temporary_prefix"]

_ATTEMPTS = 3
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\ud800-\udfff]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # of Windows
_LONGEST = 180  # bytes of a name; file systems take 255, with what is added to it
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_REMEDIES = {
    errno.ENOSPC: "free some disk space or choose another disk",
    errno.EDQUOT: "your disk quota is used up, free some space or choose another disk",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.EEXIST: "something of that name is in the way, choose another name",
    errno.ENOENT: "create the folder first or choose an existing one",
    errno.ENOTDIR: "a part of the path is a file, choose an existing folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def temporary_prefix() -> str:
    """Return how names of temporary files and folders of this process begin.

    They tell host and process, so that a later one removes what a killed one left behind.
    """
    return f"{_host_prefix()}{os.getpid():x}-"


@cache
def _host_prefix() -> str:
    # Containers on one folder may have one name, but not one address of the network card.
    host = f"{platform.node()} {uuid.getnode()}"
    return f".tmp-{crc32(host.encode()):08x}-"


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it when the block succeeds.

    As `replacing`, with a sentence for what the file system refuses.

    Parameters
    ----------
    target
        The file or folder to write; its parent folder must exist.

    Raises
    ------
    ExportError
        If writing fails for a reason of the file system (disk full, no permission, no
        such folder), if the block wrote nothing, or if a file would replace a folder or
        the other way round. Other errors of the block pass through unchanged.
    """
    try:
        with replacing(Path(os.path.realpath(target))) as temporary:
            yield temporary
    except OSError as error:
        raise ExportError(f"cannot write {target}: {write_failure(error)}") from error


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside a resolved path that replaces it when the block succeeds.

    The block writes a file or creates a folder (a zarr store) at the yielded path, which
    ends in the same suffix. If the block fails, is interrupted or closed, the temporary
    is removed and the old `target` stays whole. A file is replaced in one step, and so is a
    folder where the system can exchange two; elsewhere the old one is moved aside first, and
    put back by the next call if this process is killed in between. What killed processes left
    beside `target` is removed.
    """
    temporary = _sibling(target)
    try:
        if not target.parent.is_dir():
            target.parent.stat()  # says better than we could why it cannot be reached
            raise OSError(errno.ENOTDIR, f"{target.parent} is not a folder")
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise OSError("it is a pipe or a device")
        _restore(target)
        yield temporary
        _check_kinds(temporary, target)
        _sync(temporary)
        if temporary.is_dir():
            _replace_folder(temporary, target)
        else:
            temporary.replace(target)
        _sync_entry(target.parent)
        _remove_leftovers(target.parent)
    finally:
        _discard(temporary)


def _sibling(target: Path) -> Path:
    # In the same folder, hence on the same disk; the suffix is kept because some
    # writers choose the format by it; cut because names have a maximum length.
    suffix = "".join(target.suffixes[-2:])[-32:]
    return target.with_name(f"{temporary_prefix()}{uuid.uuid4().hex[:12]}{suffix}")


def _aside_prefix(target: Path) -> str:
    return f".old-{crc32(os.fsencode(target.name)):08x}-"


def _restore(target: Path) -> None:
    """Put a folder back that a killed process had moved aside."""
    if not target.exists():
        for aside in target.parent.glob(f"{_aside_prefix(target)}*"):
            aside.rename(target)
            return


@cache  # listing a large folder takes time
def _remove_leftovers(folder: Path) -> None:
    """Remove what processes of this host that are no more left in a folder; once."""
    prefix = _host_prefix()
    for path in folder.glob(f"{prefix}*"):
        owner = path.name.removeprefix(prefix).partition("-")[0]
        with suppress(ValueError):  # a name that only looks like one of ours
            if not psutil.pid_exists(int(owner, 16)):
                _discard(path)


def write_failure(error: OSError) -> str:
    """Return why something cannot be written, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0, "choose another file or folder")
    return f"{reason}; {remedy}"


def _check_kinds(temporary: Path, target: Path) -> None:
    if not temporary.exists():
        raise OSError("nothing was written")
    if not target.exists() or target.is_dir() == temporary.is_dir():
        return
    found, new = ("folder", "file") if target.is_dir() else ("file", "folder")
    raise OSError(f"a {found} of this name exists and a {new} cannot replace it")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step; False if system or file system cannot."""
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    here, swap = -100, 2  # AT_FDCWD; RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            return bool(library.renamex_np(first, second, swap) == 0)
        return bool(library.renameat2(here, first, here, second, swap) == 0)
    except AttributeError:  # an older C library
        return False


def _replace_folder(new: Path, target: Path) -> None:
    if target.exists() and _exchange(new, target):
        return  # `new` is the old one now
    for attempt in range(_ATTEMPTS):
        aside = target.with_name(f"{_aside_prefix(target)}{uuid.uuid4().hex[:12]}")
        with suppress(FileNotFoundError):
            target.rename(aside)
        try:
            new.rename(target)
        except OSError as error:
            # Another process may have put its own folder there in the meantime.
            if error.errno not in _TAKEN or attempt == _ATTEMPTS - 1:
                with suppress(OSError):
                    aside.rename(target)
                raise  # `aside` stays if it could not be put back: it is the only copy
            _discard(aside)
        else:
            _discard(aside)
            return


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _sync(path: Path) -> None:
    """Flush a file, or all files of a folder, to the disk."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync_file(Path(folder, name))
            _sync_entry(Path(folder))
    else:
        _sync_file(path)


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:  # Windows flushes only files open for writing
        os.fsync(file.fileno())


def _sync_entry(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse; the data is flushed
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_output(path: Path, suffixes: tuple[str, ...] = ()) -> None:
    """Raise unless a file can be written at `path`.

    Raises
    ------
    ConfigurationError
        If its name does not end in one of `suffixes`.
    ExportError
        If its folder is missing or not writable, or `path` is itself a folder.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigurationError(
            f"{path} has the wrong ending for this output: end its name in {' or '.join(suffixes)}"
        )
    if path.is_dir():
        raise ExportError(f"cannot write {path}: it is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise ExportError(f"cannot write {path}: it is a pipe or a device; name a file")
    if not path.parent.is_dir():
        raise ExportError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    try:
        # Permissions do not reveal read-only disks, so try it.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ExportError(f"cannot write {path}: {write_failure(error)}") from error


def safe_name(name: str) -> str:
    """Return a name as that of a file in a folder, on all systems: it leads nowhere else."""
    short = _UNSAFE.sub("_", name).encode()[:_LONGEST].decode(errors="ignore")
    safe = short.strip(" .") or "image"
    return f"_{safe}" if _DEVICES.match(safe) else safe


def check_not_an_input(output: Path, *inputs: Path) -> None:
    """Raise `ConfigurationError` if writing `output` would replace one of the inputs."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise ConfigurationError(
                f"{output} is an input of this command and would be overwritten: "
                "choose another name for the output"
            )


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, None if it is missing; a replacement differs."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
