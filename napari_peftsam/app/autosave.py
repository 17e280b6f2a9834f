"""Saving of all that a viewer does, in a project without a name until the user names it."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

from psygnal import Signal, SignalGroup

from napari_peftsam.app.runner import Runner, Slot, call
from napari_peftsam.document import (
    Document,
    DocumentImage,
    ImageId,
    ImageSource,
    LocateImage,
    Store,
    create_automatic,
)
from napari_peftsam.errors import PeftSamError, ProjectError
from napari_peftsam.projects import keep_pixels

if TYPE_CHECKING:
    from collections.abc import Callable

_SLOW_COMMITS = 3  # one alone may have waited for another program
_PATIENCE = 60.0  # s for pixels that are being stored while the viewer closes


class ProjectEvents(SignalGroup):
    """News of a viewer's project, emitted in the thread that runs its controllers."""

    changed = Signal()
    """There is another project, or other news of it."""
    loaded = Signal()
    """All images that can be read are in the viewer."""
    saved = Signal()
    """An action was saved in a file; call `Autosave.tidy` once nothing follows."""
    pixels_wanted = Signal()
    """Call `Autosave.keep_next` as soon as the viewer's layers are up to date."""
    informed = Signal(str)
    warned = Signal(str)
    failed = Signal(object)
    """Show this error as a notification."""
    refused = Signal(str)
    """Show beside the tools why an action was refused."""
    undecided = Signal(object)
    """Ask how to read files: an `importing.Undecided`."""
    pieces_found = Signal(str, object, str)
    """Ask whether pieces are objects: image id, path of the labels, and the problem."""


class ProjectOwner(Protocol):
    """The document of a viewer, and the layers that show its images."""

    document: Document

    def show_image(self, image: ImageId, *, first: bool) -> None:
        """Show an image whose pixels were read; annotate it if it is the first."""

    def file_of(self, image: ImageId) -> Path | None:
        """Return the file that the layer of an image was read from, if there is one."""

    def restore_model(self) -> None:
        """Load the model that an opened project was used with last."""


class Autosave:
    """Keeps the document of a viewer in a file from the first prompt on.

    Attributes
    ----------
    time
        Local time at which the last action was saved, ``HH:MM:SS``; empty before.
    """

    def __init__(self, owner: ProjectOwner, runner: Runner, events: ProjectEvents) -> None:
        self._owner, self._document, self._events = ref(owner), owner.document, events
        self.time = ""
        self._runner, self._keeping = runner, Slot(runner)
        self._is_failure_shown = False
        self._kept: set[tuple[ImageId, bool]] = set()  # images that were looked at
        self._paths: dict[ImageId, Path | None] = {}
        for signal, slot in self._connections():
            signal.connect(slot, max_args=0)

    def _connections(self) -> tuple[tuple[Any, Callable[[], None]], ...]:
        events = self._document.events
        return (
            (events.history_changed, self.begin),
            (events.opened, self._opened),
            (events.image_added, self._want_pixels),
            (events.pixels_changed, self.keep_pixels),
        )

    @property
    def is_unsaved(self) -> bool:
        """True if the user has begun, and no file holds it."""
        store = self._document.store
        has_begun = store.last_step() is not None or store.next_step() is not None
        return store.path is None and has_begun

    def begin(self) -> None:
        """Move a document in memory into a file, once the user has begun."""
        memory = self._document.store
        if not self.is_unsaved:
            return
        file: Store | None = None
        try:
            file = create_automatic()
            is_moved = False
            while not is_moved:  # a worker may list an adapter meanwhile
                file.fill_from(memory)
                is_moved = self._document.move_to(file)
        except ProjectError as error:
            if file is not None:
                file.close()
            if not self._is_failure_shown:  # every prompt tries again
                self._is_failure_shown = True
                self._events.failed.emit(error)
            return
        self._is_failure_shown = False
        self.keep_pixels()  # arrays that no file holds can be stored now

    def finish(self) -> None:
        """Save all that is not saved yet, and close the file; the viewer is closing."""
        for signal, slot in self._connections():
            signal.disconnect(slot)
        self._keeping.stop(_PATIENCE)
        self.begin()
        self._kept.clear()
        store = self._document.store
        if store.path is not None:
            for image in self._without_source():
                with suppress(PeftSamError):  # too large, which was shown
                    self._refer(store, image, self._source_of(store, image)())
            store.close()

    # --- pixels -----------------------------------------------------------------------

    def keep_pixels(self) -> None:
        """Look at all images again whose pixels no file is known to hold."""
        self._kept.clear()
        self._want_pixels()

    def _want_pixels(self) -> None:
        self._events.pixels_wanted.emit()

    def keep_next(self) -> None:
        """Find out where an image's pixels are, or store them; returns at once."""
        waiting, owner = self._without_source(), self._owner()
        for each in waiting:  # now, for a closing viewer removes its layers
            path = None if owner is None else owner.file_of(each.id)
            self._paths[each.id] = path or self._paths.get(each.id)
        if not waiting or self._keeping.is_busy:
            return
        image, store = waiting[0], self._document.store
        self._kept.add((image.id, store.path is None))

        def done(source: ImageSource | None) -> None:
            try:
                self._refer(store, image, source)
            except PeftSamError as error:
                self._events.failed.emit(error)
            self._want_pixels()

        def failed(error: Exception) -> None:
            if store is self._document.store:
                text = f"{image.name} is not kept in the project, {error}"
                is_expected = isinstance(error, PeftSamError)
                self._events.failed.emit(ProjectError(text) if is_expected else error)
            self._want_pixels()

        self._keeping.start(call(self._source_of(store, image)), on_done=done, on_error=failed)

    def _without_source(self) -> list[DocumentImage]:
        store = self._document.store
        if store.read_only:
            return []
        return [
            image
            for image in self._document.images.values()
            if image.info.source is None
            and image.pixels is not None
            and (image.id, store.path is None) not in self._kept
        ]

    def _source_of(self, store: Store, image: DocumentImage) -> Callable[[], ImageSource | None]:
        return partial(keep_pixels, store, image, self._paths.get(image.id))

    def _refer(self, store: Store, image: DocumentImage, source: ImageSource | None) -> None:
        is_current = self._document.store is store and image.id in self._document.images
        if source is not None and is_current and image.info.source is None:
            self._document.do(LocateImage(image.id, source))

    # --- what was saved ---------------------------------------------------------------

    def note_saved(self) -> None:
        """Note that an action was saved: its time, and whether the disk is slow."""
        store = self._document.store
        if store.path is None:
            return
        self.time = datetime.now().astimezone().strftime("%H:%M:%S")
        if store.slow_commits == _SLOW_COMMITS:
            store.slow_commits += 1  # shown
            self._events.warned.emit(
                f"Saving to {store.path.parent} is slow, so each action takes a moment: keep "
                "the project on another disk (Save project as…)"
            )
        self._events.saved.emit()

    def tidy(self) -> None:
        """Tidy the project file; returns at once."""
        store = self._document.store
        if store.path is not None:
            self._runner.start(call(store.checkpoint), on_error=lambda _: None)

    def _opened(self) -> None:
        self.time = ""
        self._paths.clear()
        self.keep_pixels()
