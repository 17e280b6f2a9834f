"""A session of annotating that a test kills: ``python -m tests.document.scripted_session``.

Each line on standard output acknowledges an action: its number, and a hash of all labels
and backgrounds after it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from napari_peftsam.document import (
    Accept,
    AcceptObjects,
    AddAdapter,
    AddPoint,
    AddRun,
    DeleteObjects,
    Document,
    ImportLabels,
    MarkComplete,
    MergeObjects,
    NewObject,
    Paint,
    PaintBackground,
    PlaneKey,
    RemoveImage,
    Run,
    Store,
    StoredAdapter,
    create_project,
    open_project,
)
from napari_peftsam.types import Point, Prediction, Prompts

SHAPE = (520, 600)
"""Of the first image: four tiles, three of them cut off."""


def digest(document: Document) -> str:
    """Return a hash of all labels and backgrounds."""
    found = xxhash.xxh128()
    for image in document.images.values():
        found.update(image.id.encode())
        found.update(image.labels.tobytes())
        found.update(b"" if image.background is None else image.background.tobytes())
    return found.hexdigest()


def work(document: Document, rng: np.random.Generator) -> Iterator[None]:
    """Do one random action after another, without end."""
    document.add_image("cells", np.zeros(SHAPE, np.uint8))
    yield
    document.add_image("stack", np.zeros((3, 40, 50), np.uint16))
    yield
    while True:
        ACTIONS[rng.integers(len(ACTIONS))](document, rng)
        yield


def _plane(document: Document, rng: np.random.Generator) -> PlaneKey:
    images = list(document.images.values())
    image = images[rng.integers(len(images))]
    return PlaneKey(image.id, tuple(int(rng.integers(n)) for n in image.shape[:-2]))


def _corner(document: Document, plane: PlaneKey, rng: np.random.Generator) -> tuple[int, int]:
    height, width = document.image(plane.image).plane_shape
    return int(rng.integers(height - 20)), int(rng.integers(width - 20))


def _labels(document: Document, rng: np.random.Generator, number: int) -> PlaneKey | None:
    plane = _plane(document, rng)
    return plane if len(document.image(plane.image).records) >= number else None


def accept(document: Document, rng: np.random.Generator) -> None:
    plane = _plane(document, rng)
    row, col = _corner(document, plane, rng)
    document.do(AddPoint(plane, Point(row + 5.0, col + 5.0)))
    mask = np.zeros((1, *document.image(plane.image).plane_shape), np.bool_)
    mask[0, row : row + 12, col : col + 15] = rng.random((12, 15)) < 0.8
    current = document.current
    assert current is not None
    prediction = Prediction(mask, np.array([0.9], np.float32), np.zeros((1, 4, 4), np.float32))
    document.set_candidates(prediction, current.revision)
    document.do(Accept(overlap="overwrite"))


def accept_many(document: Document, rng: np.random.Generator) -> None:
    plane = _plane(document, rng)
    objects = tuple(
        NewObject(Prompts(), np.ones((7, 9), np.bool_), 0.8, _corner(document, plane, rng))
        for _ in range(5)
    )
    document.do(AcceptObjects(plane, objects, "overwrite"))


def stroke(document: Document, rng: np.random.Generator) -> None:
    image = document.image(_plane(document, rng).image)
    where = np.unique(rng.integers(0, image.labels.size, 300))
    label = int(rng.integers(0, image.next_label + 1))
    document.do(Paint(image.id, where, label))


def background(document: Document, rng: np.random.Generator) -> None:
    image = document.image(_plane(document, rng).image)
    where = np.unique(rng.integers(0, image.labels.size, 500))
    document.do(PaintBackground(image.id, where, bool(rng.integers(2))))


def complete(document: Document, rng: np.random.Generator) -> None:
    document.do(MarkComplete(_plane(document, rng).image, is_complete=bool(rng.integers(2))))


def delete(document: Document, rng: np.random.Generator) -> None:
    plane = _labels(document, rng, 1)
    if plane is not None:
        document.do(DeleteObjects(plane.image, (max(document.image(plane.image).records),)))


def merge(document: Document, rng: np.random.Generator) -> None:
    plane = _labels(document, rng, 2)
    if plane is not None:
        first, second, *_ = document.image(plane.image).records
        document.do(MergeObjects(plane.image, (first, second)))


def undo(document: Document, rng: np.random.Generator) -> None:
    document.undo()


def redo(document: Document, rng: np.random.Generator) -> None:
    document.redo()


def import_labels(document: Document, rng: np.random.Generator) -> None:
    image = document.image(_plane(document, rng).image)
    document.do(ImportLabels(image.id, np.roll(image.labels, 3, axis=-1)))


def add_and_remove(document: Document, rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, (30, 30), dtype=np.int32)
    name = f"extra {document.store.next_number}"
    image = document.add_image(name, np.zeros((30, 30), np.uint8), labels=labels)
    document.do(RemoveImage(image))


def adapter(document: Document, rng: np.random.Generator) -> None:
    kept = document.store.put_blob(rng.bytes(int(rng.integers(1, 300_000))))
    name = f"v{len(document.adapters) + 1}"
    document.do(AddAdapter(StoredAdapter(name, kept)))
    document.do(AddRun(Run(name, {"steps": 3}, {"losses": [1.0, 0.5]})))


def checkpoint(document: Document, rng: np.random.Generator) -> None:
    document.store.checkpoint()


ACTIONS = (
    accept, accept, accept_many, stroke, stroke, background, complete, delete, merge, undo, undo,
    redo, import_labels, add_and_remove, adapter, checkpoint,
)  # fmt: skip


def main(path: Path, seed: int) -> None:
    """Work on a project until somebody kills the process."""
    store: Store = open_project(path, must_write=True) if path.exists() else create_project(path)
    document = Document(store)
    for _ in work(document, np.random.default_rng(seed)):
        print(store.next_number - 1, digest(document), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
