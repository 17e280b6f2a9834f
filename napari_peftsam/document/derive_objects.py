"""Changes made by the actions on objects and pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from napari_peftsam.document import actions as act
from napari_peftsam.document.changes import Change, LabelChange, State, set_field, set_records
from napari_peftsam.document.derive import Derived, check_name, derive, without_first
from napari_peftsam.document.images import DocumentImage, check_labels
from napari_peftsam.document.objects import (
    IMPORTED,
    MANUAL,
    NewObject,
    ObjectRecord,
    Overlap,
    PlaneKey,
    merged,
)
from napari_peftsam.document.records import BACKGROUND, OBJECTS, class_of, label_set_of
from napari_peftsam.document.regions import Integers
from napari_peftsam.document.strokes import check_painted, outside_error
from napari_peftsam.errors import LabelError, PromptError
from napari_peftsam.types import LabelArray

__all__: list[str] = []

Update = Callable[[ObjectRecord], ObjectRecord]
Create = Callable[[int], ObjectRecord]


@derive.register
def _accept(action: act.Accept, state: State) -> Derived:
    plane, shown = state.pending.plane, action.shown
    if shown is None or plane is None:
        raise PromptError(
            "there is no mask to accept: "
            + ("wait for the prediction" if state.pending else "click on an object first")
        )
    changes, labels = _new_objects(state, plane, (shown,), action.overlap)
    advanced = set_field(state, "pending", without_first(state))
    verb = "change" if shown.label == labels[0] else "accept"
    return Derived((*changes, *advanced), f"{verb} object {labels[0]}", plane.image, labels[0])


@derive.register
def _accept_objects(action: act.AcceptObjects, state: State) -> Derived:
    plane, pending = action.plane, state.pending
    changes, labels = _new_objects(state, plane, action.objects, action.overlap)
    if pending.plane == plane:
        accepted = zip(action.objects, labels, strict=True)
        done = [each.prompts for each, label in accepted if label]  # the others stay queued
        left = [prompts for prompts in pending.queue if prompts not in done]
        pending = pending.with_queue(plane, left, state.number)
    number = sum(label > 0 for label in labels)
    label = "accept 1 object" if number == 1 else f"accept {number} objects"
    return Derived((*changes, *set_field(state, "pending", pending)), label, plane.image, labels)


def _new_objects(
    state: State, plane: PlaneKey, objects: Sequence[NewObject], overlap: Overlap
) -> tuple[tuple[Change, ...], tuple[int, ...]]:
    """Return the changes that write objects, and the label of each (0: no pixel was left)."""
    image = state.image(plane.image)
    image.check_plane(plane)
    sets = [_label_set(state, image, each) for each in objects]
    changes, labels, number = list[Change](), [0] * len(objects), image.info.next_label
    for label_set in dict.fromkeys(sets):
        places = [place for place, its in enumerate(sets) if its == label_set]
        part = [objects[place] for place in places]
        made, found = _new_in_set(state, plane, part, overlap, label_set, number)
        changes += made
        number = max(number, *(label + 1 for label in found))
        for place, label in zip(places, found, strict=True):
            labels[place] = label
    if objects and not any(labels):
        raise PromptError(_nothing_left(objects))
    return tuple(changes), tuple(labels)


def _label_set(state: State, image: DocumentImage, new: NewObject) -> str:
    if new.label in image.records:
        return image.set_of(new.label)
    return label_set_of(new.category or state.category)


def _new_in_set(  # `number` is the first free label
    state: State,
    plane: PlaneKey,
    objects: Sequence[NewObject],
    overlap: Overlap,
    label_set: str,
    number: int,
) -> tuple[tuple[Change, ...], tuple[int, ...]]:
    """Return the changes that write objects into one label set, and the label of each."""
    image = state.image(plane.image)
    present = image.array(label_set)
    pieces = [_positions(image, plane, each) for each in objects]
    # An object that was deleted since it was reopened is a new one.
    own = np.array([each.label if each.label in image.records else 0 for each in objects], np.int64)
    where = np.concatenate(pieces)
    owner = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    gone = np.array([], int)
    if overlap == "replace":
        gone = _replaced(present, present[plane.index], pieces)
    if overlap == "overwrite":  # the last one takes the pixels
        where, owner = where[::-1], owner[::-1]
    else:
        before = np.take(present, where)
        is_free = (before == 0) | np.isin(before, gone) | (before == own[owner])
        where, owner = where[is_free], owner[is_free]
    where, first = np.unique(where, return_index=True)
    owner = owner[first]
    has_pixels = np.bincount(owner, minlength=len(pieces)) > 0
    if not has_pixels.any():
        return (), (0,) * len(objects)
    numbers = number - 1 + np.cumsum(has_pixels & (own == 0))
    image.check_label_range(int(numbers[-1]))
    labels = np.where(has_pixels, np.where(own > 0, own, numbers), 0)
    given: dict[int, NewObject] = dict(zip(labels.tolist(), objects, strict=True))
    new = labels[owner]
    cleared = np.union1d(gone, own[(own > 0) & has_pixels])
    if len(cleared):
        inside = np.flatnonzero(np.isin(present[plane.index], cleared))
        rest = np.setdiff1d(inside + image.first_position(plane), where, assume_unique=True)
        where = np.concatenate([where, rest])
        order = np.argsort(where)
        where, new = where[order], np.append(new, np.zeros(len(rest), new.dtype))[order]

    def touched(record: ObjectRecord) -> ObjectRecord:
        made = given.get(record.label)
        if made is None:
            return replace(record, modified=state.time)
        return made.revised(record, plane.index, state.time)

    changes = pixel_changes(
        state,
        image,
        (where, np.take(present, where), new),
        touched,
        lambda number: _in_use(state, given[number].record(number, plane.index, state.time)),
        label_set,
    )
    return changes, tuple(labels.tolist())


def _in_use(state: State, record: ObjectRecord) -> ObjectRecord:
    """Return the record of a new object in the class that is in use, if it has none."""
    return record if record.category else replace(record, category=state.category)


def _replaced(labels: LabelArray, plane: LabelArray, pieces: Sequence[Integers]) -> Integers:
    """Return the labels that new objects replace: they share half of one's or the other's area."""
    found = set[int]()
    for piece in pieces:
        under = np.take(labels, piece)
        for label, shared in zip(*np.unique(under[under > 0], return_counts=True), strict=True):
            area = min(len(piece), np.count_nonzero(plane == label))
            found |= {int(label)} if 2 * shared >= area else set()
    return np.array(sorted(found), np.int64)


def _positions(image: DocumentImage, plane: PlaneKey, new: NewObject) -> Integers:
    """Return the flat positions of a new object's pixels."""
    row, col = new.offset or (0, 0)
    height, width = image.plane_shape
    shape = new.mask.shape
    inside = 0 <= row <= height - shape[0] and 0 <= col <= width - shape[1]
    if not inside or (new.offset is None and shape != image.plane_shape):
        at = "" if new.offset is None else f" at {new.offset}"
        raise PromptError(
            f"the mask has shape {shape}{at}, the image {image.name!r} has planes of "
            f"{image.plane_shape}: predict it from this image"
        )
    return image.positions(plane, new.mask, (row, col))


