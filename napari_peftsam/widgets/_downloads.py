"""The downloads of models; they belong to the program, as the files they bring do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import cache, partial
from typing import TYPE_CHECKING

from napari.utils.notifications import show_info
from psygnal import Signal

from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._runner import ThreadRunner, notify
from napari_peftsam.widgets._settings import use_preferred_model_folder

if TYPE_CHECKING:
    from napari_peftsam.models import DownloadProgress, ModelEntry


class Downloads:
    """Fetches models in threads, several at once; GUI thread only.

    They go on while docks and viewers close; the threads end with the program, and the
    next download goes on from what they leave.

    Attributes
    ----------
    progress
        What is under way, by name; None until the server has answered.
    failures
        Why the last attempt of a model failed, by name.
    """

    changed = Signal(str)
    """The model of this name began or ended to come, or more of it is here."""
    arrived = Signal(str)
    """The model of this name is on this computer now."""

    def __init__(self) -> None:
        self.progress: dict[str, DownloadProgress | None] = {}
        self.failures: dict[str, str] = {}
        self._runner = ThreadRunner()
        self._stopping: set[str] = set()

    def is_stopping(self, name: str) -> bool:
        """Return True while a stopped download waits for its server."""
        return name in self._stopping

    def start(self, entry: ModelEntry) -> None:
        """Begin to download a model, or go on with it; nothing if it is coming."""
        name = entry.name
        if name in self.progress or name in self._stopping:
            return
        from napari_peftsam.models import download

        use_preferred_model_folder()
        self.failures.pop(name, None)
        self.progress[name] = None

        def events() -> Iterator[DownloadProgress]:
            with closing(download(entry)) as received:
                for event in received:
                    if name in self._stopping:
                        return
                    yield event

        self._runner.start(
            events,
            on_event=partial(self._received, name),
            on_error=partial(self._failed, name),
            on_done=partial(self._finished, name),
        )
        self.changed.emit(name)

    def stop(self, name: str) -> None:
        """Stop a download; what has come is kept, and the next one goes on from there.

        The thread may have to wait for its server first: until it has ended the model is
        neither coming nor can it be fetched again.
        """
        if name in self.progress:
            self._stopping.add(name)
            del self.progress[name]
            self.changed.emit(name)

    def stop_all(self, timeout: float) -> bool:
        """Stop all downloads; return whether they have ended within `timeout` seconds."""
        for name in tuple(self.progress):
            self.stop(name)
        return self._runner.stop(timeout)

    def _received(self, name: str, event: DownloadProgress) -> None:
        if name in self.progress:
            self.progress[name] = event
            self.changed.emit(name)

    def _failed(self, name: str, error: Exception) -> None:
        if self._ended(name):
            return
        expected = isinstance(error, PeftSamError)
        self.failures[name] = str(error) if expected else f"{type(error).__name__}: {error}"
        self.changed.emit(name)
        notify(error)

    def _finished(self, name: str, _: object) -> None:
        if not self._ended(name):
            self.arrived.emit(name)
            show_info(f"{name} is on this computer now")

    def _ended(self, name: str) -> bool:
        """Note that a thread has ended; return whether it was stopped."""
        was_stopped = name in self._stopping
        self._stopping.discard(name)
        self.progress.pop(name, None)
        self.changed.emit(name)
        return was_stopped


@cache
def downloads() -> Downloads:
    """Return the program's downloads."""
    return Downloads()
