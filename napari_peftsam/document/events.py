"""Signals of a document, emitted once a change is complete and saved."""

from __future__ import annotations

from psygnal import Signal, SignalGroup

from napari_peftsam.document.objects import PlaneKey

__all__ = ["DocumentEvents"]


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
