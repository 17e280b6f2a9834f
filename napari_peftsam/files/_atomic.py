"""Atomic writes of files and folders: a reader sees the old or the new one, never a part."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from napari_peftsam.errors import ExportError

__all__ = ["atomic_path"]

_ATTEMPTS = 3
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_REMEDIES = {
    errno.ENOSPC: "free some disk space or choose another disk",
    errno.EDQUOT: "your disk quota is used up, free some space or choose another disk",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOENT: "create the folder first or choose an existing one",
    errno.ENOTDIR: "a part of the path is a file, choose an existing folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` that replaces it when the block succeeds.

    The block writes a file or creates a folder (a zarr store) at the yielded path, which
    ends in the same suffix. If the block fails, is interrupted or closed, the temporary
    is removed and the old `target` stays whole. A file is replaced in one step; a
    folder is moved aside first, since no portable call swaps two folders. A link is
    followed, so the file it points to is replaced.

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
    shown, target = target, Path(target).resolve()
    temporary = _sibling(target)
    try:
        if not target.parent.is_dir():
            target.parent.stat()  # says better than we could why it cannot be reached
            raise OSError(errno.ENOTDIR, f"{target.parent} is not a folder")
        yield temporary
        _check_kinds(temporary, target)
        _sync(temporary)
        if temporary.is_dir():
            _replace_folder(temporary, target)
        else:
            temporary.replace(target)
        _sync_entry(target.parent)
    except OSError as error:
        raise ExportError(f"cannot write {shown}: {_reason(error)}") from error
    finally:
        _discard(temporary)


def _sibling(target: Path) -> Path:
    # In the same folder, hence on the same disk; the suffix is kept because some
    # writers choose the format by it; cut because names have a maximum length.
    suffix = "".join(target.suffixes[-2:])[-32:]
    return target.with_name(f".tmp-{uuid.uuid4().hex[:12]}{suffix}")


def _reason(error: OSError) -> str:
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


def _replace_folder(new: Path, target: Path) -> None:
    for attempt in range(_ATTEMPTS):
        aside = _sibling(target)
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
