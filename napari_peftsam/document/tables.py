"""Tables, rows and label tiles of the project file, and migrations of older versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_peftsam.document.codec import compress, decompress, encode
from napari_peftsam.document.objects import ImageId
from napari_peftsam.document.regions import Integers
from napari_peftsam.errors import ProjectError

__all__ = [
    "APPLICATION_ID",
    "VERSION",
    "LoggedAction",
    "Row",
    "Step",
    "TileKey",
    "create_tables",
    "migrate",
    "put_tile",
    "tile_bytes",
    "tiles_at",
    "write_action",
    "write_rows",
]

APPLICATION_ID = 0x50534D31
"""Identifies a project in SQLite's header."""
VERSION = 1
"""Version of the tables; `user_version` of the file."""

_Migration = Callable[[sqlite3.Connection], None]
_MIGRATIONS: Mapping[int, _Migration] = {}
"""For each older version the function that leads to the next one."""

_TABLES = """
CREATE TABLE actions (
    number INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
    payload BLOB NOT NULL, label TEXT NOT NULL, image TEXT, state TEXT NOT NULL,
    changes BLOB, pixels BLOB
);
CREATE INDEX steps ON actions (state, number);
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


def create_tables(connection: sqlite3.Connection) -> None:
    """Create a project's tables in an empty database."""
    connection.executescript(
        f"BEGIN; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
        f"PRAGMA user_version = {VERSION}; COMMIT;"
    )


def migrate(
    connection: sqlite3.Connection,
    migrations: Mapping[int, _Migration] = _MIGRATIONS,
    version: int = VERSION,
) -> None:
    """Bring a project's tables up to `version` in one transaction."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found == version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in range(found, version):
            migrations[step](connection)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


# --- tiles --------------------------------------------------------------------------

_SIDE = 512
"""Pixels along a tile's sides; tiles at the bottom and right edges are smaller."""


class TileKey(NamedTuple):
    """Addresses a tile: image, label set, number of the plane, row and column of the tile."""

    image: ImageId
    label_set: str
    plane: int
    row: int
    col: int

    def window(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """Return the index of the tile's pixels in an array ``(..., H, W)`` of `shape`."""
        leading = tuple(int(i) for i in np.unravel_index(self.plane, shape[:-2]))
        top, left = self.row * _SIDE, self.col * _SIDE
        return (*leading, slice(top, top + _SIDE), slice(left, left + _SIDE))


def tiles_at(
    image: ImageId, label_set: str, where: list[Integers], shape: tuple[int, ...]
) -> Iterator[TileKey]:
    """Yield the tiles that hold these flat positions of an array of `shape`."""
    height, width = shape[-2:]
    rows, cols = -(-height // _SIDE), -(-width // _SIDE)
    numbers: set[int] = set()
    for positions in where:
        plane, inside = np.divmod(positions, height * width)
        row, col = np.divmod(inside, width)
        found = (plane * rows + row // _SIDE) * cols + col // _SIDE
        changes = np.flatnonzero(found[1:] != found[:-1]) + 1
        numbers |= {int(found[0]), *found[changes].tolist()}
    for number in sorted(numbers):
        rest, col_number = divmod(number, cols)
        plane_number, row_number = divmod(rest, rows)
        yield TileKey(image, label_set, plane_number, row_number, col_number)


def tile_bytes(array: npt.NDArray[Any], key: TileKey) -> bytes | None:
    """Return a tile of an array, compressed; None if all of it is 0."""
    tile = array[key.window(array.shape)]
    return compress(np.ascontiguousarray(tile)) if tile.any() else None


def put_tile(array: npt.NDArray[Any], key: TileKey, data: bytes) -> None:
    """Write a compressed tile into an array; `ProjectError` if the bytes do not fit."""
    view = array[key.window(array.shape)]
    plain = decompress(data)
    if len(plain) != view.nbytes:
        raise ProjectError(f"a tile of {key.image!r} has {len(plain)} bytes, not {view.nbytes}")
    view[...] = np.frombuffer(plain, array.dtype).reshape(view.shape)


# --- rows ---------------------------------------------------------------------------

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
    changes: bytes
    pixels: bytes


Row = tuple[str, tuple[Any, ...], str | bytes | None]
"""A row of the present state: table, key and value; None removes it."""


def write_action(
    execute: Any,
    logged: LoggedAction,
    step: tuple[str, str | None, object] | None,
    moved: tuple[int, str] | None,
) -> None:
    """Write a row of the log through a connection's `execute`; arguments as `Store.commit`."""
    label, image, changes, pixels, state = "", None, None, None, ""
    if step is not None:
        label, image, state = step[0], step[1], DONE
        text, pixels = encode(step[2])
        changes = compress(text.encode())  # of 1.5 kB, most of it records
        execute("UPDATE actions SET state = ?, changes = NULL, pixels = NULL WHERE state = ?",
                (DROPPED, UNDONE))  # fmt: skip
    if moved is not None:
        execute("UPDATE actions SET state = ? WHERE number = ?", (moved[1], moved[0]))
    execute(
        "INSERT INTO actions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*logged, label, image, state, changes, pixels),
    )


def write_rows(execute: Any, rows: Iterable[Row]) -> None:
    """Write rows of the present state through a connection's `execute`."""
    for table, key, value in rows:
        if table == "images":
            execute(
                "INSERT INTO images VALUES (?1, (SELECT count(*) FROM images), ?2) "
                "ON CONFLICT (id) DO UPDATE SET info = ?2",
                (*key, value),
            )
        elif value is None:
            where = " AND ".join(f"{name} = ?" for name in _KEYS[table])
            execute(f"DELETE FROM {table} WHERE {where}", key)
        else:
            marks = ", ".join("?" * (len(key) + 1))
            execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*key, value))


_KEYS = {
    "objects": ("image", "label_set", "label"),
    "tiles": ("image", "label_set", "plane", "row", "col"),
}