def _nothing_left(objects: Sequence[NewObject]) -> str:
    if not any(each.mask.any() for each in objects):
        return "the mask is empty: add a point on the object or choose another candidate"
    return (
        "existing objects cover the whole mask: replace them, cut it out of them, or delete them "
        "first"
    )


@derive.register
def _delete(action: act.DeleteObjects, state: State) -> Derived:
    image, labels = state.image(action.image), tuple(dict.fromkeys(action.labels))
    image.check_objects(labels)
    if not labels:
        return Derived()
    changes: tuple[Change, ...] = (
        *_painted_over(image, labels, 0),
        *set_records(state, image.id, dict.fromkeys(labels)),
    )
    name = f"delete object {labels[0]}" if len(labels) == 1 else f"delete {len(labels)} objects"
    return Derived(changes, name, image.id)


@derive.register
def _merge(action: act.MergeObjects, state: State) -> Derived:
    image, labels = state.image(action.image), tuple(dict.fromkeys(action.labels))
    image.check_objects(labels)
    if len(labels) < 2:
        raise LabelError("merging needs two different objects: select one more")
    first, others = labels[0], labels[1:]
    records = image.records
    for each in others:
        _check_set(image, each, image.set_of(first))
    record = merged(records[first], [records[o] for o in others], state.time)
    changes: tuple[Change, ...] = (
        *_painted_over(image, others, first),
        *set_records(state, image.id, {**dict.fromkeys(others), first: record}),
    )
    return Derived(changes, f"merge objects {', '.join(map(str, labels))}", image.id, first)


