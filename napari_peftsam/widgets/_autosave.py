"""Saving of all that a viewer does, in a project without a name until the user names it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

from napari.utils.notifications import show_warning
from psygnal import Signal
from qtpy.QtCore import QObject
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]

from napari_peftsam.document import (
    DocumentImage,
    ImageId,
    ImageSource,
    LocateImage,
    Store,
    create_automatic,
)
from napari_peftsam.errors import PeftSamError, ProjectError
from napari_peftsam.widgets._parts import timer
from napari_peftsam.widgets._runner import Worker, notify, run

if TYPE_CHECKING:
    from napari_peftsam.widgets.session import ViewerSession

__all__ = ["PATH", "Autosave"]

PATH = "napari-peftsam path"
"""Key in a layer's metadata under which our own readers note the file."""
_IDLE = 2000  # ms without an action: time to tidy the project file
_SLOW_COMMITS = 3  # one alone may have waited for another program


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
    time
        Local time at which the last action was saved, ``HH:MM:SS``; empty before.
    """

    saved = Signal()
    """An action was saved in a file; emitted in the GUI thread."""

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self._document, self._workers = owner.document, owner.workers
        self.time = ""
        self._keeping: Worker[Any] | None = None
        self._is_failure_shown = False
        self._kept: set[tuple[ImageId, bool]] = set()  # images that were looked at
        self._paths: dict[ImageId, Path | None] = {}
        self._relay = _Relay()
        self._relay.saved.connect(self._saved)
        self._soon, self._idle = timer(self._relay, 0), timer(self._relay, _IDLE)
        self._soon.timeout.connect(self._keep_next)
        self._idle.timeout.connect(self._tidy)
        for signal, slot in self._connections():
            signal.connect(slot, max_args=0)

    def _connections(self) -> tuple[tuple[Any, Callable[..., None]], ...]:
        events = self._document.events
        return (
            (events.history_changed, self.begin),
            (events.saved, self._relay_saved),
            (events.opened, self._opened),
            (events.image_added, self._soon.start),
            (events.pixels_changed, self.keep_pixels),
        )

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
                notify(error)
            return
        self._is_failure_shown = False
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
        self.begin()
        self._kept.clear()
        store = self._document.store
        if store.path is not None:
            for image in self._without_source():
                with suppress(PeftSamError):  # too large, which was shown
                    self._keep(store, image, self._source_of(store, image)())
            store.close()

    # --- pixels -----------------------------------------------------------------------

    def keep_pixels(self) -> None:
        """Look at all images again whose pixels no file is known to hold; returns at once."""
        self._kept.clear()
        self._soon.start()

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

        def ended() -> None:
            self._keeping = None
            self._soon.start()

        def done(source: ImageSource | None) -> None:
            try:
                self._keep(store, image, source)
            except PeftSamError as error:
                notify(error)
            ended()

        def failed(error: Exception) -> None:
            if store is self._document.store:
                text = f"{image.name} is not kept in the project, {error}"
                notify(ProjectError(text) if isinstance(error, PeftSamError) else error)
            ended()

        work, group = self._source_of(store, image), self._workers
        self._keeping = run(work, on_result=done, on_error=failed, group=group)

    def _source_of(self, store: Store, image: DocumentImage) -> Callable[[], ImageSource | None]:
        path, pixels, rgb = self._paths.get(image.id), image.pixels, image.rgb

        def find() -> ImageSource | None:
            from napari_peftsam.projects import keep_pixels

            return keep_pixels(store, pixels, rgb, path)

        return find

    def _note_path(self, image: ImageId) -> None:
        """Note the file that the layer of an image was read from, if there is one."""
        owner = self._owner()
        layer = None if owner is None else owner.layers.layer_of(image)
        if layer is not None:
            path = layer.metadata.get(PATH) or layer.source.path
            self._paths[image] = Path(path) if path else None

    def _keep(self, store: Store, image: DocumentImage, source: ImageSource | None) -> None:
        is_current = self._document.store is store and image.id in self._document.images
        if source is not None and is_current and image.info.source is None:
            self._document.do(LocateImage(image.id, source))

    # --- what was saved ---------------------------------------------------------------

    def _relay_saved(self) -> None:
        self._relay.saved.emit()  # in any thread; Qt carries it over

    def _saved(self) -> None:
        store = self._document.store
        if store.path is None:
            return
        self.time = datetime.now().astimezone().strftime("%H:%M:%S")
        self._idle.start()
        if store.slow_commits == _SLOW_COMMITS:
            store.slow_commits += 1  # shown
            show_warning(
                f"Saving to {store.path.parent} is slow, so each action takes a moment: keep "
                "the project on another disk (Save project as…)"
            )
        self.saved.emit()

    def _opened(self) -> None:
        self.time = ""
        self._paths.clear()
        self.keep_pixels()

    def _tidy(self) -> None:
        store = self._document.store
        if store.path is not None:
            run(store.checkpoint, on_error=lambda _: None, group=self._workers)
