"""Brings the images of a project into the viewer, and says what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.utils.notifications import show_warning
from psygnal import Signal, SignalGroup

from napari_peftsam.document import Document, DocumentImage, ImageId, ImageSource, LocateImage
from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._worker import Worker, start

if TYPE_CHECKING:
    from napari_peftsam.widgets._session import ViewerSession

__all__ = ["ProjectImages", "ProjectImagesEvents"]

_AT_ONCE = 2_000_000_000  # bytes of an image that the viewer holds in memory


class ProjectImagesEvents(SignalGroup):
    """Signals of `ProjectImages`."""

    changed = Signal()
    """An image was read, or there is another note."""
    loaded = Signal()
    """All images that can be read are in the viewer."""


class ProjectImages:
    """Reads images in a worker and shows them; GUI thread only.

    Parameters
    ----------
    owner
        The viewer's session.

    Attributes
    ----------
    events
        See `ProjectImagesEvents`.
    progress
        How far reading them is; empty when done.
    notes
        What is wrong with images by their id: missing, unreadable, changed.
    """

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self._document, self._workers = owner.document, owner.workers
        self.events = ProjectImagesEvents()
        self.progress = ""
        self.notes: dict[ImageId, str] = {}
        self._loader: Worker[_Loaded] | None = None
        events = self._document.events
        events.closing.connect(self._closing)
        events.image_removed.connect(self._removed)

    @property
    def missing(self) -> tuple[DocumentImage, ...]:
        """The images without pixels."""
        images = self._document.images.values()
        return tuple(image for image in images if image.pixels is None and image.id in self.notes)

    def load_all(self) -> None:
        """Read all images of a project, that of the pending prompts first; returns at once."""
        images = tuple(self._document.images.values())
        if images:
            self._load(images)
        else:
            self.events.loaded.emit()

    def load(self, image: str) -> None:
        """Read an image that came back to the document; returns at once."""
        if self._loader is None:  # else it is read after the others
            self._load((self._document.image(ImageId(image)),))

    def _load(self, images: tuple[DocumentImage, ...]) -> None:
        document, store = self._document, self._document.store
        pending = document.pending.plane
        first = pending.image if pending is not None else images[0].id
        ordered = sorted(images, key=lambda image: image.id != first)

        def read(event: _Loaded) -> None:
            if store is document.store and event.image.id in document.images:
                self.progress = f"Reading image {event.number} of {len(images)}…"
                self._take(event, is_first=event.number == 1)
                self.events.changed.emit()

        def done() -> None:
            self._loader, self.progress = None, ""
            if self.notes:
                show_warning("\n".join(self.notes.values()))
            self.events.loaded.emit()
            self.events.changed.emit()
            unread = [i for i in document.images.values() if i.pixels is None]
            late = tuple(i for i in unread if i.id not in self.notes)
            if late:  # they came back by undo meanwhile
                self._load(late)

        self.progress = f"Reading {len(images)} image{'s' if len(images) > 1 else ''}…"
        self._loader = start(
            lambda: _read(document, ordered), on_event=read, on_done=done, group=self._workers
        )

    def _take(self, event: _Loaded, *, is_first: bool) -> None:
        """Show an image that was read; the first one is annotated."""
        image, owner = event.image, self._owner()
        if event.note:
            self.notes[image.id] = event.note
        if event.pixels is None or owner is None:
            return
        layers = owner.layers
        try:
            self._document.image(image.id).attach_pixels(event.pixels)
            layers.show(image.id, visible=is_first)
            if is_first or layers.image is None:
                layers.select_image(layers.layer_of(image.id))
                pending = self._document.pending.plane
                if pending is not None and pending.image == image.id:
                    layers.show_plane(pending)
        except PeftSamError as error:
            self.notes[image.id] = f"{image.name}: {error}"

    def read_located(self, image: ImageId, path: Path) -> _Located:
        """Return the pixels of a missing image from where it is now; slow."""
        from napari_peftsam.projects import read_located

        entry = self._document.image(image)
        pixels, source, note = read_located(self._document, entry, path)
        return _Located(self._document.store, _in_memory(pixels), source, note)

    def take_located(self, image: ImageId, located: _Located) -> None:
        """Show an image that was located."""
        document, store = self._document, self._document.store
        if store is not located.store or image not in document.images:
            return
        entry = document.image(image)
        entry.attach_pixels(located.pixels)
        self.notes.pop(image, None)
        self._take(_Loaded(entry, located.pixels, located.note, 1), is_first=True)
        if not store.read_only:
            document.do(LocateImage(image, located.source))
        if located.note:
            show_warning(located.note)

    def _closing(self) -> None:
        if self._loader is not None:
            self._loader.stop()
            self._loader = None
        self.progress = ""
        self.notes.clear()

    def _removed(self, image: str) -> None:
        if self.notes.pop(ImageId(image), None) is not None:
            self.events.changed.emit()


@dataclass(frozen=True, eq=False)
class _Loaded:
    """An image of a project; without pixels if it cannot be read."""

    image: DocumentImage
    pixels: Any
    note: str
    number: int


@dataclass(frozen=True, eq=False)
class _Located:
    """The pixels of an image that was missing in the project of a store."""

    store: Any
    pixels: Any
    source: ImageSource
    note: str


def _read(document: Document, images: list[DocumentImage]) -> Iterator[_Loaded]:
    """Read images with their objects, so that showing them needs no disk."""
    from napari_peftsam.projects import read_image_of

    for number, image in enumerate(images, start=1):
        pixels, note = None, ""
        try:
            image.read()
            pixels, note = read_image_of(document, image)
            pixels = _in_memory(pixels)
        except PeftSamError as error:
            pixels, note = None, f"{image.name}: {error}"
        yield _Loaded(image, pixels, note, number)


def _in_memory(pixels: Any) -> Any:
    """Read an image unless it is very large: napari asks for the same plane again and again."""
    size = int(np.prod(pixels.shape, dtype=np.int64)) * np.dtype(pixels.dtype).itemsize
    return np.asarray(pixels) if size <= _AT_ONCE else pixels
