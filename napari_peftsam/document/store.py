"""The project file: one SQLite database, one transaction per action.

Tables
------
``actions``
    The log: number, UTC time, kind, JSON text and pixels of each action; of steps also the
    changes that undo them and whether they are done or undone.
``images``, ``objects``, ``tiles``
    The present state: small things, object records, label tiles.
``fields``
    The document's own fields: pending prompts, adapters, runs, what is live.
``blobs``
    Large things by their content hash, in parts: adapters, and pixels without a file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from napari_peftsam.document.codec import dump, encode, load
from napari_peftsam.document.images import ImageInfo
from napari_peftsam.document.objects import ImageId, ObjectRecord
from napari_peftsam.document.tiles import TileKey
from napari_peftsam.errors import ProjectError

__all__ = ["APPLICATION_ID", "VERSION", "LoggedAction", "Rows", "Step", "Store"]

APPLICATION_ID = 0x50534D31
"""What SQLite's header says a project is."""
VERSION = 1
"""Version of the tables; `user_version` of the file."""
_PART = 16_000_000  # bytes of a blob in one row

_TABLES = """
CREATE TABLE actions (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
    payload BLOB NOT NULL, label TEXT NOT NULL, image TEXT, state TEXT NOT NULL,
    changes TEXT, pixels BLOB
);
CREATE INDEX steps ON actions (number) WHERE state != '';
CREATE TABLE images (id TEXT PRIMARY KEY, position INTEGER NOT NULL, info TEXT NOT NULL);
CREATE TABLE objects (
    image TEXT NOT NULL, label_set TEXT NOT NULL, label INTEGER NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (image, label_set, label)
) WITHOUT ROWID;
CREATE TABLE tiles (
    image TEXT NOT NULL, label_set TEXT NOT NULL, plane INTEGER NOT NULL,
    row INTEGER NOT NULL, col INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (image, label_set, plane, row, col)
);
CREATE TABLE fields (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE blobs (
    digest TEXT NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (digest, part)
);
"""

DONE, UNDONE, DROPPED = "done", "undone", "dropped"
"""States of a step; other actions have none (an empty text)."""


class LoggedAction(NamedTuple):
    """A row of the log: number, UTC time, kind, JSON text and pixels."""

    number: int
    time: str
    kind: str
    data: str
    payload: bytes


class Step(NamedTuple):
    """A step that can be undone or redone: its number, label, image, and encoded changes."""

    number: int
    label: str
    image: str | None
    changes: str
    pixels: bytes


@dataclass
class Rows:
    """What an action changes in the tables of the present state; None removes a row."""

    images: dict[ImageId, ImageInfo] = field(default_factory=dict)
    objects: dict[tuple[ImageId, str, int], ObjectRecord | None] = field(default_factory=dict)
    tiles: dict[TileKey, bytes | None] = field(default_factory=dict)
    fields: dict[str, object] = field(default_factory=dict)


