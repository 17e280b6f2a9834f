"""The project file: one SQLite database, one transaction per action.

Tables
------
``actions``
    The log: number, UTC time, kind, JSON text and pixels of each action; of steps also the
    changes that undo them and whether they are done or undone.
``images``, ``objects``, ``tiles``
    The present state: image properties, object records, label tiles.
``fields``
    The document's own fields: pending prompts, adapters, runs, the live adapter.
``blobs``
    Large data by content hash, in parts: adapters, and pixels without a file.
"""

from __future__ import annotations

import sqlite3
import threading
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import xxhash

from napari_peftsam.document.objects import ImageId, ObjectRecord
from napari_peftsam.document.proposals import ProposalRecord
from napari_peftsam.document.records import OBJECTS, PROPOSALS, ImageInfo
from napari_peftsam.document.tables import (
    RECOVER,
    LoggedAction,
    Row,
    Step,
    TileKey,
    create_tables,
    decode,
    dump,
    write_action,
    write_rows,
)
from napari_peftsam.errors import ProjectError
from napari_peftsam.outputs import file_identity

__all__ = ["Store"]

# Bytes of a blob in one row, and in one transaction: an action waits for one at most.
_PART = 4_000_000
_GIVE_WAY = 0.001  # seconds between two parts, in which an action gets its turn


