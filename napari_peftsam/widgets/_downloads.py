"""The downloads of one viewer; they go on while the dock that shows them is closed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from napari.utils.notifications import show_info
from psygnal import Signal, SignalGroup

from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._session import ViewerSession
from napari_peftsam.widgets._worker import Worker, notify, start

if TYPE_CHECKING:
    from napari_peftsam.models import DownloadEvent, DownloadProgress, ModelEntry

__all__ = ["DownloadSignals", "Downloads", "downloads_of"]


class DownloadSignals(SignalGroup):
    """Signals of `Downloads`; always emitted in the GUI thread."""

    changed = Signal(str)
    """The model of this name began or ended to come, or more of it is here."""


class Downloads:
    """Fetches models in threads, several at once; GUI thread only.

    Attributes
    ----------
    progress
        What is under way, by name; None until the server has answered.
    failures
        Why the last attempt of a model failed, by name.
    """

    def __init__(self, owner: ViewerSession) -> None:
        self._owner = ref(owner)
        self.signals = DownloadSignals()
        self.progress: dict[str, DownloadProgress | None] = {}
        self.failures: dict[str, str] = {}
        self._workers: dict[str, Worker[Any]] = {}

    def start(self, entry: ModelEntry) -> None:
        """Begin to download a model, or go on with it; nothing if it is coming."""
        owner = self._owner()
        if owner is None or owner.is_closed or entry.name in self.progress:
            return
        from napari_peftsam.models import download

        name = entry.name
        self.failures.pop(name, None)
        self.progress[name] = None
        self._workers[name] = start(
            lambda: download(entry),
            on_event=partial(self._received, name),
            on_error=partial(self._failed, name),
            on_done=partial(self._finished, name),
            group=owner.workers,
        )
        self.signals.changed.emit(name)

    def stop(self, name: str) -> None:
        """Stop a download; what has come is kept, and the next one goes on from there."""
        if name in self.progress:
            self._workers[name].stop()
            self._ended(name)

    def _received(self, name: str, event: DownloadEvent) -> None:
        from napari_peftsam.models import DownloadProgress

        if isinstance(event, DownloadProgress):
            self.progress[name] = event
            self.signals.changed.emit(name)

    def _failed(self, name: str, error: Exception) -> None:
        expected = isinstance(error, PeftSamError)
        self.failures[name] = str(error) if expected else f"{type(error).__name__}: {error}"
        self._ended(name)
        notify(error)

    def _finished(self, name: str) -> None:
        self._ended(name)
        owner = self._owner()
        if owner is not None:
            owner.events.models_changed.emit()
        show_info(f"{name} is on this computer now")

    def _ended(self, name: str) -> None:
        del self.progress[name], self._workers[name]
        self.signals.changed.emit(name)


_downloads: WeakKeyDictionary[ViewerSession, Downloads] = WeakKeyDictionary()


def downloads_of(owner: ViewerSession) -> Downloads:
    """Return the viewer's downloads, making them at the first call."""
    if owner not in _downloads:
        _downloads[owner] = Downloads(owner)
    return _downloads[owner]