class Store:
    """A project file that is open; without a path, the same tables in memory.

    Parameters
    ----------
    connection
        To a database with the tables of a project.
    path
        The file; None for one in memory.
    read_only
        Whether another process may be writing to it.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path | None = None, read_only: bool = False
    ) -> None:
        self._connection = connection
        self._lock = threading.RLock()
        self.path = path
        self.read_only = read_only
        self._next = self._one("SELECT coalesce(max(number), 0) + 1 FROM actions")[0]

    @classmethod
    def in_memory(cls) -> Store:
        """Return an empty store that lasts as long as the process."""
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        create_tables(connection)
        return cls(connection)

    # --- the log --------------------------------------------------------------------

    @property
    def next_number(self) -> int:
        """The number of the next action."""
        return int(self._next)

    def commit(
        self,
        time: str,
        action: tuple[str, str, bytes],
        rows: Rows,
        step: tuple[str, str | None, object] | None = None,
        moved: tuple[int, str] | None = None,
    ) -> None:
        """Write an action and all that it changes, in one transaction.

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
        with self._transaction() as execute:
            label, image, changes, pixels, state = "", None, None, None, ""
            if step is not None:
                label, image = step[0], step[1]
                changes, pixels = encode(step[2])
                state = DONE
                execute("UPDATE actions SET state = ?, changes = NULL, pixels = NULL "
                        "WHERE state = ?", (DROPPED, UNDONE))  # fmt: skip
            if moved is not None:
                execute("UPDATE actions SET state = ? WHERE number = ?", (moved[1], moved[0]))
            execute(
                "INSERT INTO actions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._next, time, *action, label, image, state, changes, pixels),
            )
            self._write_rows(execute, rows)
        self._next += 1

    def actions(self, until: int | None = None) -> Iterator[LoggedAction]:
        """Yield the log in order, up to action number `until`."""
        number = 0
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

    def last_step(self) -> Step | None:
        """Return the step that an undo takes back, None if there is none."""
        return self._step("state = 'done' ORDER BY number DESC")

    def next_step(self) -> Step | None:
        """Return the step that a redo does again, None if there is none."""
        return self._step("state = 'undone' ORDER BY number")

    def step_labels(self) -> tuple[str, ...]:
        """Return what can be undone, oldest first."""
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
        return {ImageId(image): load(ImageInfo, info) for image, info in rows}

    def objects(self, image: ImageId) -> dict[int, ObjectRecord]:
        """Return the records of an image's objects by label."""
        rows = self._all("SELECT label, record FROM objects WHERE image = ? ORDER BY label",
                         (image,))  # fmt: skip
        return {label: load(ObjectRecord, record) for label, record in rows}

    def tiles(self, image: ImageId) -> Iterator[tuple[TileKey, bytes]]:
        """Yield the label tiles of an image, all label sets."""
        with self._lock, _told(self.path):
            cursor = self._connection.execute(
                "SELECT image, label_set, plane, row, col, data FROM tiles WHERE image = ?",
                (image,),
            )
            for row in cursor:
                yield TileKey(*row[:-1]), row[-1]

    def fields(self) -> dict[str, str]:
        """Return the document's own fields as JSON texts."""
        return dict(self._all("SELECT name, value FROM fields"))

    # --- blobs ----------------------------------------------------------------------

    def put_blob(self, digest: str, data: bytes) -> None:
        """Keep a large thing under its content hash, unless it is there."""
        if self._one("SELECT 1 FROM blobs WHERE digest = ? LIMIT 1", (digest,)) is not None:
            return
        with self._transaction() as execute:
            for part, start in enumerate(range(0, max(len(data), 1), _PART)):
                execute("INSERT INTO blobs VALUES (?, ?, ?)",
                        (digest, part, data[start : start + _PART]))  # fmt: skip

    def blob(self, digest: str) -> bytes:
        """Return what was kept under a content hash; `ProjectError` if it is not there."""
        rows = self._all("SELECT data FROM blobs WHERE digest = ? ORDER BY part", (digest,))
        if not rows:
            raise ProjectError(f"{self._name} lacks a part of its content ({digest[:12]}…)")
        return b"".join(row[0] for row in rows)

    # --- the file -------------------------------------------------------------------

    def copy_to(self, target: sqlite3.Connection) -> None:
        """Copy everything into another database (SQLite's backup)."""
        with self._lock, _told(self.path):
            self._connection.backup(target)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock, _told(self.path):
            self._connection.close()

    @property
    def _name(self) -> str:
        return "the project" if self.path is None else str(self.path)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        if self.read_only:
            raise ProjectError(
                f"{self._name} is open for reading only: save it under another name to go on"
            )
        with self._lock, _told(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                # Where the disk is full SQLite has rolled back already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _write_rows(self, execute: Any, rows: Rows) -> None:
        for image, info in rows.images.items():
            execute(
                "INSERT INTO images VALUES (?1, (SELECT count(*) FROM images), ?2) "
                "ON CONFLICT (id) DO UPDATE SET info = ?2",
                (image, dump(info)),
            )
        _write(execute, "objects", {
            key: record and dump(record) for key, record in rows.objects.items()
        })  # fmt: skip
        _write(execute, "tiles", rows.tiles)
        _write(execute, "fields", {(k,): dump(v) for k, v in rows.fields.items()})

    def _one(self, sql: str, values: Iterable[Any] = ()) -> Any:
        with self._lock, _told(self.path):
            return self._connection.execute(sql, tuple(values)).fetchone()

    def _all(self, sql: str, values: Iterable[Any] = ()) -> list[Any]:
        with self._lock, _told(self.path):
            return self._connection.execute(sql, tuple(values)).fetchall()


_KEYS = {
    "objects": ("image", "label_set", "label"),
    "tiles": ("image", "label_set", "plane", "row", "col"),
    "fields": ("name",),
}


def _write(execute: Any, table: str, rows: Mapping[Any, Any]) -> None:
    """Replace rows of a table by their keys, or delete them (None)."""
    keys = _KEYS[table]
    marks = ", ".join("?" * (len(keys) + 1))
    for key, value in rows.items():
        if value is None:
            where = " AND ".join(f"{name} = ?" for name in keys)
            execute(f"DELETE FROM {table} WHERE {where}", tuple(key))
        else:
            execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*key, value))


def create_tables(connection: sqlite3.Connection) -> None:
    """Make an empty database a project."""
    connection.executescript(
        f"BEGIN; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
        f"PRAGMA user_version = {VERSION}; COMMIT;"
    )


@contextmanager
def _told(path: Path | None) -> Iterator[None]:
    """Turn what SQLite raises into a `ProjectError` that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        name = "the project" if path is None else str(path)
        raise ProjectError(
            f"{name} cannot be read or written ({error}): what was saved before is untouched; "
            "check the disk, or save the project elsewhere"
        ) from error
