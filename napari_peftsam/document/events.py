"""Signals of a document, emitted once a change is complete and saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from psygnal import Signal, SignalGroup

from napari_peftsam.document.changes import Change, FieldChange
from napari_peftsam.document.objects import ImageId, PlaneKey
from napari_peftsam.document.pending import Answer, Pending
from napari_peftsam.document.records import OBJECTS
from napari_peftsam.document.state import State, Touched

__all__ = ["DocumentEvents", "Shown", "emit", "shown"]


class DocumentEvents(SignalGroup):
    """Signals of a `Document`; images go by their id, regions are tuples of slices."""

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
    history_changed = Signal()
    """There is something else to undo or to redo."""
    saved = Signal()
    """An action was saved."""


class Shown(NamedTuple):
    """Pending prompts, their candidates (None while they are awaited), and the chosen one."""

    pending: Pending
    answer: Answer | None
    choice: int


def shown(state: State) -> Shown:
    """Return what is shown of the pending object."""
    pending = state.pending
    answer = state.answers.get(pending.revision)
    choice = state.choices.get(pending.revision, 0)
    # A choice may be of other candidates, of which there were more.
    return Shown(pending, answer, choice if answer and choice < len(answer.prediction) else 0)


def emit(
    events: DocumentEvents,
    state: State,
    changes: Sequence[Change],
    touched: Touched,
    before: Shown,
    *,
    painted: bool = False,
) -> None:
    """Tell listeners what changed: pixels before records before prompts before images.

    Parameters
    ----------
    events
        The signals to emit.
    state
        After the changes.
    changes, touched
        What was changed, and what that touched.
    before
        What was shown before.
    painted
        Whether the caller painted the pixels itself, so that its view is up to date.
    """
    labels_written = events.labels_painted if painted else events.labels_changed
    for (image, label_set), region in touched.pixels.items():
        if label_set == OBJECTS:
            labels_written.emit(image, region)
        else:
            events.background_changed.emit(image)
    for image in touched.objects:
        events.objects_changed.emit(image)
    _emit_pending(events, state, before)
    for change in changes:
        if isinstance(change, FieldChange) and change.image is not None:
            _emit_image(events, state, change.image, change.name)


def _emit_pending(events: DocumentEvents, state: State, before: Shown) -> None:
    now = shown(state)
    if (before.pending.plane, before.pending.queue) != (now.pending.plane, now.pending.queue):
        for plane in dict.fromkeys((before.pending.plane, now.pending.plane)):
            if plane is not None and not state.images[plane.image].info.is_removed:
                events.prompts_changed.emit(plane)
    was, answer = before.answer, now.answer
    if (was and was.prediction) is not (answer and answer.prediction):
        events.candidates_changed.emit()
    elif before.pending.revision == now.pending.revision and before.choice != now.choice:
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
