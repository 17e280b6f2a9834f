"""Tables, rows, label tiles and values of the project file; migrations of older versions."""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import fields, is_dataclass
from functools import cache
from math import isfinite, prod
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numcodecs import Zstd
from pydantic import ConfigDict, TypeAdapter, ValidationError

from napari_peftsam.document.objects import ImageId, ObjectRecord
from napari_peftsam.document.proposals import ProposalRecord
from napari_peftsam.document.regions import Integers
from napari_peftsam.errors import ProjectError
from napari_peftsam.limits import check_claim, zstd_bytes
from napari_peftsam.types import Prompts

__all__ = [
    "APPLICATION_ID", "RECOVER", "VERSION", "LoggedAction", "Row", "Step", "TileKey", "compress",
    "create_tables", "decode", "decompress", "dump", "encode", "from_json", "has_own_schema",
    "migrate", "put_tile",
    "tile_bytes", "tiles_at", "write_action", "write_rows",
]  # fmt: skip

APPLICATION_ID = 0x50534D31
"""Identifies a project in SQLite's header."""
VERSION = 1
"""Version of the tables; `user_version` of the file."""

RECOVER = "recover what is readable into a copy with `napari-peftsam recover`"
"""The remedy for a damaged project."""

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


def has_own_schema(connection: sqlite3.Connection) -> bool:
    """Return True if there is nothing but tables and indexes that this program makes.

    Views, computed columns, checks and indexes of expressions run what they say.
    """
    every = "SELECT type, name, sql FROM sqlite_master"
    with closing(sqlite3.connect(":memory:")) as blank:
        create_tables(blank)
        known = {*blank.execute(every)}
    try:
        return all(each in known for each in connection.execute(every))
    except UnicodeDecodeError as error:  # in the text of SQLite's own error
        raise sqlite3.DatabaseError("malformed database schema") from error


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
    image: ImageId,
    label_set: str,
    runs: Iterable[tuple[Integers, Integers]],
    shape: tuple[int, ...],
) -> Iterator[TileKey]:
    """Yield the tiles that hold these runs of flat positions of an array of `shape`.

    Runs are given by ``(R,)`` starts and lengths.
    """
    height, width = shape[-2:]
    rows, cols = -(-height // _SIDE), -(-width // _SIDE)
    numbers: set[int] = set()
    for start, length in runs:
        stop = start + length - 1
        lines = stop // width - start // width + 1
        run = np.repeat(np.arange(len(lines)), lines)
        line = (start // width)[run] + np.arange(len(run)) - (np.cumsum(lines) - lines)[run]
        plane, row = np.divmod(line, height)
        left = np.maximum(start[run] - line * width, 0) // _SIDE
        right = np.minimum(stop[run] - line * width, width - 1) // _SIDE
        leftmost = (plane * rows + row // _SIDE) * cols
        for step in range(int((right - left).max()) + 1):
            numbers.update(np.unique(leftmost + np.minimum(left + step, right)).tolist())
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
    try:
        view = array[key.window(array.shape)]
        plain = decompress(data)
        if len(plain) != view.nbytes:
            raise ProjectError(f"a tile of {key.image!r} has {len(plain)} bytes, not {view.nbytes}")
        view[...] = np.frombuffer(plain, array.dtype).reshape(view.shape)
    except _UNREADABLE as error:  # SQLite takes values of any type
        what = f"a tile of {key.image!r} cannot be read ({error})"
        raise ProjectError(f"{what}: {RECOVER}") from error


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


# --- values -------------------------------------------------------------------------

Array = npt.NDArray[Any]

# Level 1 costs 0.3 ms for a tile of labels; the checksum finds damage that SQLite does not see.
_ZSTD = Zstd(level=1, checksum=True)
_HEADER = struct.Struct("<I")
_ARRAY = "array"
_UNREADABLE = (
    AttributeError, KeyError, TypeError, ValueError, IndexError, RecursionError, OverflowError,
    MemoryError, struct.error,
)  # fmt: skip


def dump(value: object) -> str:
    """Return a value without arrays as JSON text."""
    return _written(value, [])


def encode(value: object) -> tuple[str, bytes]:
    """Return a value as JSON text, and its arrays as compressed bytes (none: no bytes)."""
    arrays: list[Array] = []
    text = _written(value, arrays)
    if not arrays:
        return text, b""
    header = _text([[array.dtype.str, array.shape] for array in arrays]).encode()
    plain = (np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays)
    return text, compress(b"".join((_HEADER.pack(len(header)), header, *plain)))


def decode(hint: Any, text: str, payload: bytes = b"") -> Any:
    """Rebuild a value of the type `hint` from `dump` or `encode`, or raise `ProjectError`."""
    try:
        arrays = _arrays(payload) if payload else []
        return from_json(hint, json.loads(text, object_hook=_placing(arrays) if arrays else None))
    except _UNREADABLE as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else repr(error)
        raise ProjectError(f"a part of the project cannot be read ({why}): {RECOVER}") from error


def _arrays(payload: bytes) -> list[Array]:
    plain = decompress(payload)
    (length,) = _HEADER.unpack_from(plain)
    start = _HEADER.size + length
    arrays = []
    for kind, shape in json.loads(plain[_HEADER.size : start]):
        array = np.frombuffer(plain, np.dtype(kind), prod(shape), start).reshape(shape)
        start += array.nbytes
        arrays.append(array)
    return arrays


def _placing(arrays: list[Array]) -> Callable[[dict[str, Any]], Any]:
    """Return the function that puts arrays in place of their numbers."""
    return lambda value: arrays[value[_ARRAY]] if value.keys() == {_ARRAY} else value


def compress(data: bytes | Array) -> bytes:
    """Return the bytes (of a contiguous array) compressed, with a checksum."""
    return bytes(_ZSTD.encode(data))


def decompress(data: bytes) -> bytes:
    """Decompress the bytes of `compress`; raise `ProjectError` if they are damaged."""
    size = zstd_bytes(data)
    if size is None:
        raise ProjectError(f"a part of the project is damaged: {RECOVER}")
    check_claim(size, len(data), "a part of the project", error=ProjectError)
    try:
        return bytes(_ZSTD.decode(data))
    except (RuntimeError, ValueError) as error:
        raise ProjectError(f"a part of the project is damaged ({error}): {RECOVER}") from error


def _written(value: Any, arrays: list[Array]) -> str:
    """Return a value as JSON; its arrays go to `arrays`, replaced by their numbers.

    Of a dataclass, fields that have their default value and fields with the metadata
    ``stored=False`` are left out.
    """
    kind = type(value)
    if kind is int or (kind is float and isfinite(value)):
        return repr(value)  # as JSON has it, in a fifth of the time
    if kind in _PLAIN:
        return _text(value)
    if kind in _KEPT:
        kept = vars(value)
        if _KEY not in kept:
            kept[_KEY] = _fields_of(value, arrays)
        return str(kept[_KEY])
    if _stored_fields(kind) is not None:  # type: ignore[arg-type]  # types are hashable
        return _fields_of(value, arrays)
    return _written_values(value, arrays)


def _fields_of(value: Any, arrays: list[Array]) -> str:
    stored = _stored_fields(type(value)) or ()  # type: ignore[arg-type]  # types are hashable
    parts = [
        f'"{name}":{_written(given, arrays)}'
        for name, default in stored
        if type(given := getattr(value, name)) is not type(default) or given != default
    ]
    return f"{{{','.join(parts)}}}"


def _written_values(value: Any, arrays: list[Array]) -> str:
    if isinstance(value, np.generic):
        return _text(value.item())
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return f'{{"{_ARRAY}":{len(arrays) - 1}}}'
    if isinstance(value, dict):
        return f"{{{','.join(f'{_text(str(k))}:{_written(v, arrays)}' for k, v in value.items())}}}"
    if _PLAIN.issuperset(map(type, value)):
        return _text(list(value))
    return f"[{','.join([_written(each, arrays) for each in value])}]"


def from_json(hint: Any, value: Any) -> Any:
    """Rebuild a value of the type `hint` from JSON types and arrays; skip unknown fields."""
    return _adapter(hint).validate_python((value,))[0]


_PLAIN = frozenset((NoneType, bool, int, float, str))
# Of these, which never change, the text is kept beside the fields: an action on hundreds of objects
# writes each in its row, in what undoes it, and in the action that follows.
_KEPT, _KEY = frozenset((Prompts, ObjectRecord, ProposalRecord)), "_written"


@cache
def _adapter(hint: Any) -> TypeAdapter[tuple[Any]]:
    # A tuple around it, because pydantic takes no options for a dataclass.
    return TypeAdapter(tuple[hint], config=ConfigDict(arbitrary_types_allowed=True))


@cache
def _stored_fields(kind: Any) -> tuple[tuple[str, Any], ...] | None:
    """Return names and defaults (MISSING: none) of the stored fields; None of no dataclass."""
    if not is_dataclass(kind):
        return None
    return tuple((f.name, f.default) for f in fields(kind) if f.metadata.get("stored", True))


_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
