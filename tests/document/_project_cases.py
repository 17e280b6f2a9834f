"""A small project to test with, its pictures, and child processes that work on one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from napari_peftsam.document import (
    AcceptObjects,
    Document,
    NewObject,
    Paint,
    PaintBackground,
    PlaneKey,
    Store,
    create_project,
)
from napari_peftsam.document.actions import decode_action
from napari_peftsam.document.changes import decode_changes
from napari_peftsam.errors import PeftSamError
from napari_peftsam.types import Box, Prompts

ROOT = Path(__file__).parents[2]
SHAPE = (600, 700)


def square(row: int, col: int, side: int = 20) -> NewObject:
    box = Box(row, col, row + side, col + side)
    return NewObject(Prompts(box=box), np.ones((side, side), np.bool_), 0.9, (row, col))


def annotate(store: Store, objects: int = 12) -> Document:
    """One image with objects in all of its four tiles, a stroke, background, and an undo."""
    document = Document(store)
    image = document.add_image("cells", np.zeros(SHAPE, np.uint8))
    rng = np.random.default_rng(3)
    for _ in range(objects):
        row, col = (int(rng.integers(n - 20)) for n in SHAPE)
        document.do(AcceptObjects(PlaneKey(image), (square(row, col),), "overwrite"))
    document.do(Paint(image, np.arange(300, 360), 2))
    document.do(PaintBackground(image, np.arange(5000, 5100)))
    document.do(Paint(image, np.arange(100), 1))
    document.undo()
    return document


def finished_project(path: Path, objects: int = 12) -> Path:
    """Create, annotate and close a project."""
    store = create_project(path)
    annotate(store, objects)
    store.close()
    return path


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run Python code that prints a line when it is ready, and kill it in the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


HOLD = """
import sys
from napari_peftsam.document import Document, open_project
from tests.document._project_cases import annotate
store = open_project(sys.argv[1], must_write=True)
document = annotate(store) if len(sys.argv) > 2 else Document(store)
print("ready", flush=True)
sys.stdin.read()
"""
"""Keep a project open; with a second argument annotate it first."""


_STEPS = "SELECT changes, pixels FROM actions WHERE state IN ('done', 'undone')"


def check_project(store: Store) -> list[str]:
    """Return the damaged parts of a project, none if it is whole."""
    found = list[str]()

    def check(read: Callable[[], object]) -> None:
        try:
            read()
        except (PeftSamError, sqlite3.Error) as error:
            found.append(str(error))

    with closing(sqlite3.connect(":memory:")) as copy:
        check(lambda: store.copy_to(copy))

        def integrity() -> None:
            found.extend(text for (text,) in copy.execute("PRAGMA integrity_check") if text != "ok")

        def steps() -> None:
            for changes in copy.execute(_STEPS):
                decode_changes(*changes)

        check(integrity)
        check(steps)
    check(lambda: [check(partial(store.blob, digest)) for digest in blobs_of(store)])
    check(lambda: [decode_action(*logged[2:]) for logged in store.actions()])
    check(lambda: [check(image.read) for image in Document(store).images.values()])
    return found


def blobs_of(store: Store) -> list[str]:
    """Return the content hashes of all stored data."""
    with closing(sqlite3.connect(":memory:")) as copy:
        store.copy_to(copy)
        return [digest for (digest,) in copy.execute("SELECT DISTINCT digest FROM blobs")]
