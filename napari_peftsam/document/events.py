"""Signals of a document, emitted once a change is complete and saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psygnal import Signal, SignalGroup

from napari_peftsam.document import actions as act
from napari_peftsam.document.changes import Change, FieldChange, State, Touched
from napari_peftsam.document.objects import ImageId, Pending, PendingObject, PlaneKey
from napari_peftsam.document.records import BACKGROUND, PROPOSALS

__all__ = ["DocumentEvents"]

Shown = tuple[Pending, PendingObject | None]


class DocumentEvents(SignalGroup):
    """Signals of a `Document`; images are given by id, regions as tuples of slices."""

    closing = Signal()
    """Another project will be opened in place of this one."""
    opened = Signal()
    """Another project was opened."""
    image_added = Signal(str)
    """An image was added, or came back: its id."""
    image_removed = Signal(str)
    """An image was removed: its id."""
    image_renamed = Signal(str, str)
    """An image was renamed: its id and its new name."""
    pixels_changed = Signal(str)
    """An image got other pixels of the same shape: its id."""
    image_located = Signal(str)
    """The document knows where an image's file is now: its id."""
    prompts_changed = Signal(PlaneKey)
    """The prompts or the queue in this plane changed."""
    candidates_changed = Signal()
    """Other candidates (or none) are shown; the choice may differ as well."""
    choice_changed = Signal()
    """Another of the same candidates is shown."""
    objects_changed = Signal(str)
    """Objects of this image changed."""
    labels_changed = Signal(str, tuple)
    """The document wrote into the labels of an image: id, region. Refresh the view."""
    labels_painted = Signal(str, tuple)
    """The caller's own painting was saved: id, region. Its view is up to date."""
    background_changed = Signal(str)
    """The background declared in this image changed."""
    proposals_changed = Signal(str)
    """There are other proposals in this image, or somebody judged some."""
    audit_changed = Signal()
    """A count began, or somebody counted the objects of a tile."""
    category_changed = Signal()
    """Objects that are made from now on have another class."""
    history_changed = Signal()
    """There is something else to undo or to redo."""
    saved = Signal()
    """An action was saved."""


def emit(
    events: DocumentEvents,
    state: State,
    action: act.Action,
    changes: Sequence[Change],
    touched: Touched,
    before: Shown,
) -> None:
    """Emit the signals of an action's changes: pixels, then records, prompts and images.

    `state` is the state after the changes, `before` the pending prompts and shown object before.
    """
    is_painted = isinstance(action, act.Paint) and action.old is not None
    _emit_touched(events, touched, events.labels_painted if is_painted else events.labels_changed)
    _emit_pending(events, state, *before)
    for change in changes:
        if isinstance(change, FieldChange) and change.image is not None:
            _emit_image(events, state, change.image, change.name)
        elif isinstance(change, FieldChange) and change.name == "category":
            events.category_changed.emit()
        elif isinstance(change, FieldChange) and change.name == "audit":
            events.audit_changed.emit()
    if isinstance(action, act.ReplacePixels):
        events.pixels_changed.emit(action.image)
    elif isinstance(action, act.LocateImage):
        events.image_located.emit(action.image)


def _emit_touched(events: DocumentEvents, touched: Touched, labels_written: Any) -> None:
    for (image, label_set), region in touched.pixels.items():
        if label_set == BACKGROUND:
            events.background_changed.emit(image)
        elif label_set != PROPOSALS:
            labels_written.emit(image, region)
    for image in touched.objects:
        events.objects_changed.emit(image)
    for image in touched.proposals:
        events.proposals_changed.emit(image)


def _emit_pending(
    events: DocumentEvents, state: State, before: Pending, old: PendingObject | None
) -> None:
    pending, new = state.pending, state.shown
    if (before.plane, before.queue) != (pending.plane, pending.queue):
        for plane in dict.fromkeys((before.plane, pending.plane)):
            if plane is not None and not state.images[plane.image].info.is_removed:
                events.prompts_changed.emit(plane)
    if (old and old.candidates) is not (new and new.candidates):
        events.candidates_changed.emit()
    elif old and new and old.revision == new.revision and old.choice != new.choice:
        events.choice_changed.emit()


def _emit_image(events: DocumentEvents, state: State, image: ImageId, name: str) -> None:
    info = state.images[image].info
    if name == "is_removed" and info.is_removed:
        events.image_removed.emit(image)
    elif name == "is_removed":
        events.image_added.emit(image)
    elif name == "name":
        events.image_renamed.emit(image, info.name)
    elif name == "complete":
        events.background_changed.emit(image)
