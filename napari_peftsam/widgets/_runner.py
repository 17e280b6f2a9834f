"""Threads of the viewer, for generators of events and single calls.

Own threads instead of `superqt.utils.create_worker`: that one takes every RuntimeError
for "widget deleted" and falls silent (running out of GPU memory is a RuntimeError),
leaves a stopped generator open, and shares a pool of as many threads as there are
cores, in which a click would wait for a finetuning run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, TypeVar

from napari.utils.notifications import show_error
from qtpy.QtCore import QCoreApplication, QObject
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]

from napari_peftsam.app.runner import call
from napari_peftsam.errors import PeftSamError

_log = logging.getLogger(__name__)

E = TypeVar("E")
R = TypeVar("R")


class _Relay(QObject):
    """Carries messages from the thread to the GUI thread, in order."""

    message = QtSignal(object, object)


class Worker:
    """One generator being run in a thread; see `ThreadRunner.start`."""

    def __init__(
        self,
        work: Callable[[], Iterator[Any]] | Iterator[Any],
        on_event: Callable[[Any], object],
        on_error: Callable[[Exception], object],
        on_done: Callable[[Any], object] | None,
        group: set[Worker],
    ) -> None:
        self._work = work
        self._on_event, self._on_error, self._on_done = on_event, on_error, on_done
        self._group = group
        self._stop = threading.Event()
        self._report: Any = None
        self._relay = _Relay()
        application = QCoreApplication.instance()
        if application is not None and self._relay.thread() is not application.thread():
            raise RuntimeError("workers are started in the GUI thread")
        self._relay.message.connect(self._receive)
        self._thread = threading.Thread(target=self._run, name="napari-peftsam", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        _unfinished.add(self)
        self._group.add(self)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """True while the thread works, be it on its way to a stop."""
        return self._thread.is_alive()

    @property
    def is_stopped(self) -> bool:
        """True once `cancel` was called."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """Ask for an end after the present event; none of the callbacks is called again."""
        self._stop.set()

    def wait(self, timeout: float) -> bool:
        """Block for at most `timeout` seconds; return True if the thread has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # --- in the thread ---------------------------------------------------------------

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._iterate()
        except Exception as caught:  # noqa: BLE001  # reported in the GUI thread
            error = caught
        self._send(error, True)

    def _iterate(self) -> None:
        if self._stop.is_set():
            return
        events = self._work() if callable(self._work) else self._work
        try:
            while not self._stop.is_set():
                self._send(next(events), False)
        except StopIteration as end:
            self._report = end.value
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()

    def _send(self, message: Any, last: bool) -> None:
        try:
            self._relay.message.emit(message, last)
        except RuntimeError:  # Qt was shut down under a thread that was too slow to stop
            _log.debug("no GUI is left to tell", exc_info=True)

    # --- in the GUI thread -----------------------------------------------------------

    def _receive(self, message: Any, last: bool) -> None:
        if last:
            _unfinished.discard(self)
            self._group.discard(self)
        if self.is_stopped:
            if isinstance(message, Exception):
                _log.debug("a stopped worker failed", exc_info=message)
        elif not last:
            self._on_event(message)
        elif message is not None:
            self._on_error(message)
        elif self._on_done is not None:
            self._on_done(self._report)


# Keeps workers (and thereby the Qt objects their messages wait for) until the last
# message has arrived, even if their starter has let go of them.
_unfinished: set[Worker] = set()


class ThreadRunner:
    """Runs work in threads that are stopped together; a `napari_peftsam.app.runner.Runner`."""

    def __init__(self) -> None:
        self._workers: set[Worker] = set()
        self._is_closed = False

    def __len__(self) -> int:
        """Return the number of running threads."""
        return sum(worker.is_running for worker in self._workers)

    def start(
        self,
        work: Callable[[], Iterator[E]] | Iterator[E],
        *,
        on_event: Callable[[E], object] | None = None,
        on_done: Callable[[Any], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> Worker:
        """Start a thread; the callbacks are called in the GUI thread, see `Runner.start`.

        None of them is called after `Worker.cancel`. Errors go to `notify` by default.
        """
        worker = Worker(
            work, on_event or (lambda _: None), on_error or notify, on_done, self._workers
        )
        if self._is_closed:
            worker.cancel()
        worker.start()
        return worker

    def run(
        self,
        function: Callable[[], R],
        *,
        on_result: Callable[[R], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> Worker:
        """Call a function in a thread of its own; callbacks as in `start`."""
        return self.start(call(function), on_done=on_result, on_error=on_error)

    def close(self, timeout: float = 5.0) -> bool:
        """Stop all threads, and those that are started later; as `stop`."""
        self._is_closed = True
        return self.stop(timeout)

    def stop(self, timeout: float = 5.0) -> bool:
        """Stop all and wait for at most `timeout` seconds; return True if all have ended."""
        workers = tuple(self._workers)
        for worker in workers:
            worker.cancel()
        deadline = monotonic() + timeout
        for worker in workers:
            worker.wait(max(0.0, deadline - monotonic()))
        return not any(worker.is_running for worker in workers)


def notify(error: Exception) -> None:
    """Show an error to the user as one line; an unexpected one goes to the log in full."""
    if isinstance(error, PeftSamError):
        show_error(str(error))
        return
    _log.error("unexpected error", exc_info=error)
    show_error(f"{type(error).__name__}: {error}")
