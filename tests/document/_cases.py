"""A session with a clock that counts, a 2D image and a stack, and what tests ask of it."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from napari_peftsam.document import Document, PlaneKey
from napari_peftsam.types import BoolArray, Prediction

CELLS = PlaneKey("cells")
STACK = PlaneKey("stack", (1,))
SHAPE = (24, 32)


def rectangle(row0: int, col0: int, row1: int, col1: int) -> BoolArray:
    mask = np.zeros(SHAPE, np.bool_)
    mask[row0:row1, col0:col1] = True
    return mask


def prediction(*masks: BoolArray) -> Prediction:
    scores = np.linspace(0.9, 0.5, len(masks), dtype=np.float32)
    logits = np.stack([np.full((4, 4), s, np.float32) for s in scores])
    return Prediction(np.stack(masks), scores, logits)


def answer(session: Document, *masks: BoolArray) -> None:
    assert session.current is not None
    assert session.set_candidates(prediction(*masks), session.current.revision)


def snapshot(session: Document) -> dict[str, Any]:
    """Everything that undo must restore, comparable with ``==``."""
    current = session.current
    shown = None
    if current is not None:
        found = current.candidates
        shown = (
            current.plane,
            current.prompts,
            current.revision,
            current.choice,
            None if current.previous is None else current.previous.logits.tobytes(),
            found and (found.masks.tobytes(), found.scores.tobytes(), found.logits.tobytes()),
        )
    return {
        "current": shown,
        "pending": session.pending,
        "images": {
            name: (image.labels.tobytes(), session.records(name), image.next_label)
            for name, image in session.images.items()
        },
    }


def check_invariants(session: Document) -> None:
    """A label has pixels exactly if it has a record, and its region holds them all."""
    for image in session.images.values():
        present = np.unique(image.labels[image.labels > 0]).tolist()
        assert present == sorted(image.records)
        assert image.next_label > max(present, default=0)
        for label in present:
            assert image.area(label) == np.count_nonzero(image.labels == label)
            assert image.records[label].label == label
            planes = np.unique(np.argwhere(image.labels == label)[:, :-2], axis=0)
            assert {p.index for p in image.records[label].planes} == {*map(tuple, planes.tolist())}


def make_session() -> Document:
    ticks = count()
    session = Document(clock=lambda: f"2025-01-01T00:00:{next(ticks):02d}+00:00")
    session.add_image("cells", np.zeros(SHAPE, np.uint8))
    session.add_image("stack", np.zeros((3, *SHAPE), np.uint16))
    return session
