"""Brings the images of a project into the viewer, and keeps what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import ref

from napari.utils.notifications import show_warning
from psygnal import Signal

from napari_peftsam.app.projects import ReadImage, read_images, read_located_image
from napari_peftsam.document import DocumentImage, ImageId, LocateImage
from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._runner import Worker, start

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_peftsam.widgets.session import ViewerSession

__all__ = ["ProjectImages"]


class ProjectImages:
    """Reads images in a worker and shows them; GUI thread only.

    Parameters
    ----------
    owner
        The viewer's session.

    Attributes
    ----------
    progress
        How far reading them is; empty when done.
    notes
        What is wrong with images by their id: missing, unreadable, changed.
    """

    changed = Signal()
    """An image was read, or there is another note."""
    loaded = Signal()
    """All images that can be read are in the viewer."""

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self._document, self._workers = owner.document, owner.workers
        self.progress = ""
        self.notes: dict[ImageId, str] = {}
        self._loader: Worker[ReadImage] | None = None
        self._document.events.closing.connect(self._closing)
        self._document.events.image_removed.connect(self._removed)

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
            self.loaded.emit()

    def load(self, image: str) -> None:
        """Read an image that came back to the document; returns at once."""
        if self._loader is None:  # else it is read after the others
            self._load((self._document.image(ImageId(image)),))

    def _load(self, images: tuple[DocumentImage, ...]) -> None:
        document, store = self._document, self._document.store
        pending = document.pending.plane
        first = pending.image if pending is not None else images[0].id
        ordered = sorted(images, key=lambda image: image.id != first)

        def show(read: ReadImage) -> None:
            if store is document.store and read.image.id in document.images:
                self.progress = f"Reading image {read.number} of {len(images)}…"
                self._show(read)
                self.changed.emit()

        self.progress = f"Reading {len(images)} image{'s' if len(images) > 1 else ''}…"
        self._loader = start(
            lambda: read_images(document, ordered),
            on_event=show, on_done=self._loaded, group=self._workers,
        )  # fmt: skip

    def _loaded(self) -> None:
        self._loader, self.progress = None, ""
        if self.notes:
            show_warning("\n".join(self.notes.values()))
        self.loaded.emit()
        self.changed.emit()
        unread = [i for i in self._document.images.values() if i.pixels is None]
        late = tuple(i for i in unread if i.id not in self.notes)
        if late:  # they came back by undo meanwhile
            self._load(late)

    def _show(self, read: ReadImage) -> None:
        """Show an image that was read; the first one is annotated."""
        image, owner, is_first = read.image, self._owner(), read.number == 1
        if read.note:
            self.notes[image.id] = read.note
        if read.pixels is None or owner is None:
            return
        layers = owner.layers
        try:
            self._document.image(image.id).attach_pixels(read.pixels)
            layers.show(image.id, visible=is_first)
            if is_first or layers.image is None:
                layers.select_image(layers.layer_of(image.id))
                pending = self._document.pending.plane
                if pending is not None and pending.image == image.id:
                    layers.show_plane(pending)
        except PeftSamError as error:
            self.notes[image.id] = f"{image.name}: {error}"

    def locating(
        self, image: ImageId, path: Path
    ) -> tuple[Callable[[], ReadImage], Callable[[ReadImage], None]]:
        """Return the slow work that reads a missing image, and what shows its result."""
        document, store = self._document, self._document.store

        def show(read: ReadImage) -> None:
            if store is not document.store or image not in document.images:
                return
            document.image(image).attach_pixels(read.pixels)
            self.notes.pop(image, None)
            self._show(read)
            if not store.read_only and read.source is not None:
                document.do(LocateImage(image, read.source))
            if read.note:
                show_warning(read.note)

        return lambda: read_located_image(document, document.image(image), path), show

    def _closing(self) -> None:
        if self._loader is not None:
            self._loader.stop()
            self._loader = None
        self.progress = ""
        self.notes.clear()

    def _removed(self, image: str) -> None:
        if self.notes.pop(ImageId(image), None) is not None:
            self.changed.emit()
