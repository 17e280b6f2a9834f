"""Project files: create, open and copy them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_peftsam.document.filesystem import ProjectLock, is_network
from napari_peftsam.document.objects import ImageId
from napari_peftsam.document.sources import moved_source, store_pixels
from napari_peftsam.document.store import Store, is_damage
from napari_peftsam.document.tables import (
    APPLICATION_ID,
    RECOVER,
    VERSION,
    create_tables,
    has_own_schema,
    migrate,
)
from napari_peftsam.errors import ProjectError
from napari_peftsam.folders import resolved
from napari_peftsam.outputs import replacing

__all__ = ["create_project", "is_project", "open_project", "save_copy"]

SUFFIX = ".peftsam"
"""Suffix of project files."""
_PATIENCE_SECONDS = 5.0  # for another process that writes or reads just now
_GLANCE_SECONDS = 0.2  # for one that only looks whether a project is open
# 40 MB: the owner checkpoints when idle; inside a commit it would be felt.
_PAGES_BEFORE_CHECKPOINT = 10_000


def create_project(path: str | Path, *, private: bool = False, vfs: str = "") -> Store:
    """Create a project file and open it.

    Parameters
    ----------
    path
        The file; its folder must exist.
    private
        Whether other users of the computer may not read it.
    vfs
        SQLite's VFS, as in `open_project`.
    """
    path = resolved(path)  # links to one file need one lock
    if path.exists():
        raise ProjectError(f"{path} exists already: open it, or choose another name")
    # A half-made project never has its name.
    with _writing(path) as lock, replacing(path) as temporary:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
        with closing(sqlite3.connect(temporary)) as connection:
            create_tables(connection)
    return _open(path, lock, vfs)


def open_project(
    path: str | Path, read_only: bool = False, *, must_write: bool = False, vfs: str = ""
) -> Store:
    """Open a project file.

    A project that is open elsewhere, or that may not be written, is opened for reading:
    `Store.why_read_only` holds the reason.

    Parameters
    ----------
    path
        The file.
    read_only
        Whether to read only, even if nobody else writes.
    must_write
        Whether a project that can only be read is an error.
    vfs
        SQLite's VFS; empty for the default.

    Raises
    ------
    ProjectError
        If it is no project, of a newer version, damaged, missing or, with `must_write`,
        open elsewhere.
    """
    path = resolved(path)
    _check_file(path)
    if read_only:
        return _open_to_read(path, "it was opened for reading", vfs)
    lock = ProjectLock(path)
    remedy = "choose a copy in a folder you may write to"
    try:
        why = "" if lock.acquire(_GLANCE_SECONDS) else f"it is open in {lock.owner}"
        remedy = "close it there" if why else remedy
    except OSError as error:
        what = f"its lock file {lock.path.name}" if lock.path.exists() else "its folder"
        why = f"{what} cannot be written ({error.strerror})"
    if not why and not os.access(path, os.W_OK):
        lock.release()
        why = "you may not write to the file"
    if why and must_write:
        raise ProjectError(f"{path} can only be read, {why}: {remedy}")
    return _open_to_read(path, why, vfs) if why else _open(path, lock, vfs)


def is_project(path: str | Path) -> bool:
    """Return True if a file is a project by its header or its name."""
    path = resolved(path)
    if path.suffix == SUFFIX or not path.is_file():
        return path.suffix == SUFFIX
    # Not by `open`: closing it would drop the locks of a project that is open here.
    with suppress(sqlite3.Error), closing(_connect(path, "ro")) as connection:
        return bool(_pragma(connection, "application_id") == APPLICATION_ID)
    return False


def is_open_elsewhere(path: Path) -> bool:
    """Return True if a process, this one included, has a project open for writing."""
    lock = ProjectLock(path)
    if not lock.path.exists():
        return False
    try:
        is_free = lock.acquire()
    except OSError:
        return False
    lock.release()
    return not is_free


def save_copy(store: Store, path: str | Path, pixels: Mapping[ImageId, Any] | None = None) -> None:
    """Copy a project, saved or in memory, to a file that appears once it is whole.

    An existing file is replaced. Paths of images are written as seen from the copy.

    Parameters
    ----------
    store
        The project to copy.
    path
        The copy; its folder must exist.
    pixels
        Images to store in the copy itself, by id.
    """
    path = resolved(path)
    if path == store.path:
        raise ProjectError(f"{path} is the project itself: choose another name for the copy")
    with _writing(path) as lock:
        with replacing(path) as temporary, closing(_connect(temporary, "rwc")) as target:
            store.copy_to(target)
            target.execute("PRAGMA journal_mode=DELETE")
            _adapt(Store(target), store.path, path, pixels or {})
        for name in ("-wal", "-shm"):  # of a replaced project whose process was killed
            path.with_name(path.name + name).unlink(missing_ok=True)
    lock.release()


def _adapt(copy: Store, old: Path | None, new: Path, pixels: Mapping[ImageId, Any]) -> None:
    infos = copy.images()
    for image, info in infos.items():
        inside = pixels.get(image)
        source = (
            moved_source(info.source, old, new) if inside is None else store_pixels(copy, inside)
        )
        infos[image] = replace(info, source=source)
    copy.write_infos(infos)


# --- opening ------------------------------------------------------------------------


def _open(path: Path, lock: ProjectLock, vfs: str) -> Store:
    """Open a project whose lock is held."""
    with ExitStack() as undo, _explained(path):
        undo.callback(lock.release)
        connection = undo.enter_context(closing(_connect(path, "rw", vfs)))
        try:
            _check_header(connection, path)
        except sqlite3.OperationalError:
            # It was left in WAL by a killed process, and here is no shared memory: the lock
            # makes this the only process, which needs none.
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            _check_header(connection, path)
            connection.execute("PRAGMA journal_mode=TRUNCATE")
            connection.execute("PRAGMA locking_mode=NORMAL")
            path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
        _set_journal(connection, path)
        migrate(connection)
        store = Store(connection, path, release=lock.release)
        undo.pop_all()
        return store


def _set_journal(connection: sqlite3.Connection, path: Path) -> None:
    """Let a commit survive power loss, and let others read meanwhile where that is possible."""
    mode = "" if is_network(path.parent) else _pragma(connection, "journal_mode=WAL")
    if mode != "wal":
        _pragma(connection, "journal_mode=TRUNCATE")
    _pragma(connection, f"wal_autocheckpoint={_PAGES_BEFORE_CHECKPOINT}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA fullfsync=ON")  # macOS: the disk's own cache, too


def _open_to_read(path: Path, why: str, vfs: str) -> Store:
    with ExitStack() as undo, _explained(path):
        connection = undo.enter_context(closing(_connect(path, "ro", vfs)))
        if _check_header(connection, path) < VERSION:
            memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            undo.enter_context(closing(memory))
            connection.backup(memory)
            connection.close()
            connection = memory
            migrate(connection)
        store = Store(connection, path, why)
        undo.pop_all()
        return store


def _connect(path: Path, mode: str, vfs: str = "") -> sqlite3.Connection:
    uri = f"{path.as_uri()}?mode={mode}" + (f"&vfs={vfs}" if vfs else "")
    connection = sqlite3.connect(
        uri, uri=True, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA trusted_schema=OFF")  # it may come by mail
    return connection


def _check_header(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a project's tables."""
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise ProjectError(f"{path} is a database of another program: choose a {SUFFIX} file")
    version: int = _pragma(connection, "user_version")
    if version > VERSION:
        raise ProjectError(
            f"{path} has version {version}, this program reads up to {VERSION}: update "
            "napari-peftsam to open it"
        )
    if version < 1 or not has_own_schema(connection):
        raise ProjectError(
            f"{path} was not made by this program, or is damaged: open a backup copy of the project"
        )
    # Damage is found before anything is written.
    connection.execute("SELECT max(number) FROM actions").fetchone()
    return version


