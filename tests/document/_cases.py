"""A document with a clock that counts, a 2D image and a stack, and what tests ask of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import numpy as np

from napari_peftsam.document import (
    Accept,
    AcceptObjects,
    AddPoint,
    Document,
    ImageId,
    ModelVersion,
    NewObject,
    Overlap,
    Paint,
    PlaneKey,
    Store,
)
from napari_peftsam.document.records import PROPOSALS
from napari_peftsam.types import BoolArray, Point, Prediction, Prompts

IMAGE, VOLUME = ImageId("cells"), ImageId("stack")
CELLS = PlaneKey(IMAGE)
STACK = PlaneKey(VOLUME, (1,))
TINY = ModelVersion("tiny", "v1")
SHAPE = (24, 32)


def rectangle(row0: int, col0: int, row1: int, col1: int) -> BoolArray:
    mask = np.zeros(SHAPE, np.bool_)
    mask[row0:row1, col0:col1] = True
    return mask


def prediction(*masks: BoolArray) -> Prediction:
    scores = np.linspace(0.9, 0.5, len(masks), dtype=np.float32)
    logits = np.stack([np.full((4, 4), s, np.float32) for s in scores])
    return Prediction(np.stack(masks), scores, logits)


def answer(document: Document, *masks: BoolArray, made_by: ModelVersion = TINY) -> None:
    assert document.current is not None
    assert document.set_candidates(prediction(*masks), document.current.revision, made_by)


def accept(document: Document, *masks: BoolArray, plane: PlaneKey = CELLS) -> int:
    """Click in a plane, get candidates, and accept the first."""
    document.do(AddPoint(plane, Point(5, 5)))
    answer(document, *masks)
    label: int = document.do(Accept())
    return label


def new_objects(
    *objects: tuple[Prompts, BoolArray, float | None],
    plane: PlaneKey = CELLS,
    model: str = "",
    overlap: Overlap = "keep",
) -> AcceptObjects:
    """Return the action that accepts objects of prompts, mask and score."""
    made = (NewObject(p, mask, score, model=model) for p, mask, score in objects)
    return AcceptObjects(plane, tuple(made), overlap)


SETS = ("", "class nucleus", "class cell")
"""Label sets in which tests make objects."""


def painted(
    document: Document, image: ImageId, inside: BoolArray, label: int, label_set: str = ""
) -> Paint:
    """Paint into the shared labels, as a viewer does, and return the action that says so."""
    labels = document.images[image].array(label_set)
    where = np.flatnonzero(inside & (labels != label))
    old = np.take(labels, where)
    labels[np.unravel_index(where, labels.shape)] = label
    return Paint(image, where, label, old, label_set=label_set)


def snapshot(document: Document) -> dict[str, Any]:
    """Everything that undo must restore, comparable with ``==``."""
    current = document.current
    shown = None
    if current is not None:
        found = current.candidates
        shown = (
            current.plane,
            current.prompts,
            current.revision,
            current.choice,
            None if current.mask_prompt is None else current.mask_prompt.logits.tobytes(),
            found and (found.masks.tobytes(), found.scores.tobytes(), found.logits.tobytes()),
        )
    return {
        "current": shown,
        "pending": document.pending,
        "images": {key: image_state(document, key) for key in document.images},
        "models": (document.adapters, document.live, document.runs),
    }


def image_state(document: Document, key: ImageId) -> tuple[Any, ...]:
    """Everything about an image, comparable with ``==``."""
    image = document.images[key]
    strokes = image.background
    return (
        image.info,
        *(image.array(each).tobytes() for each in SETS),
        document.records(key),
        None if strokes is None or not strokes.any() else strokes.tobytes(),
    )


def check_invariants(document: Document) -> None:
    """A label has pixels in one set exactly if its record says so; its region holds them all."""
    for image in document.images.values():
        present = {int(n): each for each in SETS for n in np.unique(image.array(each)) if n}
        recorded = {n: record.label_set for n, record in image.records.items()}
        assert present == recorded, f"pixels {present}, records {recorded}"
        assert image.next_label > max(present, default=0)
        for label, label_set in present.items():
            labels = image.array(label_set)
            where = np.flatnonzero(labels == label)
            assert image.area(label) == len(where)
            np.testing.assert_array_equal(image.where(label), where)
            assert image.records[label].label == label
            planes = np.unique(np.argwhere(labels == label)[:, :-2], axis=0)
            assert {p.index for p in image.records[label].planes} == {*map(tuple, planes.tolist())}
        proposed = {int(n) for n in np.unique(image.array(PROPOSALS))} - {0}
        assert proposed == {n for n, each in image.proposals.items() if each.is_open}
        for number in proposed:
            mask, _ = image.proposal_mask(number)
            assert np.count_nonzero(mask) == image.proposal_area(number)
            assert np.count_nonzero(image.array(PROPOSALS) == number) == np.count_nonzero(mask)


def ticking_clock() -> Callable[[], str]:
    """Return a clock that is a second later whenever it is asked."""
    ticks, start = count(), datetime(2025, 1, 1, tzinfo=UTC)

    def clock() -> str:
        return (start + timedelta(seconds=next(ticks))).isoformat()

    return clock


def make_document(store: Store | None = None, clock: Callable[[], str] | None = None) -> Document:
    document = Document(store, clock or ticking_clock())
    document.add_image("cells", np.zeros(SHAPE, np.uint8))
    document.add_image("stack", np.zeros((3, *SHAPE), np.uint16))
    return document
