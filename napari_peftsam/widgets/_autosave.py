"""Saves what a viewer does: in a project without a name until the user gives it one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

from napari.utils.notifications import show_warning
from psygnal import Signal, SignalGroup
from qtpy.QtCore import QObject, QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]

from napari_peftsam.document import (
    DocumentImage,
    ImageId,
    ImageSource,
    LocateImage,
    Store,
    create_automatic,
    delete_automatic,
)
from napari_peftsam.errors import PeftSamError, ProjectError
from napari_peftsam.widgets._worker import Worker, notify, run

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_peftsam.widgets._session import ViewerSession

__all__ = ["PATH", "Autosave", "AutosaveEvents", "source_path"]

PATH = "napari-peftsam path"
"""Key in a layer's metadata under which our own readers note the file."""
_IDLE = 2000  # ms without an action: time to tidy the project file
_SLOW_COMMITS = 3  # one alone may have waited for another program


class AutosaveEvents(SignalGroup):
    """Signals of an `Autosave`; always emitted in the GUI thread."""

    saved = Signal()
    """An action was saved in a file."""


class _Relay(QObject):
    """Brings the document's news into the GUI thread: adapters are saved in others."""

    saved = QtSignal()


class Autosave:
    """Keeps the document of a viewer in a file from the first prompt on.

    Parameters
    ----------
    owner
        The viewer's session.

    Attributes
    ----------
    events
        See `AutosaveEvents`.
    time
        Local time at which the last action was saved, ``HH:MM:SS``; empty before.
    """

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self._document, self._workers = owner.document, owner.workers
        self.events = AutosaveEvents()
        self.time = ""
        self._spare: Store | None = None  # made before it is needed: a prompt does not wait
        self._making: Worker[Store] | None = None
        self._newest: Store | None = None  # what the worker has made, told or not
        self._keeping: Worker[Any] | None = None
        self._told = False  # that there is no file
        self._kept: set[tuple[ImageId, bool]] = set()  # images that were looked at
        self._paths: dict[ImageId, Path | None] = {}
        self._relay = _Relay()
        self._relay.saved.connect(self._saved)
        self._soon = _timer(0, self._keep_next)
        self._idle = _timer(_IDLE, self._tidy)
        for signal, slot in self._connections():
            signal.connect(slot, max_args=0)

    def _connections(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        events = self._document.events
        return (
            (events.history_changed, self.begin),
            (events.saved, self._tell_saved),
            (events.opened, self._opened),
            (events.image_added, self._soon.start),
            (events.pixels_changed, self.keep_pixels),
        )

    def start(self) -> None:
        """Make the file that the first prompt will need; returns at once."""
        if self._spare is None and self._making is None and self._document.store.path is None:
            self._making = run(
                self._make, on_result=self._made, on_error=self._not_made, group=self._workers
            )

    def _make(self) -> Store:
        self._newest = create_automatic()
        return self._newest

    def _made(self, spare: Store) -> None:
        self._making = self._newest = None
        if self._document.store.path is not None:
            _discard(spare)
            return
        self._spare = spare
        self.begin()

    def _not_made(self, error: Exception) -> None:
        self._making = None
        if not self._told:  # every prompt tries again
            self._told = True
            notify(error)

    @property
    def is_unsaved(self) -> bool:
        """Whether the user has begun, and no file holds it."""
        store = self._document.store
        has_begun = store.last_step() is not None or store.next_step() is not None
        return store.path is None and has_begun

    def begin(self) -> None:
        """Move a document in memory into a file, once the user has begun."""
        memory = self._document.store
        if not self.is_unsaved:
            return
        if self._spare is None:
            self.start()
            return
        spare, self._spare = self._spare, None
        try:
            is_moved = False
            while not is_moved:  # a worker may list an adapter meanwhile
                spare.fill_from(memory)
                is_moved = self._document.move_to(spare)
        except ProjectError as error:
            spare.close()
            self._not_made(error)
            return
        self._told = False
        self.keep_pixels()  # arrays that no file holds can be stored now

    def finish(self) -> None:
        """Save all that is not saved yet, and close the file; the viewer is closing."""
        for signal, slot in self._connections():
            signal.disconnect(slot)
        self._soon.stop()
        self._idle.stop()
        if self._keeping is not None:
            self._keeping.stop()
            self._keeping.wait(60)
        self.begin_now()
        self._kept.clear()
        store = self._document.store
        for image in self._without_source() if store.path is not None else ():
            with suppress(PeftSamError):  # too large, as was told
                self._keep(store, image, self._work(store, image)())
        self._wait_for_spare()
        if self._spare is not None:
            _discard(self._spare)
            self._spare = None
        if store.path is not None:
            store.close()

    def begin_now(self) -> None:
        """As `begin`, but make the file now if there is none yet."""
        if self.is_unsaved:
            self._wait_for_spare()
            try:
                self._spare = self._spare or create_automatic()
            except ProjectError as error:
                self._not_made(error)
                return
        self.begin()

    def _wait_for_spare(self) -> None:
        if self._making is not None:
            self._making.stop()
            self._making.wait(10)
            self._spare, self._making, self._newest = self._newest, None, None

    # --- pixels -----------------------------------------------------------------------

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

    def _keep_next(self) -> None:
        """Find out in a thread where an image's pixels are, or store them."""
        waiting = self._without_source()
        for each in waiting:  # now, for a closing viewer removes its layers
            self._note_path(each.id)
        if not waiting or self._keeping is not None:
            return
        image, store = waiting[0], self._document.store
        self._kept.add((image.id, store.path is None))

        def done(source: ImageSource | None) -> None:
            self._keeping = None
            try:
                self._keep(store, image, source)
            except PeftSamError as error:
                notify(error)
            self._soon.start()

        def failed(error: Exception) -> None:
            self._keeping = None
            if store is self._document.store:
                told = f"{image.name} is not kept in the project, {error}"
                notify(ProjectError(told) if isinstance(error, PeftSamError) else error)
            self._soon.start()

        self._keeping = run(
            self._work(store, image), on_result=done, on_error=failed, group=self._workers
        )

    def _work(self, store: Store, image: DocumentImage) -> Callable[[], ImageSource | None]:
        path, pixels, rgb = self._paths.get(image.id), image.pixels, image.rgb

        def work() -> ImageSource | None:
            from napari_peftsam.projects import keep_pixels

            return keep_pixels(store, pixels, rgb, path)

        return work

    def _note_path(self, image: ImageId) -> None:
        owner = self._owner()
        layer = None if owner is None else owner.layers.layer_of(image)
        if layer is not None:
            self._paths[image] = source_path(layer)

    def _keep(self, store: Store, image: DocumentImage, source: ImageSource | None) -> None:
        is_current = self._document.store is store and image.id in self._document.images
        if source is not None and is_current and image.info.source is None:
            self._document.do(LocateImage(image.id, source))

    def keep_pixels(self) -> None:
        """Look at all images again whose pixels no file is known to hold; returns at once."""
        self._kept.clear()
        self._soon.start()

    # --- what was saved ---------------------------------------------------------------

    def _tell_saved(self) -> None:
        self._relay.saved.emit()  # in any thread; Qt carries it over

    def _saved(self) -> None:
        store = self._document.store
        if store.path is None:
            return
        self.time = datetime.now().astimezone().strftime("%H:%M:%S")
        self._idle.start()
        if store.slow_commits == _SLOW_COMMITS:
            store.slow_commits += 1  # told
            show_warning(
                f"Saving to {store.path.parent} is slow, so each action takes a moment: keep "
                "the project on another disk (Save project as…)"
            )
        self.events.saved.emit()

    def _opened(self) -> None:
        self.time = ""
        self._paths.clear()
        self.start()
        self.keep_pixels()

    def _tidy(self) -> None:
        store = self._document.store
        if store.path is not None:
            run(store.checkpoint, on_error=lambda _: None, group=self._workers)


def source_path(layer: Image) -> Path | None:
    """Return the file that a layer was read from, None if there is none."""
    path = layer.metadata.get(PATH) or layer.source.path
    return Path(path) if path else None


def _discard(spare: Store) -> None:
    """Delete a project that nothing was written to."""
    spare.close()
    if spare.path is not None:
        try:
            delete_automatic(spare.path)
        except ProjectError:  # the next start removes it
            return


def _timer(milliseconds: int, slot: Callable[[], None]) -> QTimer:
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    timer.timeout.connect(slot)
    return timer
