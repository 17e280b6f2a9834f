"""Changes made by the actions on pixels, and those of objects that follow from any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from napari_peftsam.document import actions as act
from napari_peftsam.document.changes import (
    Change,
    FieldChange,
    LabelChange,
    State,
    set_field,
    set_records,
)
from napari_peftsam.document.derive import Derived, check_name, derive
from napari_peftsam.document.images import DocumentImage, check_labels
from napari_peftsam.document.objects import IMPORTED, MANUAL, ObjectRecord, PlaneKey
from napari_peftsam.document.records import BACKGROUND, OBJECTS, class_of
from napari_peftsam.document.regions import Integers
from napari_peftsam.document.strokes import check_painted, outside_error
from napari_peftsam.errors import LabelError
from napari_peftsam.types import LabelArray

__all__: list[str] = []

Update = Callable[[ObjectRecord], ObjectRecord]
Create = Callable[[int], ObjectRecord]


@derive.register
def _paint(action: act.Paint, state: State) -> Derived:
    image = state.image(action.image)
    where = _checked_positions(image, action.where)
    new = np.broadcast_to(np.asarray(action.new), where.shape)
    label_set, old = action.label_set, action.old
    old = np.take(image.array(label_set), where) if old is None else old
    old = np.broadcast_to(np.asarray(old), where.shape)
    check_painted(old, new)
    changed = old != new
    if not changed.any():
        return Derived()
    image.check_label_range(int(new.max()))
    given = own_records(image, action.records)

    def made(label: int) -> ObjectRecord:
        predicted = given.get(label)
        if predicted is None:
            return replace(_made(state, label, MANUAL), category=class_of(label_set))
        return replace(predicted, created=predicted.created or state.time, modified=state.time)

    def touched(record: ObjectRecord) -> ObjectRecord:
        if record.label in given:
            return made(record.label)
        return replace(record, corrected=True, modified=state.time)

    pixels = where[changed], old[changed], new[changed]
    changes = pixel_changes(state, image, pixels, touched, made, label_set)
    return Derived(changes, action.step, image.id)


@derive.register
def _paint_background(action: act.PaintBackground, state: State) -> Derived:
    image, new = state.image(action.image), int(action.is_background)
    where = _checked_positions(image, action.where)
    old = np.zeros(len(where), np.uint8)
    if image.background is not None:
        old = np.take(image.background, where)
    changed = old != new
    if not changed.any():
        return Derived()
    change = LabelChange.of(image.id, where[changed], old[changed], new, BACKGROUND)
    return Derived((change,), "paint background", image.id)


def _checked_positions(image: DocumentImage, where: LabelArray) -> Integers:
    if len(where) and not 0 <= where.min() <= where.max() < image.labels.size:
        raise outside_error(image)
    if not (where[1:] > where[:-1]).all():
        raise LabelError(
            f"painted pixels of {image.name!r} repeat or are out of order: sort their positions "
            "and give each once"
        )
    return where


@derive.register
def _import(action: act.ImportLabels, state: State) -> Derived:
    image, given = state.image(action.image), own_records(state.image(action.image), action.records)
    changes = list[Change]()
    for label_set, labels in {action.label_set: action.labels, **action.others}.items():
        check_labels(image.name, labels, image.shape)
        image.check_label_range(int(labels.max()))
        present = image.array(label_set)
        where = np.flatnonzero(present != labels)
        old, new = np.take(present, where), np.take(labels, where)
        changes += _imported(state, image, (where, old, new), given, label_set)
        touched = set(np.union1d(old, new).tolist())
        changed = {
            label: replace(each, label_set=label_set).in_planes(image.index.planes(label))
            for label, each in given.items()
            if label in image.records and label not in touched and image.set_of(label) == label_set
        }
        changes += set_records(state, image.id, changed)
    return Derived(_with_one_number(changes), "import labels", image.id)


def _with_one_number(changes: Sequence[Change]) -> tuple[Change, ...]:
    """Return changes of several label sets, after which the next label is above those of all."""
    numbers = [c for c in changes if isinstance(c, FieldChange) and c.name == "next_label"]
    highest = max(numbers, key=lambda change: change.after, default=None)
    return tuple(change for change in changes if change is highest or change not in numbers)


@derive.register
def _add_image(action: act.AddImage, state: State) -> Derived:
    """Let an image appear that the document has made, hidden and without objects."""
    image = state.images[action.image]
    check_name(state, action.info.name)
    given, changes = own_records(image, action.records), list[Change]()
    sets = {} if action.labels is None else {OBJECTS: action.labels}
    for label_set, labels in (sets | action.others).items():
        where = np.flatnonzero(labels)
        new = np.take(labels, where)
        changes += _imported(state, image, (where, np.zeros_like(new), new), given, label_set)
    changes += set_field(state, "is_removed", False, image.id)
    return Derived(_with_one_number(changes), image=image.id, result=image.id)


def _imported(
    state: State,
    image: DocumentImage,
    pixels: tuple[Integers, Any, Any],
    given: dict[int, ObjectRecord],
    label_set: str,
) -> tuple[Change, ...]:
    """Return the changes by labels from elsewhere with the records that are given."""
    where, old, new = pixels
    if not len(where):
        return ()

    def record(label: int) -> ObjectRecord:
        own = given.get(label) or _made(state, label, IMPORTED)
        return own if own.category else replace(own, category=class_of(label_set))

    pixels = where, old, new.astype(image.labels.dtype)
    return pixel_changes(state, image, pixels, lambda known: record(known.label), record, label_set)


def pixel_changes(  # what is changed, and how records follow
    state: State,
    image: DocumentImage,
    pixels: tuple[Integers, Any, Any],
    update: Update,
    create: Create,
    label_set: str,
) -> tuple[Change, ...]:
    """Return the change of pixels, and the changes of records and next label that follow.

    Parameters
    ----------
    state, image
        Before the change.
    pixels
        N >= 1 flat positions, once each, their labels before and after.
    update, create
        Return the record of an object that was touched, and of an unknown label. Objects
        without pixels lose their record.
    label_set
        The label set that is written; a `LabelError` if an object of another one is touched.
    """
    where, old, new = pixels
    records: dict[int, ObjectRecord | None] = {}
    for label, planes in sorted(image.index.after(where, old, new).items()):
        known = image.records.get(label)
        check_set(image, label, label_set)
        if planes:
            record = create(label) if known is None else update(known)
            if record.label_set != label_set:
                record = replace(record, label_set=label_set)
            records[label] = record.in_planes(planes)
        else:
            records[label] = None
    highest = max((label for label, record in records.items() if record is not None), default=0)
    return (
        LabelChange.of(image.id, where, old, new, label_set),
        *set_records(state, image.id, records),
        *set_field(state, "next_label", max(image.info.next_label, highest + 1), image.id),
    )


def own_records(image: DocumentImage, records: Sequence[ObjectRecord]) -> dict[int, ObjectRecord]:
    """Return records by label; one in a plane that the image lacks is an `ImageError`."""
    for record in records:
        for plane in record.planes:
            image.check_plane(PlaneKey(image.id, plane.index))
    return {record.label: record for record in records}


def _made(state: State, label: int, model: str) -> ObjectRecord:
    return ObjectRecord(label, (), model, created=state.time, modified=state.time)


def check_set(image: DocumentImage, label: int, label_set: str) -> None:
    """Raise `LabelError` for an object of another label set."""
    if label in image.records and image.set_of(label) != label_set:
        names = (class_of(each) for each in (image.set_of(label), label_set))
        own, other = (f"the class {name}" if name else "no class" for name in names)
        raise LabelError(f"object {label} has {own}, not {other}: choose objects of one class")
