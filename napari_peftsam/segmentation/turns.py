"""A lock for the network that serves the user's prompts first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock with two priorities.

    A plain lock is not fair: a thread that releases and takes it again at once, as an
    encoding does between two blocks, often wins against a waiting thread. Here no patient
    thread gets a turn while an urgent one waits. Not reentrant.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = False
        self._urgent = 0

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Take the next turn."""
        with self._changed:
            self._urgent += 1
            try:
                self._changed.wait_for(lambda: not self._taken)
            finally:
                self._urgent -= 1
            self._taken = True
        try:
            yield
        finally:
            self._let_go()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Take a turn when nobody urgent wants one."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken and not self._urgent)
            self._taken = True
        try:
            yield
        finally:
            self._let_go()

    def _let_go(self) -> None:
        with self._changed:
            self._taken = False
            self._changed.notify_all()