def _painted_over(image: DocumentImage, labels: Sequence[int], new: int) -> Iterator[LabelChange]:
    """Yield, for each label set, the change of all pixels of objects to another label."""
    for label_set, found in _by_set(image, labels).items():
        where = np.sort(np.concatenate([image.where(label) for label in found]))
        old = np.take(image.array(label_set), where)
        yield LabelChange.of(image.id, where, old, new, label_set)


def _by_set(image: DocumentImage, labels: Sequence[int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for label in labels:
        found.setdefault(image.set_of(label), []).append(label)
    return found


def _check_set(image: DocumentImage, label: int, label_set: str) -> None:
    """Raise `LabelError` for an object of another label set."""
    if label in image.records and image.set_of(label) != label_set:
        own, other = (class_of(each) or "no class" for each in (image.set_of(label), label_set))
        raise LabelError(
            f"object {label} is of {own}, not of {other}, and lies in another layer: give the "
            "objects one class first"
        )


@derive.register
def _categorize(action: act.Categorize, state: State) -> Derived:
    image, labels = state.image(action.image), tuple(dict.fromkeys(action.labels))
    image.check_objects(labels)
    category = action.category.strip()
    label_set = label_set_of(category)
    after = {k: replace(image.records[k], category=category, label_set=label_set) for k in labels}
    moved = [label for label in labels if image.set_of(label) != label_set]
    changes = (*_moved(image, moved, label_set), *set_records(state, image.id, after))
    if not changes:
        return Derived()
    name = f"object {labels[0]}" if len(labels) == 1 else f"{len(labels)} objects"
    return Derived(changes, f"class of {name}", image.id)


def _moved(image: DocumentImage, labels: Sequence[int], label_set: str) -> Iterator[LabelChange]:
    """Yield the changes that move objects to another label set."""
    if not labels:
        return
    pieces = [image.where(label) for label in labels]
    where = np.concatenate(pieces)
    under = np.take(image.array(label_set), where)
    names = np.repeat(np.asarray(labels), [len(piece) for piece in pieces])
    order = np.argsort(where, kind="stable")
    where, names = where[order], names[order]
    twice = np.flatnonzero(where[1:] == where[:-1])
    if under.any() or len(twice):
        other = int(under[under > 0][0]) if under.any() else int(names[twice[0]])
        raise LabelError(
            f"an object of {class_of(label_set) or 'no class'}, {other}, lies there already: "
            "objects of one class do not overlap; delete one of them, or choose another class"
        )
    yield from _painted_over(image, labels, 0)
    yield LabelChange.of(image.id, where, 0, names, label_set)


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
            own = _made(state, label, MANUAL)
            return _in_use(state, replace(own, category=class_of(label_set)))
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
    return Derived(tuple(changes), "import labels", image.id)


@derive.register
def _add_image(action: act.AddImage, state: State) -> Derived:
    """Let an image appear that the document has made, hidden and without objects."""
    image = state.images[action.image]
    check_name(state, action.info.name)
    changes: tuple[Change, ...] = ()
    if action.labels is not None:
        given, where = own_records(image, action.records), np.flatnonzero(action.labels)
        new = np.take(action.labels, where)
        changes = _imported(state, image, (where, np.zeros_like(new), new), given)
    changes += set_field(state, "is_removed", False, image.id)
    return Derived(changes, image=image.id, result=image.id)


def _imported(
    state: State,
    image: DocumentImage,
    pixels: tuple[Integers, Any, Any],
    given: dict[int, ObjectRecord],
    label_set: str = OBJECTS,
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
    label_set: str = OBJECTS,
) -> tuple[Change, ...]:
    """Return the change of pixels, and the changes of records and next label that follow.

    Parameters
    ----------
    state, image
        Before the change.
    pixels
        N >= 1 flat positions, ascending, their labels before and after.
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
        _check_set(image, label, label_set)
        if planes:
            record = create(label) if known is None else update(known)
            records[label] = replace(record, label_set=label_set).in_planes(planes)
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
