"""Tables of the project file, and how older versions of them are brought up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

__all__ = ["APPLICATION_ID", "MIGRATIONS", "VERSION", "create_tables", "migrate"]

APPLICATION_ID = 0x50534D31
"""What SQLite's header says a project is."""
VERSION = 1
"""Version of the tables; `user_version` of the file."""

Migration = Callable[[sqlite3.Connection], None]
MIGRATIONS: Mapping[int, Migration] = {}
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
    """Make an empty database a project."""
    connection.executescript(
        f"BEGIN; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; "
        f"PRAGMA user_version = {VERSION}; COMMIT;"
    )


def migrate(
    connection: sqlite3.Connection,
    migrations: Mapping[int, Migration] = MIGRATIONS,
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
