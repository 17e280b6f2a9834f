"""How fast the document saves: strokes, accepts and undo, opening a project, its size.

Run it with ``make bench-document``. Every figure is of a project file on the disk of
``--folder`` and includes saving; a disk that flushes slowly shows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from napari_peftsam.document import (
    Accept,
    AcceptObjects,
    AddPoint,
    Document,
    ImageId,
    ModelVersion,
    NewObject,
    PaintAtom,
    PlaneKey,
    create_project,
    open_project,
    paint,
)
from napari_peftsam.types import Point, Prediction, Prompts

SIDE = 2048
IMAGE = ImageId("image")
PLANE = PlaneKey(IMAGE)
ROUNDS = 60
"""Accepts and strokes of which the median counts."""
OPENING = "open 16 images, 10,000 objects"
GOALS = {
    "accept": 10.0,
    "brush stroke": 10.0,
    "undo": 20.0,
    OPENING: 2000.0,
}
"""The most milliseconds that are allowed."""
MEGABYTES = 20.0
"""The most MB that 10,000 actions may take."""


def disc(radius: int) -> np.ndarray:
    """Return a mask ``(2 * radius + 1,) * 2``."""
    rows, cols = np.indices((2 * radius + 1, 2 * radius + 1)) - radius
    mask: np.ndarray = rows**2 + cols**2 <= radius**2
    return mask


def places(number: int, side: int = SIDE) -> Iterator[tuple[int, int]]:
    """Yield the corners of cells on a grid."""
    step = int(side / np.ceil(np.sqrt(number)))
    for row in range(0, side - step + 1, step):
        yield from ((row, col) for col in range(0, side - step + 1, step))


def objects(number: int, radius: int = 20) -> AcceptObjects:
    """Return the action that makes discs on a grid."""
    made = tuple(
        NewObject(Prompts((Point(row + radius, col + radius),)), disc(radius), 0.9, (row, col))
        for row, col in islice(places(number), number)
    )
    return AcceptObjects(PLANE, made)


def prepared(path: Path, number: int) -> Document:
    """Return a document in a project file, with an image and objects in it."""
    document = Document(create_project(path))
    document.add_image("image", np.zeros((SIDE, SIDE), np.uint8))
    document.do(objects(number))
    return document


class Timed(NamedTuple):
    """Milliseconds that passed, and those of them in which this process computed."""

    passed: float
    computed: float


def timed(call: Callable[[], object]) -> Timed:
    """Time a call."""
    passed, computed = time.perf_counter(), time.thread_time()
    call()
    return Timed((time.perf_counter() - passed) * 1000, (time.thread_time() - computed) * 1000)


def accept(document: Document, row: int, col: int) -> Timed:
    """Click, get candidates, and time the accept."""
    mask = disc(25)
    document.do(AddPoint(PLANE, Point(row + 25, col + 25)))
    assert document.current is not None
    found = Prediction(
        np.stack([mask] * 3), np.array([0.9, 0.8, 0.7], np.float32),
        np.zeros((3, 64, 64), np.float32), (row, col), part_of=(SIDE, SIDE),
    )  # fmt: skip
    document.set_candidates(found, document.current.revision, ModelVersion("builtin", "v1"))
    return timed(lambda: document.do(Accept("overwrite")))


def stroke(document: Document, row: int, col: int, label: int) -> Timed:
    """Paint 20 dabs into the labels as napari does, and time saving them as one stroke."""
    image, atoms = document.images[IMAGE], []
    dab = np.nonzero(disc(10))
    for step in range(20):
        where = dab[0] + row, dab[1] + col + 2 * step
        atoms.append(PaintAtom(where, image.labels[where].copy(), label))
        image.labels[where] = label
    action = paint(image, atoms)
    assert action is not None
    return timed(lambda: document.do(action))


def measure_steps(folder: Path) -> dict[str, Timed]:
    """Time accepts, strokes and undo among 1,000 objects."""
    document = prepared(folder / "steps.peftsam", 1000)
    rng = np.random.default_rng(0)
    spots = rng.integers(0, SIDE - 64, (3, ROUNDS, 2)).tolist()
    figures = {
        "accept": [accept(document, *spot) for spot in spots[0]],
        "brush stroke": [stroke(document, *spot, 7 + n) for n, spot in enumerate(spots[1])],
    }
    figures["undo"] = [timed(document.undo) for _ in range(2 * ROUNDS)]
    document.store.close()
    return {
        name: Timed(*map(statistics.median, zip(*times, strict=True)))
        for name, times in figures.items()
    }


def measure_opening(folder: Path) -> Timed:
    """Time opening until the first image can be annotated."""
    path = folder / "large.peftsam"
    document = Document(create_project(path))
    for number in range(16):
        document.add_image(f"image {number}", np.zeros((SIDE, SIDE), np.uint8))
    for image in document.images:
        document.do(AcceptObjects(PlaneKey(image), objects(625).objects))
    assert sum(len(document.records(image)) for image in document.images) == 10_000
    document.store.close()
    opened: list[Document] = []

    def open_first() -> None:
        document = Document(open_project(path))
        first = next(iter(document.images))
        assert document.image(first).labels.any()
        assert len(document.records(first)) == 625
        document.do(AddPoint(PlaneKey(first), Point(5, 5)))
        opened.append(document)

    time_taken = timed(open_first)
    opened[0].store.close()
    return time_taken


def measure_size(folder: Path, actions: int) -> float:
    """Return the MB of a project after many actions, as an annotator does them."""
    path = folder / "long.peftsam"
    document = prepared(path, 1)
    spots = list(places(2000))
    number = document.store.next_number
    step = 0
    while document.store.next_number < number + actions:
        row, col = spots[step % len(spots)]
        accept(document, min(row, SIDE - 52), min(col, SIDE - 52))
        if step % 4 == 0:
            stroke(document, min(row, SIDE - 64), min(col, SIDE - 64), 1 + step)
        step += 1
    document.store.close()
    return path.stat().st_size / 1e6


def main() -> int:
    """Print every figure with its goal; return 1 if one is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actions", type=int, default=10_000, help="for the size")
    parser.add_argument("--folder", help="where the projects are made (default: temporary files)")
    parser.add_argument("--only", choices=["steps", "opening", "size"], help="one part")
    options = parser.parse_args()
    times: dict[str, Timed] = {}
    size: float | None = None
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.only in (None, "steps"):
            times |= measure_steps(folder)
        if options.only in (None, "opening"):
            times[OPENING] = measure_opening(folder)
        if options.only in (None, "size"):
            size = measure_size(folder, options.actions)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"load {load} on {os.cpu_count()} cores")
    for what, (passed, computed) in times.items():
        print(f"{what:32}{passed:8.1f} ms, goal {GOALS[what]:g} (computing {computed:.1f} ms)")
    if size is not None:
        print(f"{options.actions} actions{size:26.1f} MB, goal {MEGABYTES:g} for 10,000")
    missed = [what for what, figure in times.items() if figure.passed > GOALS[what]]
    if size is not None and size > MEGABYTES:
        missed.append("size")
    if missed:
        print(f"missed: {', '.join(missed)}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
