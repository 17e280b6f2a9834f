"""Opens, copies and leaves projects in a viewer, and brings their images into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.utils.notifications import show_error, show_info, show_warning
from psygnal import Signal, SignalGroup

from napari_peftsam.document import (
    AutomaticProject,
    Document,
    DocumentImage,
    ImageId,
    LocateImage,
    Store,
    create_project,
    delete_automatic,
    newest_automatic,
    open_project,
    prune_automatic,
    save_copy,
)
from napari_peftsam.errors import PeftSamError, ProjectError
from napari_peftsam.folders import project_folder
from napari_peftsam.widgets._worker import Worker, notify, run, start

if TYPE_CHECKING:
    from napari_peftsam.projects import Imported
    from napari_peftsam.widgets._session import ViewerSession

__all__ = ["ProjectEvents", "Projects"]

_AT_ONCE = 2_000_000_000  # bytes of an image that the viewer holds in memory


class ProjectEvents(SignalGroup):
    """Signals of `Projects`."""

    changed = Signal()
    """There is another project, or other news of it."""
    images_loaded = Signal()
    """All images of a project that can be read are in the viewer."""


class Projects:
    """The project of a viewer; GUI thread only, all that is slow runs in workers.

    Parameters
    ----------
    owner
        The viewer's session.

    Attributes
    ----------
    events
        See `ProjectEvents`.
    offered
        The project without a name to go on with; None if there is none.
    progress
        What is being done at present, empty if nothing.
    notes
        What is wrong with images by their id: missing, unreadable, changed.
    """

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self._document, self._workers = owner.document, owner.workers
        self.events = ProjectEvents()
        self.offered: AutomaticProject | None = None
        self.progress = ""
        self.notes: dict[ImageId, str] = {}
        self._told = False  # that actions cannot be saved
        self._at_work: Worker[Any] | None = None
        self._loader: Worker[Any] | None = None
        events = self._document.events
        events.closing.connect(self._closing)
        events.opened.connect(self._opened)
        events.image_removed.connect(self._image_removed)
        owner.autosave.events.saved.connect(self._saved)

    @property
    def owner(self) -> ViewerSession:
        """The viewer's session."""
        owner = self._owner()
        assert owner is not None, "it keeps this"
        return owner

    @property
    def name(self) -> str:
        """The project's name; empty while it has none of its own."""
        path = self._document.store.path
        return "" if path is None or self.is_automatic else path.stem

    @property
    def is_automatic(self) -> bool:
        """Whether the project has no name of its own."""
        path = self._document.store.path
        return path is not None and path.parent == project_folder().resolve()

    @property
    def missing(self) -> tuple[DocumentImage, ...]:
        """The images without pixels."""
        images = self._document.images.values()
        return tuple(image for image in images if image.pixels is None and image.id in self.notes)

    def start(self) -> None:
        """Look for a project to go on with; returns at once."""

        def look() -> AutomaticProject | None:
            prune_automatic()
            return newest_automatic()

        def found(project: AutomaticProject | None) -> None:
            if self._document.store.path is None:
                self.offered = project
                self.events.changed.emit()

        run(look, on_result=found, group=self._workers)
        self.owner.autosave.start()

    # --- from one project to another ----------------------------------------------------

    def open(self, path: str | Path) -> None:
        """Open a project in place of the present one; returns at once."""
        if Path(path).expanduser().resolve() == self._document.store.path:
            show_info(f"{Path(path).name} is open already")
            return
        self._work(f"Opening {Path(path).name}…", lambda: open_project(path), self._show)

    def create(self, path: Path) -> None:
        """Begin an empty project; returns at once."""
        self._work(f"Making {path.name}…", lambda: create_project(path), self._show)

    def close(self) -> None:
        """Leave the project; all of it is saved."""
        self._show(Store.in_memory())

    def go_on(self) -> None:
        """Open the project that is offered."""
        if self.offered is not None:
            self.open(self.offered.path)

    def save_as(self, path: Path, *, with_images: bool = False) -> None:
        """Copy the project to a file and go on there; returns at once."""
        document, store = self._document, self._document.store
        number, old = store.next_number, store.path if self.is_automatic else None
        pixels = {
            image.id: image.pixels
            for image in document.images.values()
            if image.pixels is not None and with_images
        }

        def copy() -> Store:
            save_copy(store, path, pixels)
            return open_project(path, must_write=True)

        def copied(new: Store) -> None:
            if store is not document.store:  # another project was opened meanwhile
                new.close()
            elif store.read_only:  # what is open elsewhere may have gone on
                self._show(new)
            elif number != store.next_number:
                new.close()
                self.save_as(path, with_images=with_images)
            else:
                document.move_to(new)
                self._moved(old)

        self._work(f"Saving {path.name}…", copy, copied)

    def _moved(self, automatic: Path | None) -> None:
        """Note that the document is in another file; a copy without a name goes."""
        path = self._document.store.path
        self._note_recent()
        if automatic is not None:
            run(lambda: delete_automatic(automatic), on_error=lambda _: None, group=self._workers)
        show_info(f"Saved to {path}; everything from now on is saved there")
        self.events.changed.emit()

    def _show(self, store: Store) -> None:
        self.owner.autosave.begin_now()  # nothing of the present project is lost
        try:
            self._document.open(store)
        except PeftSamError as error:
            store.close()
            self._failed(error)

    def _closing(self) -> None:
        if self._loader is not None:
            self._loader.stop()
            self._loader = None
        self.progress, self._told = "", False
        self.notes.clear()

    def _opened(self) -> None:
        store, owner = self._document.store, self.owner
        self.offered = None
        if store.path is not None:
            self._note_recent()
            if store.read_only:
                show_warning(f"{store.path.name} can only be read: {store.why_read_only}")
            owner.restore_model()
        self.events.changed.emit()
        self._load(tuple(self._document.images.values()))

    def _note_recent(self) -> None:
        path = self._document.store.path

        def note() -> None:
            from napari_peftsam.projects import note_recent

            if path is not None:
                note_recent(path)

        run(note, group=self._workers)

    # --- images -------------------------------------------------------------------------

    def load(self, image: str) -> None:
        """Read an image that came back to the document; returns at once."""
        if self._loader is None:
            self._load((self._document.image(ImageId(image)),))

    def _load(self, images: tuple[DocumentImage, ...]) -> None:
        if not images:
            self.events.images_loaded.emit()
            return
        document, store = self._document, self._document.store
        pending = document.pending.plane
        first = pending.image if pending is not None else images[0].id
        ordered = sorted(images, key=lambda image: image.id != first)

        def loaded(event: _Loaded) -> None:
            if store is document.store and event.image.id in document.images:
                self.progress = f"Reading image {event.number} of {len(images)}…"
                self._take(event, is_first=event.number == 1 or len(images) == 1)
                self.events.changed.emit()

        def done() -> None:
            self._loader, self.progress = None, ""
            self._tell_notes()
            self.events.images_loaded.emit()
            self.events.changed.emit()
            unread = [i for i in document.images.values() if i.pixels is None]
            late = tuple(i for i in unread if i.id not in self.notes)
            if late:  # they came back by undo meanwhile
                self._load(late)

        self.progress = f"Reading {len(images)} image{'s' if len(images) > 1 else ''}…"
        self._loader = start(
            lambda: _read(document, ordered),
            on_event=loaded,
            on_done=done,
            group=self._workers,
        )

    def _take(self, event: _Loaded, *, is_first: bool) -> None:
        """Show an image that was read."""
        image, owner = event.image, self.owner
        if event.note:
            self.notes[image.id] = event.note
        try:
            if event.pixels is None:
                return
            self._document.attach_pixels(image.id, event.pixels)
            owner.layers.show(image.id, visible=is_first)
            if is_first or owner.layers.image is None:
                owner.layers.select_image(owner.layers.layer_of(image.id))
                self._show_pending_plane(image.id)
        except PeftSamError as error:
            self.notes[image.id] = f"{image.name}: {error}"

    def _show_pending_plane(self, image: ImageId) -> None:
        """Show the plane with the pending prompts."""
        pending = self._document.pending.plane
        if pending is not None and pending.image == image:
            self.owner.layers.show_plane(pending)

    def _tell_notes(self) -> None:
        if self.notes:
            show_warning("\n".join(self.notes.values()))

    def _image_removed(self, image: str) -> None:
        if self.notes.pop(ImageId(image), None) is not None:
            self.events.changed.emit()

    def locate(self, image: ImageId, path: Path) -> None:
        """Read a missing image from where it is now; returns at once."""
        document, store = self._document, self._document.store
        entry = document.image(image)

        def read() -> tuple[Any, Any, str]:
            from napari_peftsam.projects import read_located

            pixels, source, note = read_located(document, entry, path)
            return _in_memory(pixels), source, note

        def found(located: tuple[Any, Any, str]) -> None:
            if store is not document.store or image not in document.images:
                return
            pixels, source, note = located
            document.attach_pixels(image, pixels)
            self.notes.pop(image, None)
            self._take(_Loaded(entry, pixels, note, 1), is_first=True)
            if not store.read_only:
                document.do(LocateImage(image, source))
            if note:
                show_warning(note)

        self._work(f"Reading {path.name}…", read, found)

    # --- objects of others --------------------------------------------------------------

    def import_from(self, path: Path) -> None:
        """Add the objects of a colleague's project, image by image; returns at once."""
        document, number = self._document, self._document.store.next_number

        def read() -> tuple[list[tuple[str, Imported]], list[str]]:
            from napari_peftsam.projects import import_objects

            found, skipped = [], []
            store = open_project(path, read_only=True)
            try:
                for other in Document(store).images.values():
                    own = document.find_image(other.name)
                    if own is None or own.shape != other.shape:
                        skipped.append(other.name)
                    else:
                        found.append((own.name, import_objects(own, other)))
            finally:
                store.close()
            return found, skipped

        def done(result: tuple[list[tuple[str, Imported]], list[str]]) -> None:
            if number != document.store.next_number:  # objects have changed meanwhile
                self.import_from(path)
                return
            for _, imported in result[0]:
                if imported.action is not None:
                    document.do(imported.action)
            show_info(_report(*result))

        self._work(f"Importing {path.name}…", read, done)

    # --- what goes wrong ----------------------------------------------------------------

    def report(self, error: PeftSamError) -> None:
        """Tell that an action was refused; that it cannot be saved, also as a notification."""
        if isinstance(error, ProjectError) and not self._told:
            self._told = True
            show_error(f"{error}. What you did last is taken back.")
        self.owner.layers.events.hint.emit(str(error))

    def _saved(self) -> None:
        self._told = False
        if self.offered is not None:
            self.offered = None
            self.events.changed.emit()

    def _failed(self, error: Exception) -> None:
        self.progress = ""
        notify(error)
        self.events.changed.emit()

    def _work(
        self, progress: str, work: Callable[[], Any], on_result: Callable[[Any], object]
    ) -> None:
        """Do something slow with projects; one at a time."""
        if self._at_work is not None and self._at_work.is_running:
            show_info(f"{self.progress} Wait until that is done")
            return

        def ended(result: Any) -> None:
            self._at_work, self.progress = None, ""
            try:
                on_result(result)
            except PeftSamError as error:
                notify(error)
            self.events.changed.emit()

        def failed(error: Exception) -> None:
            self._at_work = None
            self._failed(error)

        self.progress = progress
        self._at_work = run(work, on_result=ended, on_error=failed, group=self._workers)
        self.events.changed.emit()


class _Loaded:
    """An image of a project, read or not."""

    def __init__(self, image: DocumentImage, pixels: Any, note: str, number: int) -> None:
        self.image, self.pixels, self.note, self.number = image, pixels, note, number


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


def _report(found: list[tuple[str, Imported]], skipped: list[str]) -> str:
    objects = sum(imported.objects for _, imported in found)
    covered = sum(imported.covered for _, imported in found)
    text = f"{objects} objects imported into {len(found)} images"
    if covered:
        text += f"; {covered} are covered by objects that were there"
    if skipped:
        text += f"; skipped, as no image here has their name and shape: {', '.join(skipped)}"
    return text
