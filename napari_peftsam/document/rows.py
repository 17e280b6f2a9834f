"""Rows of the project's tables: what an action writes, and what is read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from napari_peftsam.document.codec import dump
from napari_peftsam.document.image_info import ImageInfo
from napari_peftsam.document.objects import ImageId, ObjectRecord
from napari_peftsam.document.tiles import TileKey

__all__ = ["DONE", "DROPPED", "UNDONE", "LoggedAction", "Rows", "Step", "write_rows"]

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


@dataclass
class Rows:
    """What an action changes in the tables of the present state; None removes a row."""

    images: dict[ImageId, ImageInfo] = field(default_factory=dict)
    objects: dict[tuple[ImageId, str, int], ObjectRecord | None] = field(default_factory=dict)
    tiles: dict[TileKey, bytes | None] = field(default_factory=dict)
    fields: dict[str, object] = field(default_factory=dict)


def write_rows(execute: Any, rows: Rows) -> None:
    """Write rows through a connection's `execute`."""
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
