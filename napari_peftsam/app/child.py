"""Finetuning in a child process: a job goes in, events come out, and then the report.

A child may be started before there is a job, see `Child`. It reads one pickled `TrainingJob`
from its standard input and writes pickled messages to its standard output. A process that is
started this way, and not through `multiprocessing`, never runs the user's own script again. After
the job, every byte is a command: `PAUSE` or `GO_ON`. The parent asks for an early end by closing
the child's standard input.

In a thread of the viewer's process training is slower and prompts wait longer, since both
need Python's interpreter lock; ``tests/benchmarks/event_loop_latency.py`` measures it.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from napari_peftsam.app.runner import InlineRunner
from napari_peftsam.errors import PeftSamError, TrainingError

if TYPE_CHECKING:
    from napari_peftsam.app.finetuning import TrainingJob
    from napari_peftsam.training import StepProgress, TrainEvent, TrainingReport

PAUSE, GO_ON = b"p", b"g"
"""Commands to the child: leave the processor to the viewer for a moment, and no longer."""
LONGEST_PAUSE = 5.0
"""Seconds after which a pause ends by itself: a forgotten one must not stop the training."""

# The child imports from where the viewer does, and from nowhere else: ``-m`` would put
# the working directory first, where a user's own `random.py` might lie.
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from napari_peftsam.app.child import main; main()"
_GRACE_SECONDS = 2.0  # between asking a child to end and making it end
_EXIT_SECONDS = 30.0  # for a child that ends by itself; a busy machine takes its time
_NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows opens a console else
_TAIL_BYTES = 8192
_PROGRESS_SECONDS = 1.0  # between two events from inside the first step
_NICENESS = 5  # below the viewer's own work, so that it stays responsive on few cores


@dataclass(frozen=True, eq=False)
class Child:
    """A process that waits for a job; meanwhile it imports what it needs for one."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    @classmethod
    def start(cls) -> Child:
        """Start one; takes milliseconds."""
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the child has ended
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,  # a file never fills up, and needs no thread that empties it
            creationflags=_NO_WINDOW,
            start_new_session=True,  # Ctrl-C in the terminal is not meant for it
        )
        return cls(process, log)

    def end(self) -> None:
        """End it, by force after two seconds."""
        self.process.terminate()  # does nothing if it has ended
        _reap(self.process)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


