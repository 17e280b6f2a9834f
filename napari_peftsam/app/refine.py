"""Objects predicted from what others know of them: rough outlines, or a list of centres."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_peftsam.document import (
    AcceptObjects,
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

__all__ = ["Refined", "predict_centres", "predict_objects", "refine_objects"]

Index = tuple[int, ...]
Predicting = Generator[Any, None, tuple[NewObject, ...]]


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
    for index, positions in centres.items():
        prompts = [Prompts((Point(*position),)) for position in positions]
        plane = PlaneKey(image, index)
        found = yield from predict_objects(workspace, plane, prompts)
        actions.append(AcceptObjects(plane, found))
    return actions


def refine_objects(
    workspace: Workspace, image: ImageId, labels: Iterable[int] = ()
) -> Generator[Any, None, Refined]:
    """Predict objects anew from the boxes around them, plane by plane; slow.

    The objects are those of the moment of this call. A new mask takes no pixel of other objects,
    and of two new ones that overlap the one with the higher score gets the pixels.

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
    records = {label: entry.records[label] for label in chosen}
    return _refine(workspace, image, entry.labels.copy(), records)


def _refine(
    workspace: Workspace, image: ImageId, labels: LabelArray, records: dict[int, ObjectRecord]
) -> Generator[Any, None, Refined]:
    found: dict[int, ObjectRecord] = {}
    for index in sorted({plane.index for record in records.values() for plane in record.planes}):
        plane = labels[index]
        here = [n for n, record in records.items() if index in {p.index for p in record.planes}]
        windows = object_windows(plane)
        prompts = [Prompts(box=Box.around(windows[number])) for number in here]
        new = yield from predict_objects(workspace, PlaneKey(image, index), prompts)
        made = dict(zip(here, new, strict=True))
        for number in _replace(plane, made):
            record = found.get(number) or replace(
                records[number], model=made[number].model, adapter=made[number].adapter,
                score=made[number].score, candidate=0, corrected=False,
            )  # fmt: skip
            found[number] = _prompted(record, index, made[number].prompts)
    kept = tuple(number for number in records if number not in found)
    action = ImportLabels(image, labels, tuple(found.values()), "refine objects")
    return Refined(action, len(found), kept)


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
