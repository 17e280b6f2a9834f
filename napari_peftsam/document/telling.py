"""Signals for listeners, once a change is complete and saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from napari_peftsam.document.changes import Change, FieldChange, State, Touched
from napari_peftsam.document.events import DocumentEvents
from napari_peftsam.document.image_info import OBJECTS
from napari_peftsam.document.objects import ImageId
from napari_peftsam.document.pending import Answer, Pending

__all__ = ["Shown", "shown", "tell"]


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


def tell(
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
    _tell_pending(events, state, before)
    for change in changes:
        if isinstance(change, FieldChange) and change.image is not None:
            _tell_image(events, state, change.image, change.name)


def _tell_pending(events: DocumentEvents, state: State, before: Shown) -> None:
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


def _tell_image(events: DocumentEvents, state: State, image: ImageId, name: str) -> None:
    info = state.images[image].info
    if name == "is_removed" and info.is_removed:
        events.image_removed.emit(image)
    elif name == "is_removed":
        events.image_added.emit(image)
    elif name == "name":
        events.image_renamed.emit(image, info.name)
    elif name == "complete":
        events.background_changed.emit(image)