class TrainingProcess:
    """One finetuning run in a child process.

    Iterate `events` in a worker thread, where `prepare` is called. The other methods may be
    called from any thread, at any time, more than once, and return at once.

    Parameters
    ----------
    prepare
        Returns the job.
    child
        Does it, unless it has died; default: a new one.
    """

    def __init__(self, prepare: Callable[[], TrainingJob], child: Child | None = None) -> None:
        self._prepare: Callable[[], TrainingJob] | None = prepare
        self._ready = child
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
        self._command(PAUSE)

    def go_on(self) -> None:
        """End a pause."""
        self._command(GO_ON)

    def _command(self, command: bytes) -> None:
        with self._lock, suppress(OSError):  # of a child that has ended
            if self._commands is not None and not self._commands.closed:
                self._commands.write(command)
                self._commands.flush()

    def events(self) -> Generator[TrainEvent, None, TrainingReport | None]:
        """Start the child, yield its events and return its report; once only.

        A run that was cancelled has no report. Closing the generator ends the child: at once,
        or by force after two seconds.

        Raises
        ------
        PeftSamError
            An error of `prepare` or the child; `TrainingError` if the child died without a result.
        """
        assert self._prepare is not None
        prepare, self._prepare = self._prepare, None
        started = self._start()  # first: it imports while the job is prepared
        if started is None:
            return None
        child = started.process
        try:
            self._send(prepare(), child)
            while (answer := _answer(child)) is not None:
                message, is_report = answer
                if is_report:
                    report: TrainingReport = message
                    return report
                yield message
            if not self._cancelled:
                raise _death(_reap(child, _EXIT_SECONDS), started.log)
            return None
        finally:
            with self._lock:
                self._commands = None
            started.end()

    def _start(self) -> Child | None:
        with self._lock:
            child, self._ready = self._ready, None
            if child is not None and (self._cancelled or child.process.poll() is not None):
                child.end()
                child = None
            if self._cancelled:
                return None
            child = child or Child.start()
            self._child = child.process
            return child

    def _send(self, job: TrainingJob, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None
        # A child that died already is noticed when its answers end.
        with suppress(OSError):
            pickle.dump(job, child.stdin, pickle.HIGHEST_PROTOCOL)
            child.stdin.flush()
        with self._lock:
            self._commands = child.stdin
            if self._stopping:
                self._close_commands()

    def _close_commands(self) -> None:
        if self._commands is not None:
            with suppress(OSError):
                self._commands.close()


def _answer(child: subprocess.Popen[bytes]) -> tuple[Any, bool] | None:
    """Return an event or the report, and which it is; None at the end. Raise the child's error."""
    assert child.stdout is not None
    try:
        message, is_report = pickle.load(child.stdout)
    except (EOFError, pickle.UnpicklingError):  # it ended, or died within a message
        return None
    if isinstance(message, PeftSamError):
        raise message
    return message, is_report


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


# --- in the child -------------------------------------------------------------------


class Pauses:
    """Pauses in which one thread holds up another one.

    Parameters
    ----------
    longest
        Seconds that one pause takes at most; `begin` during a pause starts it anew.
    """

    def __init__(self, longest: float = LONGEST_PAUSE) -> None:
        self._longest = longest
        self._ends = 0.0
        self._going = threading.Event()
        self._going.set()

    def begin(self) -> None:
        """Begin a pause: calls of `wait` block from now on."""
        self._ends = monotonic() + self._longest
        self._going.clear()

    def end(self) -> None:
        """End the pause."""
        self._going.set()

    def wait(self) -> None:
        """Return at once or, during a pause, when it has ended."""
        while not self._going.is_set():
            if not self._going.wait(max(0.0, self._ends - monotonic())) and (
                monotonic() >= self._ends
            ):
                self._going.set()


def serve(commands: BinaryIO, answers: BinaryIO) -> None:
    """Run one job; see the module for what is read and written.

    Every answer is a pickled pair: an event, the report or an exception, and whether it is
    the report.
    """
    from napari_peftsam.app.finetuning import train

    _warm_up()
    try:
        job: TrainingJob = pickle.load(commands)
    except EOFError:  # nobody wants anything from it any more
        return
    stopping, pauses = threading.Event(), Pauses()

    def watch() -> None:
        while command := commands.read(1):  # empty when the parent closes its end
            if command == PAUSE:
                pauses.begin()
            elif command == GO_ON:
                pauses.end()
        stopping.set()
        pauses.end()

    threading.Thread(target=watch, daemon=True).start()

    def answer(message: object, is_report: bool = False) -> None:
        pickle.dump((message, is_report), answers)
        answers.flush()

    try:
        InlineRunner().start(
            train(job, stopping.is_set, pauses.wait, on_progress=_now_and_then(answer)),
            on_event=answer,
            on_done=lambda report: answer(report, True),
        )
    except PeftSamError as error:
        answer(error)
    except Exception as error:  # noqa: BLE001 - the parent must learn of it, whatever it is
        answer(TrainingError(f"training failed: {type(error).__name__}: {error}"))


def _now_and_then(answer: Callable[[StepProgress], None]) -> Callable[[StepProgress], None]:
    """Return a function that passes the first event on, and then at most one per second."""
    due = 0.0

    def progress(event: StepProgress) -> None:
        nonlocal due
        if monotonic() >= due:
            due = monotonic() + _PROGRESS_SECONDS
            answer(event)

    return progress


def _warm_up() -> None:
    """Import what a training needs: half of the seconds until its first step."""
    import torch
    import torchvision.ops  # noqa: F401

    import napari_peftsam.models
    import napari_peftsam.training  # noqa: F401

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # the first one imports a compiler


def _give_way() -> None:
    """Let the viewer's process have a core first whenever it wants one.

    One core is left to it altogether: torch's threads wait for the slowest of them, so
    that a viewer busy on one of two cores would slow two threads down twentyfold.
    """
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    # Linux shares cores among sessions before it looks at processes, and this is a session.
    autogroup = Path("/proc/self/autogroup")
    with suppress(OSError):
        autogroup.write_text(str(_NICENESS))
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))


def main() -> None:
    """Serve one job on standard input and output."""
    _give_way()
    # Libraries that print must not write between the events.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)
