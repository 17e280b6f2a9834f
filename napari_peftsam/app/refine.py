"""Objects predicted from what others know of them: rough outlines, or a list of centres."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_peftsam.app.clean import clean_prediction
from napari_peftsam.document import (
    OBJECTS,
    DocumentImage,
    ImageId,
    NewObject,
    ObjectRecord,
    Paint,
    PlaneKey,
)
from napari_peftsam.errors import LabelError, count_text
from napari_peftsam.types import LabelArray, Point, Prompts, Window

if TYPE_CHECKING:
    from napari_peftsam.app.workspace import Workspace
    from napari_peftsam.embeddings import PlaneEmbedding
    from napari_peftsam.segmentation.engine import Engine

Index = tuple[int, ...]
Predicting = Generator[Any, None, tuple[NewObject, ...]]


@dataclass(frozen=True, eq=False)
class Predictions:
    """New masks of objects by plane and label, and the records of the objects before."""

    before: Mapping[int, ObjectRecord]
    planes: Mapping[Index, Mapping[int, NewObject]]


@dataclass(frozen=True)
class Drawn:
    """Masks that were put into an image.

    Attributes
    ----------
    actions
        What draws them, one for each label set.
    objects
        Number of objects with a new mask.
    left
        Number of masks without a pixel; objects that had one before stay as they are.
    changed
        Number of objects that somebody changed meanwhile; they stay as they are.
    """

    actions: tuple[Paint, ...]
    objects: int
    left: int = 0
    changed: int = 0


@dataclass(frozen=True)
class PlanePredicted:
    """The objects of a plane are predicted: the `done`-th of `total`."""

    done: int
    total: int


def predict_objects(
    workspace: Workspace, plane: PlaneKey, prompts: Sequence[Prompts]
) -> Predicting:
    """Predict the best mask of several objects of a plane, embedding it if need be; slow."""
    while True:
        engine, embedding = yield from embedded(workspace, plane)
        found = yield from predict_best(engine, embedding, prompts)
        if found is not None:  # else another adapter is live by now
            return found


def embedded(
    workspace: Workspace, plane: PlaneKey
) -> Generator[Any, None, tuple[Engine, PlaneEmbedding]]:
    """Embed a plane if need be, and return the engine and its embedding; slow."""
    from napari_peftsam.embeddings import EncodeFailed, PlaneReady

    while True:
        embedding, engine = None, workspace.engine
        for event in workspace.embed(plane):
            yield event
            if isinstance(event, EncodeFailed):
                raise event.error
            embedding = event.embedding if isinstance(event, PlaneReady) else embedding
        if embedding is not None:  # else another adapter went live meanwhile
            return engine, embedding


def predict_best(
    engine: Engine,
    embedding: PlaneEmbedding,
    prompts: Sequence[Prompts],
    *,
    clean: bool = True,
    smooth: int = 0,
) -> Generator[Any, None, tuple[NewObject, ...] | None]:
    """Predict the best mask of several objects; None once another adapter is live. Slow."""
    version = engine.version(embedding)
    found = yield from engine.predict_many_steps(embedding, prompts, adapter=version.decoder)
    if found is None:
        return None
    pairs = zip(prompts, found, strict=True)
    return tuple(
        NewObject.best_of(each, clean_prediction(made, each, smooth) if clean else made, version)
        for each, made in pairs
    )


# --- centres ------------------------------------------------------------------------


def predict_centres(
    workspace: Workspace, image: ImageId, centres: Mapping[Index, Sequence[tuple[float, float]]]
) -> Generator[Any, None, dict[Index, tuple[NewObject, ...]]]:
    """Predict an object at each ``(row, col)`` of each plane; slow."""
    found = {}
    for number, (index, positions) in enumerate(centres.items(), start=1):
        prompts = [Prompts((Point(*position),)) for position in positions]
        found[index] = yield from predict_objects(workspace, PlaneKey(image, index), prompts)
        yield PlanePredicted(number, len(centres))
    return found


def added(
    image: DocumentImage, predicted: Mapping[Index, Sequence[NewObject]], label_set: str = OBJECTS
) -> Drawn:
    """Make masks objects of a label set, whose own objects keep their pixels."""
    strokes, records, left = [], list[ObjectRecord](), 0
    for index, objects in sorted(predicted.items()):
        window = reduce(or_, map(_window, objects))
        plane = image.plane_labels(PlaneKey(image.id, index), label_set)[window.slices]
        after = plane.copy()
        for made in objects:
            number = image.next_label + len(records)
            if _draw(after, number, made, window):
                records.append(made.record(number, index, ""))
            else:
                left += 1
        strokes.append(_stroke(image, index, window, plane, after))
    step = f"accept {count_text(len(records), 'object')}"
    return Drawn((_paint(image, strokes, records, step, label_set),), len(records), left)


# --- rough outlines -----------------------------------------------------------------


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
    before = {label: entry.records[label] for label in chosen}
    boxes: dict[Index, dict[int, Prompts]] = {}
    for label, record in before.items():
        for index in (plane.index for plane in record.planes):
            box = entry.box(PlaneKey(image, index), label)
            boxes.setdefault(index, {})[label] = Prompts(box=box)
    return _predicted(workspace, image, before, boxes)


def _predicted(
    workspace: Workspace,
    image: ImageId,
    before: Mapping[int, ObjectRecord],
    boxes: Mapping[Index, Mapping[int, Prompts]],
) -> Generator[Any, None, Predictions]:
    found = {}
    for number, (index, asked) in enumerate(sorted(boxes.items()), start=1):
        plane = PlaneKey(image, index)
        new = yield from predict_objects(workspace, plane, tuple(asked.values()))
        found[index] = dict(zip(asked, new, strict=True))
        yield PlanePredicted(number, len(boxes))
    return Predictions(before, found)


def refined(image: DocumentImage, predictions: Predictions) -> Drawn:
    """Put new masks in place of objects.

    A new mask takes no pixel of other objects, and of two new ones that overlap the one with the
    higher score gets the pixels. Objects that were changed meanwhile stay as they are.
    """
    known, before = image.records, predictions.before
    same = {number for number, record in before.items() if known.get(number) == record}
    actions, number = list[Paint](), 0
    for label_set in image.label_sets:
        its = {each for each in same if image.set_of(each) == label_set}
        found, strokes = _refined(image, predictions, its, label_set)
        if found:
            drawn = _paint(image, strokes, found.values(), "refine objects", label_set)
            actions.append(drawn)
            number += len(found)
    changed = sum(each in known for each in before.keys() - same)
    return Drawn(tuple(actions), number, len(same) - number, changed)


def _refined(
    image: DocumentImage, predictions: Predictions, labels: set[int], label_set: str
) -> tuple[dict[int, ObjectRecord], list[_Stroke]]:
    """Return the records and pixels of objects of one label set."""
    before, strokes, found = predictions.before, [], dict[int, ObjectRecord]()
    for index, every in sorted(predictions.planes.items()):
        made = {number: each for number, each in every.items() if number in labels}
        if not made:
            continue
        old = (Window.from_slices(*image.region(number)[-2:]) for number in made)
        window = reduce(or_, (*old, *map(_window, made.values())))
        plane = image.plane_labels(PlaneKey(image.id, index), label_set)[window.slices]
        after = plane.copy()
        for number in _replace(after, made, window):
            new = made[number]
            record = found.get(number) or replace(
                before[number], model=new.model, adapter=new.adapter, score=new.score,
                candidate=0, corrected=False,
            )  # fmt: skip
            found[number] = _prompted(record, index, new.prompts)
        strokes.append(_stroke(image, index, window, plane, after))
    return found, strokes


def _replace(after: LabelArray, made: Mapping[int, NewObject], window: Window) -> list[int]:
    """Put new masks in place of objects; return the labels of those that get a pixel.

    The others stay as they are, so that no object vanishes.
    """
    before = after.copy()
    new = [n for n, each in made.items() if each.mask.any()]
    new.sort(key=lambda n: made[n].score or 0.0, reverse=True)
    while True:
        after[...] = np.where(np.isin(before, new), 0, before)
        left_over = [number for number in new if not _draw(after, number, made[number], window)]
        if not left_over:
            return new
        new = [number for number in new if number not in left_over]


def _prompted(record: ObjectRecord, index: Index, prompts: Prompts) -> ObjectRecord:
    """Return a record with other prompts in one of its planes."""
    planes = (replace(p, prompts=prompts) if p.index == index else p for p in record.planes)
    return replace(record, planes=tuple(planes))


# --- drawing ------------------------------------------------------------------------

_Stroke = tuple[LabelArray, LabelArray]  # flat positions, ascending, and their labels


def _window(made: NewObject) -> Window:
    return Window(*(made.offset or (0, 0)), *made.mask.shape)


def _draw(labels: LabelArray, number: int, made: NewObject, window: Window) -> bool:
    """Draw a mask where nothing is in a window, and return whether it has a pixel there."""
    part = labels[_window(made).seen_from(window).slices]
    free = made.mask & (part == 0)
    part[free] = number
    return bool(free.any())


def _stroke(
    image: DocumentImage, index: Index, window: Window, before: LabelArray, after: LabelArray
) -> _Stroke:
    changed, plane = before != after, PlaneKey(image.id, index)
    return image.positions(plane, changed, (window.row, window.col)), after[changed]


def _paint(
    image: DocumentImage,
    strokes: Sequence[_Stroke],
    records: Iterable[ObjectRecord],
    step: str,
    label_set: str,
) -> Paint:
    where = np.concatenate([np.zeros(0, np.int64), *(where for where, _ in strokes)])
    new = np.concatenate([np.zeros(0, np.int64), *(new for _, new in strokes)])
    return Paint(image.id, where, new, records=tuple(records), step=step, label_set=label_set)