class Store:
    """A project file that is open; without a path, the same tables in memory.

    Parameters
    ----------
    connection
        To a database with the tables of a project.
    path
        The file; None for one in memory.
    why_read_only
        Reason the store is read-only; empty if it is writable.
    release
        Called once the file is closed.

    Attributes
    ----------
    path, why_read_only
        As given.
    next_number
        The number of the next action.
    slow_commits
        Number of actions that took longer than `slow_seconds` to save.
    slow_seconds
        Longest unnoticed delay of a brush stroke, in seconds.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path | None = None,
        why_read_only: str = "",
        release: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._lock = threading.RLock()
        self._release = release
        self._is_closed = False
        self.path = path
        self.why_read_only = why_read_only
        self.slow_commits = 0
        self.slow_seconds = 0.05
        self._file = None if path is None else file_identity(path)
        self.next_number = self.last_number + 1

    @classmethod
    def in_memory(cls) -> Store:
        """Return an empty store that lasts as long as the process."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        create_tables(connection)
        return cls(connection)

    @property
    def read_only(self) -> bool:
        """True if nothing can be written; another process may be writing."""
        return bool(self.why_read_only)

    # --- the log --------------------------------------------------------------------

    @property
    def last_number(self) -> int:
        """The number of the last action in the file, 0 if there is none."""
        return int(self._one("SELECT coalesce(max(number), 0) FROM actions")[0])

    def commit(
        self,
        time: str,
        action: tuple[str, str, bytes],
        rows: Iterable[Row],
        step: tuple[str, str | None, object] | None = None,
        moved: tuple[int, str] | None = None,
    ) -> None:
        """Write an action and all its changes in one transaction.

        Parameters
        ----------
        time
            UTC, ISO 8601.
        action
            As of `encode_action`.
        rows
            The rows of the present state that differ now.
        step
            Label, image and changes of an action that can be undone; what was undone before
            can no longer be redone.
        moved
            Number and new state of the step that an undo or redo moves.

        Raises
        ------
        ProjectError
            If it cannot be written; the file is as it was.
        """
        start = clock.perf_counter()
        try:
            with self._transaction() as execute:
                write_action(execute, LoggedAction(self.next_number, time, *action), step, moved)
                write_rows(execute, rows)
        except BaseException as error:
            # An interrupt (Ctrl-C) may arrive once the file has the action.
            if not isinstance(error, Exception) and self.last_number == self.next_number:
                self.next_number += 1
            raise
        self.next_number += 1
        self.slow_commits += clock.perf_counter() - start > self.slow_seconds

    def actions(self, until: int | None = None, *, after: int = 0) -> Iterator[LoggedAction]:
        """Yield the log in order, past action number `after` and up to `until`."""
        number = after
        while True:  # in short reads: a writer may be waiting for the file
            rows = self._all(
                "SELECT number, time, kind, data, payload FROM actions "
                "WHERE number > ? AND (? IS NULL OR number <= ?) ORDER BY number LIMIT 200",
                (number, until, until),
            )
            if not rows:
                return
            yield from (LoggedAction(*row) for row in rows)
            number = rows[-1][0]

    def times(self) -> tuple[str, ...]:
        """Return the UTC times of all actions in ISO 8601."""
        return tuple(row[0] for row in self._all("SELECT time FROM actions ORDER BY number"))

    def last_step(self) -> Step | None:
        """Return the step that an undo takes back, None if there is none."""
        return self._step("state = 'done' ORDER BY number DESC")

    def next_step(self) -> Step | None:
        """Return the step that a redo does again, None if there is none."""
        return self._step("state = 'undone' ORDER BY number")

    def step_labels(self) -> tuple[str, ...]:
        """Return the labels of the steps that can be undone, oldest first."""
        rows = self._all("SELECT label FROM actions WHERE state = 'done' ORDER BY number")
        return tuple(row[0] for row in rows)

    def _step(self, which: str) -> Step | None:
        columns = "number, label, image, changes, pixels"
        row = self._one(f"SELECT {columns} FROM actions WHERE {which} LIMIT 1")
        return None if row is None else Step(*row)

    # --- the present state ----------------------------------------------------------

    def images(self) -> dict[ImageId, ImageInfo]:
        """Return all images, removed ones included, in the order in which they were added."""
        rows = self._all("SELECT id, info FROM images ORDER BY position")
        return {ImageId(image): decode(ImageInfo, info) for image, info in rows}

    def objects(self, image: ImageId) -> dict[int, ObjectRecord]:
        """Return the records of an image's objects by label."""
        return {label: decode(ObjectRecord, text) for label, text in self._records(image, OBJECTS)}

    def proposals(self, image: ImageId) -> dict[int, ProposalRecord]:
        """Return the proposals of an image by number, and those that were judged."""
        found = self._records(image, PROPOSALS)
        return {number: decode(ProposalRecord, text) for number, text in found}

    def _records(self, image: ImageId, label_set: str) -> list[tuple[int, str]]:
        select = "SELECT label, record FROM objects WHERE image = ? AND label_set = ?"
        return self._all(f"{select} ORDER BY label", (image, label_set))

    def count_objects(self, image: ImageId) -> int:
        """Return the number of an image's objects."""
        select = "SELECT count(*) FROM objects WHERE image = ? AND label_set = ?"
        return int(self._one(select, (image, OBJECTS))[0])

    def count_proposals(self, image: ImageId) -> int:
        """Return the number of an image's proposals that nobody has judged yet."""
        select = "SELECT count(*) FROM objects WHERE image = ? AND label_set = ?"
        judged = "json_extract(record, '$.iou')"  # not stored while it is open
        return int(self._one(f"{select} AND {judged} IS NULL", (image, PROPOSALS))[0])

    def tiles(self, image: ImageId) -> Iterator[tuple[TileKey, bytes]]:
        """Yield the label tiles of an image, all label sets."""
        # In one short read: a writer may be waiting for the file.
        rows = self._all(
            "SELECT image, label_set, plane, row, col, data FROM tiles WHERE image = ?", (image,)
        )
        for row in rows:
            yield TileKey(*row[:-1]), row[-1]

    def fields(self) -> dict[str, str]:
        """Return the document's own fields as JSON texts."""
        return dict(self._all("SELECT name, value FROM fields"))

    # --- blobs ----------------------------------------------------------------------

    def put_blob(self, data: bytes) -> str:
        """Store large data once and return its content hash."""
        digest = xxhash.xxh128_hexdigest(data)
        kept = "SELECT sum(length(data)) FROM blobs WHERE digest = ?"
        found = self._one(kept, (digest,))[0]
        if found == len(data):
            return digest
        if found is not None:  # of a process that was killed halfway
            with self._transaction() as execute:
                execute("DELETE FROM blobs WHERE digest = ?", (digest,))
        for part, start in enumerate(range(0, max(len(data), 1), _PART)):
            with self._transaction() as execute:
                execute("INSERT OR REPLACE INTO blobs VALUES (?, ?, ?)",
                        (digest, part, data[start : start + _PART]))  # fmt: skip
            if start + _PART < len(data):
                clock.sleep(_GIVE_WAY)
        return digest

    def blob(self, digest: str) -> bytes:
        """Return the data of a content hash; raise `ProjectError` if it is damaged."""
        rows = self._all("SELECT data FROM blobs WHERE digest = ? ORDER BY part", (digest,))
        data = b"".join(row[0] for row in rows)
        if not rows or xxhash.xxh128_hexdigest(data) != digest:
            state = "is damaged" if rows else "is missing"
            raise ProjectError(
                f"{self._name}: a part of its content ({digest[:12]}…) {state}: {RECOVER}"
            )
        return data

    def blob_start(self, digest: str) -> bytes:
        """Return the first part of the data of a content hash, not checked; empty if missing."""
        rows = self._all("SELECT data FROM blobs WHERE digest = ? AND part = 0", (digest,))
        return bytes(rows[0][0]) if rows else b""

    # --- the file -------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one consistent state until the block ends; keep it short.

        Without shared memory a writer cannot commit meanwhile.
        """
        with self._lock, _explained(self.path):
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def write_infos(self, infos: Mapping[ImageId, ImageInfo]) -> None:
        """Replace the stored properties of images without an action: paths in a copy differ."""
        with self._transaction() as execute:
            write_rows(execute, [("images", (i,), dump(info)) for i, info in infos.items()])

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy everything into another database; SQLite's errors concern that one."""
        with self._lock:
            self._connection.backup(target)

    def fill_from(self, other: Store) -> None:
        """Replace the content of this store by that of another one (SQLite's backup)."""
        with self._lock, _explained(self.path):
            other.copy_to(self._connection)
            self.next_number = self.last_number + 1

    def checkpoint(self) -> None:
        """Move committed data into the main file; slow, so call it when idle."""
        if not self.read_only:
            with self._lock, _explained(self.path):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the file; without other users, the write-ahead log is merged into it."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                if self.path is not None and not self.read_only:
                    # Another process may be reading it: then the main file is whole, at least.
                    with suppress(sqlite3.Error):
                        self._gather()
                        self._connection.execute("PRAGMA journal_mode=DELETE")
                with _explained(self.path):
                    self._connection.close()
            finally:
                if self._release is not None:
                    self._release()

    def _gather(self) -> None:
        """Move all that was committed into the main file, wherever that was moved to."""
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def _name(self) -> str:
        return "the project" if self.path is None else str(self.path)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        if self.read_only:
            raise ProjectError(
                f"{self._name} can only be read, {self.why_read_only}: save it under another "
                "name to go on"
            )
        if self.path is not None and file_identity(self.path) != self._file:
            self._gather()
            raise ProjectError(
                f"{self._name} is no longer there: bring its folder or disk back, or save the "
                "project elsewhere"
            )
        with self._lock, _explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                # Where the disk is full SQLite has rolled back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _one(self, sql: str, values: Iterable[Any] = ()) -> Any:
        with self._lock, _explained(self.path):
            return self._connection.execute(sql, tuple(values)).fetchone()

    def _all(self, sql: str, values: Iterable[Any] = ()) -> list[Any]:
        with self._lock, _explained(self.path):
            return self._connection.execute(sql, tuple(values)).fetchall()


def is_damage(error: sqlite3.Error) -> bool:
    """Return True if an error of SQLite is about a file's content, not about reaching it."""
    if not isinstance(error, sqlite3.OperationalError):
        return True
    # Our statements are right: an error in them, like "malformed JSON", is one in what they read.
    code = getattr(error, "sqlite_errorcode", None)
    return code == sqlite3.SQLITE_ERROR or "decode to UTF-8" in str(error)


@contextmanager
def _explained(path: Path | None) -> Iterator[None]:
    """Convert SQLite's errors to a `ProjectError` that names a remedy."""
    try:
        yield
    except sqlite3.Error as error:
        name = "the project" if path is None else str(path)
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
            raise ProjectError(f"{name} was closed: open it again to go on") from error
        if is_damage(error):
            raise ProjectError(f"{name} is damaged ({error}): {RECOVER}") from error
        raise ProjectError(
            f"{name} cannot be read or written ({error}): what was saved before is untouched; "
            "check the disk, or save the project elsewhere"
        ) from error
