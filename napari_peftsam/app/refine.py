"""Objects predicted from what others know of them: rough outlines, or a list of centres."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_peftsam.document import (
    AcceptObjects,
    DocumentImage,
    ImageId,
    ImportLabels,
    NewObject,
    ObjectRecord,
    PlaneKey,
)
from napari_peftsam.errors import LabelError
from napari_peftsam.geometry import object_windows
from napari_peftsam.types import Box, LabelArray, Point, Prompts

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace

__all__ = [
    "PlanePredicted",
    "Refined",
    "predict_centres",
    "predict_objects",
    "refine_objects",
    "refined",
]

Index = tuple[int, ...]
Predicting = Generator[Any, None, tuple[NewObject, ...]]
Predictions = dict[Index, dict[int, NewObject]]
"""New masks of objects by plane and label."""


@dataclass(frozen=True)
class Refined:
    """Result of a refinement.

    Attributes
    ----------
    action
        What puts the new masks in place of the old ones.
    objects
        Number of objects with a new mask.
    kept
        Labels for which the model found no pixel; they stay as they are.
    """

    action: ImportLabels
    objects: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class PlanePredicted:
    """The objects of a plane are predicted: the `done`-th of `total`."""

    done: int
    total: int


def predict_objects(
    workspace: Workspace, plane: PlaneKey, prompts: Sequence[Prompts]
) -> Predicting:
    """Predict the best mask of several objects of a plane, embedding it if need be; slow."""
    from napari_peftsam.embeddings import EncodeFailed, PlaneReady

    while True:
        embedding, engine = None, workspace.engine
        for event in workspace.embed(plane):
            yield event
            if isinstance(event, EncodeFailed):
                raise event.error
            embedding = event.embedding if isinstance(event, PlaneReady) else embedding
        if embedding is None:  # another adapter went live meanwhile
            continue
        version = engine.version(embedding)
        found = yield from engine.predict_many_steps(embedding, prompts, adapter=version.decoder)
        if found is not None:
            pairs = zip(prompts, found, strict=True)
            return tuple(NewObject.best_of(each, prediction, version) for each, prediction in pairs)


def predict_centres(
    workspace: Workspace, image: ImageId, centres: Mapping[Index, Sequence[tuple[float, float]]]
) -> Generator[Any, None, list[AcceptObjects]]:
    """Predict an object at each ``(row, col)``; return what accepts those of each plane. Slow."""
    actions = []
    for number, (index, positions) in enumerate(centres.items(), start=1):
        prompts = [Prompts((Point(*position),)) for position in positions]
        plane = PlaneKey(image, index)
        found = yield from predict_objects(workspace, plane, prompts)
        actions.append(AcceptObjects(plane, found))
        yield PlanePredicted(number, len(centres))
    return actions


def refine_objects(
    workspace: Workspace, image: ImageId, labels: Iterable[int] = ()
) -> Generator[Any, None, Predictions]:
    """Predict objects anew from the boxes around them, plane by plane; slow.

    The objects are those of the moment of this call; `refined` puts the new masks in their place.

    Parameters
    ----------
    labels
        The objects to refine; default: all of the image.

    Raises
    ------
    LabelError
        If there is no such object.
    """
    entry = workspace.document.image(image)
    chosen = tuple(labels) or tuple(entry.records)
    if not chosen:
        raise LabelError(f"{entry.name} holds no object: there is nothing to refine")
    entry.check_objects(chosen)
    boxes: dict[Index, dict[int, Prompts]] = {}
    for index in sorted({p.index for label in chosen for p in entry.records[label].planes}):
        windows = object_windows(entry.labels[index])
        boxes[index] = {n: Prompts(box=Box.around(windows[n])) for n in chosen if n in windows}
    return _predicted(workspace, image, boxes)


def _predicted(
    workspace: Workspace, image: ImageId, boxes: Mapping[Index, Mapping[int, Prompts]]
) -> Generator[Any, None, Predictions]:
    found: Predictions = {}
    for number, (index, asked) in enumerate(boxes.items(), start=1):
        plane = PlaneKey(image, index)
        new = yield from predict_objects(workspace, plane, tuple(asked.values()))
        found[index] = dict(zip(asked, new, strict=True))
        yield PlanePredicted(number, len(boxes))
    return found


def refined(image: DocumentImage, predictions: Predictions) -> Refined:
    """Put new masks in place of objects.

    A new mask takes no pixel of other objects, and of two new ones that overlap the one with the
    higher score gets the pixels. Objects that are gone by now are left out.
    """
    labels, records = image.labels.copy(), image.records
    found: dict[int, ObjectRecord] = {}
    for index, made in predictions.items():
        present = {number: each for number, each in made.items() if number in records}
        for number in _replace(labels[index], present):
            new = present[number]
            record = found.get(number) or replace(
                records[number], model=new.model, adapter=new.adapter, score=new.score,
                candidate=0, corrected=False,
            )  # fmt: skip
            found[number] = _prompted(record, index, new.prompts)
    asked = {number for made in predictions.values() for number in made}
    action = ImportLabels(image.id, labels, tuple(found.values()), "refine objects")
    return Refined(action, len(found), tuple(sorted(asked & records.keys() - found.keys())))


def _replace(plane: LabelArray, made: Mapping[int, NewObject]) -> list[int]:
    """Put new masks in place of objects; return the labels of those that get a pixel.

    The others stay as they are, so that no object vanishes.
    """
    before = plane.copy()
    new = sorted((n for n, each in made.items() if each.mask.any()), key=lambda n: _rank(made[n]))
    while True:
        plane[...] = np.where(np.isin(before, new), 0, before)
        left_over = [number for number in new if not _draw(plane, number, made[number])]
        if not left_over:
            return new
        new = [number for number in new if number not in left_over]


def _rank(made: NewObject) -> float:
    return -(made.score or 0.0)


def _draw(plane: LabelArray, number: int, made: NewObject) -> bool:
    """Draw a mask where nothing is, and return whether it has a pixel there."""
    row, col = made.offset or (0, 0)
    part = plane[row : row + made.mask.shape[0], col : col + made.mask.shape[1]]
    free = made.mask & (part == 0)
    part[free] = number
    return bool(free.any())


def _prompted(record: ObjectRecord, index: Index, prompts: Prompts) -> ObjectRecord:
    """Return a record with other prompts in one of its planes."""
    planes = (replace(p, prompts=prompts) if p.index == index else p for p in record.planes)
    return replace(record, planes=tuple(planes))
