"""Finetuning in a child process, seen from the viewer: a job goes in, events come out.

In a thread of the viewer's process training is slower and prompts wait longer, since both
need Python's interpreter lock; ``tests/benchmarks/event_loop_latency.py`` measures it.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING

from napari_peftsam.errors import PeftSamError, TrainingError

if TYPE_CHECKING:
    from napari_peftsam.app.jobs import TrainingJob
    from napari_peftsam.training import TrainEvent

__all__ = ["TrainingProcess"]

# The child imports from where the viewer does, and from nowhere else: ``-m`` would put
# the working directory first, where a user's own `random.py` might lie.
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from napari_peftsam.app.jobs import main; main()"
_GRACE_SECONDS = 2.0  # between asking a child to end and making it end
_EXIT_SECONDS = 30.0  # for a child that ends by itself; a busy machine takes its time
_NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows opens a console else
_TAIL_BYTES = 8192


class TrainingProcess:
    """One finetuning run in a child process.

    Iterate `events` in a worker thread; the other methods may be called from any thread,
    at any time, more than once, and return at once.

    Parameters
    ----------
    prepare
        Returns what to train; called in the thread of `events`. See
        `napari_peftsam.app.Workspace.prepare_training`.
    """

    def __init__(self, prepare: Callable[[], TrainingJob]) -> None:
        self._prepare: Callable[[], TrainingJob] | None = prepare
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._commands: IO[bytes] | None = None  # the child's stdin while it may be closed
        self._stopping = False
        self._cancelled = False

    @property
    def pid(self) -> int | None:
        """The child's process id, None before it is started."""
        return None if self._child is None else self._child.pid

    def stop(self) -> None:
        """Ask for an early end: the child validates once more and sends its result."""
        with self._lock:
            self._stopping = True
            self._close_commands()

    def cancel(self) -> None:
        """End the child without a result; `events` then ends without an error."""
        with self._lock:
            self._cancelled = True
            if self._child is not None:
                self._child.terminate()  # does nothing if it has ended

    def pause(self) -> None:
        """Ask the child to leave the processor to this process, for some seconds at most."""
        from napari_peftsam.app.jobs import PAUSE

        self._command(PAUSE)

    def go_on(self) -> None:
        """End a pause."""
        from napari_peftsam.app.jobs import GO_ON

        self._command(GO_ON)

    def _command(self, command: bytes) -> None:
        with self._lock:
            if self._commands is not None and not self._commands.closed:
                with suppress(BrokenPipeError, OSError):
                    self._commands.write(command)
                    self._commands.flush()

    def events(self) -> Iterator[TrainEvent]:
        """Start the child and yield its events; once only.

        Closing the generator ends the child: at once, or by force after two seconds.

        Raises
        ------
        PeftSamError
            Whatever `prepare` or the child raised; `TrainingError` if the child died without
            a result.
        """
        assert self._prepare is not None
        job, self._prepare = self._prepare(), None
        with tempfile.TemporaryFile() as log:
            child = self._start(log)
            if child is None:
                return
            try:
                self._send(job, child)
                del job  # it holds model and images
                ended = False
                for event in _answers(child):
                    yield event
                    ended = type(event).__name__ == "TrainingFinished"
                if not ended and not self._cancelled:
                    raise _death(_reap(child, _EXIT_SECONDS), log)
            finally:
                self._end(child)

    def _start(self, log: IO[bytes]) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._cancelled:
                return None
            self._child = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,  # a file never fills up, and needs no thread that empties it
                creationflags=_NO_WINDOW,
                start_new_session=True,  # Ctrl-C in the terminal is not meant for it
            )
            return self._child

    def _send(self, job: TrainingJob, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        # A child that died already is noticed when its answers end.
        with suppress(BrokenPipeError, OSError):
            pickle.dump(job, child.stdin, pickle.HIGHEST_PROTOCOL)
            child.stdin.flush()
        with self._lock:
            self._commands = child.stdin
            if self._stopping:
                self._close_commands()

    def _close_commands(self) -> None:
        if self._commands is not None:
            with suppress(BrokenPipeError, OSError):
                self._commands.close()

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        _reap(child)
        assert child.stdout is not None
        child.stdout.close()
        with self._lock, suppress(BrokenPipeError, OSError):
            assert child.stdin is not None
            child.stdin.close()


def _answers(child: subprocess.Popen[bytes]) -> Iterator[TrainEvent]:
    """Yield what the child sends until its output ends; raise what it raised."""
    assert child.stdout is not None
    while True:
        try:
            message = pickle.load(child.stdout)
        except (EOFError, pickle.UnpicklingError):  # it ended, or died within a message
            return
        if isinstance(message, PeftSamError):
            raise message
        yield message


def _reap(child: subprocess.Popen[bytes], seconds: float = _GRACE_SECONDS) -> int:
    """Wait for a child that is about to end, by force if it does not; return its status."""
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _death(status: int, log: IO[bytes]) -> TrainingError:
    log.seek(0, 2)
    log.seek(max(0, log.tell() - _TAIL_BYTES))
    lines = log.read().decode(errors="replace").strip().splitlines()
    said = f" ({lines[-1].strip()})" if lines else ""
    if status == -getattr(signal, "SIGKILL", 9):
        cause = (
            "was killed, most often because memory ran out: close other programs, or place "
            "the adapter in fewer blocks such as late-25%"
        )
    elif status < 0:
        cause = f"was ended by signal {-status}: start it again"
    else:
        cause = f"ended with status {status} and no result: start it again"
    return TrainingError(f"the training process {cause}{said}")
