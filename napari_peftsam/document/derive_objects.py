"""Changes made by the actions on objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from napari_peftsam.document import actions as act
from napari_peftsam.document.changes import Change, LabelChange, State, set_field, set_records
from napari_peftsam.document.derive import Derived, checked_class, derive, without_first
from napari_peftsam.document.derive_labels import check_set, pixel_changes
from napari_peftsam.document.derive_proposals import judged, judged_by, proposal_pixels, revoked
from napari_peftsam.document.images import DocumentImage
from napari_peftsam.document.objects import NewObject, ObjectRecord, Overlap, PlaneKey, merged
from napari_peftsam.document.records import class_of, label_set_of
from napari_peftsam.document.regions import Integers, first_of
from napari_peftsam.errors import LabelError, PromptError, count_text
from napari_peftsam.types import LabelArray

__all__: list[str] = []

_COVERED = (
    "existing objects cover the whole mask: replace them, cut it out of them, or delete them first"
)


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
    label = f"accept {count_text(number, 'object')}"
    return Derived((*changes, *set_field(state, "pending", pending)), label, plane.image, labels)


@derive.register
def _accept_proposals(action: act.AcceptProposals, state: State) -> Derived:
    plane, image = action.plane, state.image(action.plane.image)
    numbers = image.check_proposals(plane, action.numbers)
    if not numbers:
        return Derived()
    # No two proposals overlap, so one pass over their pixels does for all.
    where, shown = proposal_pixels(image, plane, numbers)
    label_set, known = label_set_of(state.category), image.proposals
    is_free = np.take(image.array(label_set), where) == 0
    if not is_free.any():
        raise PromptError(_COVERED)
    free, owner = (where, shown) if is_free.all() else (where[is_free], shown[is_free])
    areas = np.bincount(owner, minlength=max(numbers) + 1)
    labels, highest = dict.fromkeys(numbers, 0), image.info.next_label - 1
    for number in numbers:
        if areas[number]:
            labels[number] = highest = highest + 1
    image.check_label_range(highest)
    made, label_of = {label: n for n, label in labels.items()}, np.zeros(len(areas), np.int64)
    label_of[list(labels)] = list(labels.values())

    def create(label: int) -> ObjectRecord:
        return known[made[label]].as_object(label, state.time, state.category)

    pixels = free, 0, label_of.astype(image.labels.dtype)[owner]
    found = {
        n: (int(areas[n]) / image.proposal_area(n), label) if label else None
        for n, label in labels.items()
    }
    changes = (
        *pixel_changes(state, image, pixels, lambda record: record, create, label_set),
        *judged(state, plane, found, unseen=len(numbers) > 1, pixels=(where, shown)),
    )
    what = "proposal" if len(numbers) == 1 else f"{len(numbers)} proposals"
    return Derived(changes, f"accept {what}", image.id, tuple(labels.values()))


def _new_objects(
    state: State,
    plane: PlaneKey,
    objects: Sequence[NewObject],
    overlap: Overlap,
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
    return (*changes, *judged_by(state, plane, changes)), tuple(labels)


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
    owner: Integers = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    gone = np.array([], int)
    if overlap == "replace":
        gone = _replaced(present, present[plane.index], pieces)
    if overlap == "overwrite":  # the last one takes the pixels
        where, owner = where[::-1], owner[::-1]
    else:
        before = np.take(present, where)
        if before.any():
            is_free = (before == 0) | np.isin(before, gone) | (before == own[owner])
            where, owner = where[is_free], owner[is_free]
    where, owner = first_of(where, owner)
    has_pixels = np.bincount(owner, minlength=len(pieces)) > 0
    if not has_pixels.any():
        return (), (0,) * len(objects)
    numbers = number - 1 + np.cumsum(has_pixels & (own == 0))
    image.check_label_range(int(numbers[-1]))
    labels = np.where(has_pixels, np.where(own > 0, own, numbers), 0).astype(present.dtype)
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
    return _COVERED


@derive.register
def _delete(action: act.DeleteObjects, state: State) -> Derived:
    image, labels = state.image(action.image), tuple(dict.fromkeys(action.labels))
    image.check_objects(labels)
    if not labels:
        return Derived()
    changes: tuple[Change, ...] = (
        *_painted_over(image, labels, 0),
        *set_records(state, image.id, dict.fromkeys(labels)),
        *revoked(state, image, labels),
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
        check_set(image, each, image.set_of(first))
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


@derive.register
def _categorize(action: act.Categorize, state: State) -> Derived:
    image, labels = state.image(action.image), tuple(dict.fromkeys(action.labels))
    image.check_objects(labels)
    category = checked_class(action.category)
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
