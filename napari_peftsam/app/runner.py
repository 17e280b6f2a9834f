"""Runners of long work, so that controllers need not know about threads.

Long work is a generator that yields events and returns its report. A controller hands it to
a runner together with callbacks; the docks run it in a thread, scripts and tests inline.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeVar

E = TypeVar("E")
R = TypeVar("R")

Work = Generator[E, None, R] | Callable[[], Generator[E, None, R]]
"""A generator, or a function that returns one and is called where the generator runs."""


def call(function: Callable[[], R]) -> Generator[Any, None, R]:
    """Call a function as work that emits no events and reports what it returns."""
    yield from ()
    return function()


class Task(Protocol):
    """Work that a runner has started."""

    @property
    def is_running(self) -> bool:
        """True until the work has ended."""

    def cancel(self) -> None:
        """Ask the work to end after its present event; no callback is called afterwards."""

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds; return True if the work has ended."""


class Runner(Protocol):
    """A way to run generators of events."""

    def start(
        self,
        work: Work[E, R],
        *,
        on_event: Callable[[E], object] | None = None,
        on_done: Callable[[R], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> Task:
        """Start work; call the callbacks in the thread that called this.

        Parameters
        ----------
        work
            What to run. It is closed in any case.
        on_event
            Called with each event, in order.
        on_done
            Called with the report that the generator returns.
        on_error
            Called with the exception if the work fails; by default the runner reports it.
        """


class InlineRunner:
    """Runs work to its end before `start` returns; for scripts, the command line and tests."""

    def start(
        self,
        work: Work[E, R],
        *,
        on_event: Callable[[E], object] | None = None,
        on_done: Callable[[R], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> Task:
        """Run work to its end; without `on_error` its exception is raised here."""
        try:
            report = run(work, on_event)
        except Exception as error:
            if on_error is None:
                raise
            on_error(error)
        else:
            if on_done is not None:
                on_done(report)
        return _ENDED


def run(work: Work[E, R], on_event: Callable[[E], object] | None = None) -> R:
    """Run work to its end here and return its report.

    An exception of `on_event` is raised in the work, which may yet save what it has.
    """
    generator = work() if callable(work) else work
    try:
        event = next(generator)
        while True:
            try:
                if on_event is not None:
                    on_event(event)
            except Exception as error:  # noqa: BLE001 - thrown into the work
                event = generator.throw(error)
            else:
                event = next(generator)
    except StopIteration as end:
        report: R = end.value
        return report
    finally:
        generator.close()


class Slot:
    """Room for one task at a time; a runner may also end it before `start` returns."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._task: Task | None = None
        self._number = 0  # of the latest task, so that earlier ones are not heard
        self.is_busy = False

    def start(
        self,
        work: Generator[Any, None, Any],
        *,
        on_event: Callable[[Any], object] = lambda _: None,
        on_done: Callable[[Any], object],
        on_error: Callable[[Exception], object],
    ) -> None:
        """Start work in place of the present task; callbacks as of `Runner.start`."""
        self.stop()
        number = self._number

        def heard(callback: Callable[[Any], object], is_last: bool) -> Callable[[Any], None]:
            def call(value: Any) -> None:
                if number == self._number:
                    self.is_busy = not is_last
                    callback(value)

            return call

        self.is_busy = True
        task = self._runner.start(
            work,
            on_event=heard(on_event, False),
            on_done=heard(on_done, True),
            on_error=heard(on_error, True),
        )
        if number == self._number and self.is_busy:
            self._task = task

    def stop(self, patience: float = 0.0) -> None:
        """Cancel the task, if there is one, and wait at most `patience` seconds for its end."""
        self._number += 1
        if self._task is not None:
            self._task.cancel()
            self._task.wait(patience)
        self.is_busy, self._task = False, None


class _EndedTask:
    is_running = False

    def cancel(self) -> None:
        """Do nothing: there is nothing left to cancel."""

    def wait(self, timeout: float) -> bool:
        """Return True: it ended before `start` returned."""
        return True


_ENDED = _EndedTask()
