"""A small project to test with, its pictures, and child processes that work on one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
