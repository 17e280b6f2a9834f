"""Ctrl-C as a request to end well; a second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ._console import say

__all__ = ["graceful_interrupt"]


@contextmanager
def graceful_interrupt(message: str) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, saying `message`; the second one raises."""
    asked = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        say(f"\n{message} (Ctrl-C again: at once)")

    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals belong to the main thread
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
