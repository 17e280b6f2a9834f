"""Ctrl-C as a request to end well; a second one ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from ._console import INTERRUPTED

__all__ = ["graceful_interrupt", "sure_interrupt"]

_PATIENCE = 1.0  # seconds for cleaning up
_STANDARD_ERROR = 2


@contextmanager
def graceful_interrupt(message: str) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, saying `message`; the second one raises."""
    asked = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        # Not through `sys.stderr`: it refuses to be entered again if a signal comes amid a print.
        with suppress(OSError):
            os.write(_STANDARD_ERROR, f"\n{message} (Ctrl-C again: at once)\n".encode())

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals belong to the main thread
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def sure_interrupt() -> None:
    """Make Ctrl-C end the program even where `KeyboardInterrupt` gets lost.

    Libraries swallow it while they are being imported. If the program has not ended a
    moment later, it is ended.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        last_resort = threading.Timer(_PATIENCE, os._exit, (INTERRUPTED,))
        last_resort.daemon = True
        last_resort.start()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handle)
