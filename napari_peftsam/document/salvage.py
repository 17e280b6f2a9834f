"""Readable rows of a damaged project file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from napari_peftsam.document.actions import AddImage, decode_action
from napari_peftsam.document.changes import DOCUMENT_FIELDS
from napari_peftsam.document.objects import ImageId, ObjectRecord
from napari_peftsam.document.records import OBJECTS, ImageInfo
from napari_peftsam.document.tables import (
    LoggedAction,
    TileKey,
    create_tables,
    decode,
    has_own_schema,
)
from napari_peftsam.errors import PeftSamError

__all__ = ["Salvage", "salvage"]


_PAGE = 4096  # bytes; SQLite's default, which all projects have
# Rows to look for behind a damaged end of a table, at most and for each page of the file.
_GAP, _ROWS_PER_PAGE = 50_000, 100
_DAMAGE = (sqlite3.Error, UnicodeDecodeError)  # the latter in the text of the former
_UNREADABLE = (sqlite3.Error, PeftSamError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass
class Salvage:
    """The readable rows of a project: the log by number, and the other tables by their keys.

    `added` holds the images as they were when they were added, `incomplete` the tables with
    unreadable rows, `lost_blobs` the content hashes of damaged blobs.
    """

    actions: dict[int, LoggedAction] = field(default_factory=dict)
    images: dict[ImageId, ImageInfo] = field(default_factory=dict)
    objects: dict[tuple[ImageId, int], ObjectRecord] = field(default_factory=dict)
    tiles: dict[TileKey, bytes] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    added: dict[ImageId, ImageInfo] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    lost_blobs: tuple[str, ...] = ()


def salvage(file: Path) -> Salvage:
    """Read the readable rows of a project; the file, a working copy, may be modified."""
    if not _has_schema(file):
        _replace_first_page(file)
    found = Salvage()
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA trusted_schema=OFF")
        reader = _Reader(connection, found.incomplete)
        for row in reader.rows("actions", "number, time, kind, data, payload"):
            try:
                _take_action(found, LoggedAction(*row))
            except _UNREADABLE:
                found.incomplete.add("actions")
        for row in reader.rows("images", "position, id, info"):
            try:
                found.images[ImageId(row[1])] = decode(ImageInfo, row[2])
            except _UNREADABLE:
                found.incomplete.add("images")
        for row in reader.rows("tiles", "image, label_set, plane, row, col, data"):
            if isinstance(row[-1], bytes):
                found.tiles[TileKey(*row[:-1])] = row[-1]
        _take_objects(reader, found)
        for name, hint in DOCUMENT_FIELDS.items():
            with suppress(*_UNREADABLE):
                for (text,) in reader.one("fields", "value", "name = ?", (name,)):
                    found.fields[name] = decode(hint, text)
        _take_blobs(reader, found)
    return found


def _take_action(found: Salvage, logged: LoggedAction) -> None:
    action = decode_action(logged.kind, logged.data, logged.payload)
    found.actions[logged.number] = logged
    if isinstance(action, AddImage):
        found.added[action.image] = action.info


def _take_objects(reader: _Reader, found: Salvage) -> None:
    rows = reader.all("SELECT image, label, record FROM objects WHERE label_set = ?", (OBJECTS,))
    if rows is None:
        reader.incomplete.add("objects")
        rows = []
        for image, info in (found.added | found.images).items():
            for label in range(1, max(info.next_label, len(found.actions)) + 1):
                where = "image = ? AND label_set = ? AND label = ?"
                values = (image, OBJECTS, label)
                rows += reader.one("objects", "image, label, record", where, values)
    for image, label, record in rows:
        try:
            found.objects[image, label] = decode(ObjectRecord, record)
        except _UNREADABLE:
            reader.incomplete.add("objects")


def _take_blobs(reader: _Reader, found: Salvage) -> None:
    parts: dict[str, dict[int, bytes]] = {}
    for digest, part, data in reader.rows("blobs", "digest, part, data"):
        if isinstance(data, bytes):
            parts.setdefault(digest, {})[part] = data
    for digest, by_part in parts.items():
        data = b"".join(by_part[part] for part in sorted(by_part))
        if xxhash.xxh128_hexdigest(data) == digest:
            found.blobs[digest] = data
    found.lost_blobs = tuple(digest for digest in parts if digest not in found.blobs)


class _Reader:
    """Reader of tables around damaged pages; records the incomplete ones."""

    def __init__(self, connection: sqlite3.Connection, incomplete: set[str]) -> None:
        self._connection = connection
        self.incomplete = incomplete

    def all(self, sql: str, values: Iterable[Any] = ()) -> list[Any] | None:
        """Return all rows, None if some cannot be read."""
        try:
            return self._connection.execute(sql, tuple(values)).fetchall()
        except _DAMAGE:
            return None

    def one(self, table: str, columns: str, where: str, values: Iterable[Any]) -> list[Any]:
        """Return the rows that fit, usually one; none if they cannot be read."""
        rows = self.all(f"SELECT {columns} FROM {table} WHERE {where}", values)
        if rows is None:
            self.incomplete.add(table)
        return rows or []

    def rows(self, table: str, columns: str) -> Iterator[Any]:
        """Yield the rows of a table with row ids: all of them or, if damaged, the readable."""
        # An index may be damaged where the table is not.
        select = f"SELECT rowid, {columns} FROM {table} NOT INDEXED"
        whole = self.all(f"{select} ORDER BY rowid")
        if whole is not None:
            yield from (row[1:] for row in whole)
            return
        self.incomplete.add(table)
        front = self._until_damage(f"{select} ORDER BY rowid")
        back = self._until_damage(f"{select} ORDER BY rowid DESC")
        first = front[-1][0] + 1 if front else 1
        ((pages,),) = self.all("PRAGMA page_count") or ((0,),)
        last = back[-1][0] if back else first + min(_GAP, pages * _ROWS_PER_PAGE)
        yield from (row[1:] for row in front)
        for number in range(first, last):
            yield from (row[1:] for row in self.all(f"{select} WHERE rowid = ?", (number,)) or ())
        yield from (row[1:] for row in reversed(back) if row[0] >= first)

    def _until_damage(self, sql: str) -> list[Any]:
        rows = []
        with suppress(*_DAMAGE):
            for row in self._connection.execute(sql):
                rows.append(row)  # noqa: PERF402  # those before the error count
        return rows


def _has_schema(file: Path) -> bool:
    with closing(sqlite3.connect(file)) as connection:
        try:
            (number,) = connection.execute(
                "SELECT count(*) FROM sqlite_master WHERE name IN ('actions', 'tiles', 'images')"
            ).fetchone()
            is_whole = number == 3 and has_own_schema(connection)
        except _DAMAGE:
            return False
    return is_whole


def _replace_first_page(file: Path) -> None:
    """Replace the first page, which locates the tables, by that of a new project."""
    blank = sqlite3.connect(":memory:")
    with closing(blank):
        create_tables(blank)
        page = bytearray(blank.serialize()[:_PAGE])
    with file.open("r+b") as opened:
        pages = opened.seek(0, 2) // _PAGE
        page[28:32] = pages.to_bytes(4, "big")
        opened.seek(0)
        opened.write(page)