def _pragma(connection: sqlite3.Connection, text: str) -> Any:
    return connection.execute(f"PRAGMA {text}").fetchone()[0]


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise ProjectError(f"{path} is a folder: choose a {SUFFIX} file")
    try:
        size = path.stat().st_size
    except OSError as error:
        what = "there is no folder" if not path.parent.is_dir() else "there is no file"
        where = path.parent if not path.parent.is_dir() else path
        raise ProjectError(f"{what} {where}: check the path") from error
    for name in ("-journal", "-wal", "-shm"):  # SQLite would wait for a pipe
        beside = path.with_name(path.name + name)
        if beside.exists() and not beside.is_file():
            raise ProjectError(f"{beside} is no regular file: remove it")
    if not size:
        raise ProjectError(f"{path} is empty (0 bytes): open a backup copy of the project")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Convert SQLite's errors on opening a file to `ProjectError`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise ProjectError(
                f"{path} cannot be opened ({error}): check that you may read and write in its "
                "folder, or copy it to another one"
            ) from error
        what = "is no project" if "not a database" in str(error) else "is damaged"
        raise ProjectError(
            f"{path} {what} ({error}): choose a {SUFFIX} file, or {RECOVER}"
        ) from error


# --- writing ------------------------------------------------------------------------


@contextmanager
def _writing(path: Path) -> Iterator[ProjectLock]:
    """Yield the lock of a file that is written; it is released if the block fails."""
    if path.is_dir():
        raise ProjectError(f"{path} is a folder: choose the name of a file")
    if not path.parent.is_dir():
        raise ProjectError(f"there is no folder {path.parent}: create it, or choose another one")
    lock = ProjectLock(path)
    try:
        if not lock.acquire():
            raise ProjectError(
                f"{path} cannot be written, it is open in {lock.owner}: close it there first"
            )
        yield lock
    except BaseException as error:
        lock.release()
        if not isinstance(error, OSError | sqlite3.Error):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise ProjectError(
            f"{path} cannot be written ({reason}): choose a folder you may write to, with room"
        ) from error
