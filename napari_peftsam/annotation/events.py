"""What a session tells its listeners, always after its state is consistent."""

from __future__ import annotations

from dataclasses import dataclass, field

from psygnal import Signal, SignalGroup

from napari_peftsam.annotation._regions import Region, union
from napari_peftsam.annotation.records import PlaneKey

__all__ = ["Changes", "SessionEvents"]


class SessionEvents(SignalGroup):
    """Signals of a `Session`; regions are tuples of slices into the whole label array."""

    image_added = Signal(str)
    """An image was added: its name."""
    image_removed = Signal(str)
    """An image was removed: its name."""
    image_renamed = Signal(str, str)
    """An image was renamed: old and new name."""
    pixels_changed = Signal(str)
    """An image got other pixels of the same shape: its name."""
    prompts_changed = Signal(PlaneKey)
    """The prompts or the queue in this plane changed."""
    candidates_changed = Signal()
    """Other candidates (or none) are shown; `choice` may differ as well."""
    choice_changed = Signal()
    """Another of the same candidates is shown."""
    objects_changed = Signal(str)
    """Records of this image changed."""
    labels_changed = Signal(str, tuple)
    """The session wrote into the labels of an image: name, region. Refresh the view."""
    labels_painted = Signal(str, tuple)
    """The caller's own painting was recorded: name, region. Its view is up to date."""
    history_changed = Signal()
    """There is something else to undo or to redo."""


@dataclass
class Changes:
    """Collects what an edit step changes until it can be told."""

    planes: dict[PlaneKey, None] = field(default_factory=dict)
    candidates: bool = False
    choice: bool = False
    objects: dict[str, None] = field(default_factory=dict)
    labels: dict[str, Region] = field(default_factory=dict)
    painted: dict[str, Region] = field(default_factory=dict)

    def wrote(self, image: str, region: Region) -> None:
        """Note pixels that the session wrote."""
        known = self.labels.get(image)
        self.labels[image] = region if known is None else union(known, region)

    def mark_painted(self) -> None:
        """Take the pixels noted so far for the caller's own, whose view shows them already."""
        self.painted.update(self.labels)
        self.labels.clear()

    def emit(self, events: SessionEvents) -> None:
        """Tell the listeners, pixels before records before prompts."""
        for image, region in self.labels.items():
            events.labels_changed.emit(image, region)
        for image, region in self.painted.items():
            events.labels_painted.emit(image, region)
        for image in self.objects:
            events.objects_changed.emit(image)
        for plane in self.planes:
            events.prompts_changed.emit(plane)
        if self.candidates:
            events.candidates_changed.emit()
        elif self.choice:
            events.choice_changed.emit()
