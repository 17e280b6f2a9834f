"""Many independent tasks on worker processes, here or on other machines, through dask."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from napari_peftsam.errors import ClusterError, PeftSamError

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Outcome", "Place", "Work", "Workers", "reason_of"]

_DEADLY = (
    "the workers that computed it died, the last time with nothing else to do, perhaps for want of "
    "memory: use a smaller image or model"
)
_POLL = 0.2  # seconds between two looks at whether to stop

ResultT = TypeVar("ResultT")
ContextT = TypeVar("ContextT")

_turn = threading.Lock()


@dataclass(frozen=True)
class Place:
    """A process that computes tasks, and what it may use of its computer.

    Attributes
    ----------
    number
        Which of the local workers it is, from 0; None for other processes.
    threads
        How many it may use; None if that is the business of those who started it.
    """

    number: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Work(Generic[ContextT, ResultT]):
    """What to do with each of many tasks; sent to the workers, hence picklable.

    Attributes
    ----------
    prepare
        Called before every task in the process that computes it, with its `Place`; returns
        what tasks share, such as a model, and keeps it for its next call. Its errors end
        all tasks.
    function
        Called with what `prepare` returned and the task's own arguments. A `PeftSamError`,
        or what the operating system refuses, is this task's outcome and leaves the others
        alone.
    """

    prepare: Callable[[Place], ContextT]
    function: Callable[..., ResultT]

    def attempt(self, task: Sequence[Any], place: Place) -> Any:
        """Return the result of one task, or the error that it ended with."""
        with _turn:  # remote workers may have several threads, but there is one model
            context = self.prepare(place)
            try:
                return self.function(context, *task)
            except PeftSamError as error:
                return error
            except OSError as error:  # such as a full disk
                return PeftSamError(reason_of(error))


@dataclass(frozen=True)
class Outcome(Generic[ResultT]):
    """What became of task number `index`: its result, or the error that it ended with."""

    index: int
    result: ResultT | None = None
    error: PeftSamError | None = None


class Workers:
    """Processes that compute tasks, or this one; see `napari_peftsam.workers.open_workers`."""

    def __init__(self, client: Client | None, threads: int | None = None) -> None:
        self._client, self._threads = client, threads

    def run(
        self,
        work: Work[Any, ResultT],
        tasks: Sequence[Sequence[Any]],
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Outcome[ResultT]]:
        """Compute tasks and yield their outcomes as they come.

        A task whose worker died is computed again by another one; a local worker that died
        is started again. A task at which workers die again and again has a `ClusterError`
        as its outcome.

        Parameters
        ----------
        work
            What to do with each task.
        tasks
            The arguments of each.
        stop
            Asked several times per second (in this process: between tasks); True ends the
            iteration early, as closing it does. Tasks that have begun are then abandoned.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or its workers do not have this program.
        PeftSamError
            Whatever `work.prepare` raises.
        """
        if self._client is not None:
            yield from _outcomes(self._client, work, tasks, self._threads, stop)
            return
        for index, task in enumerate(tasks):
            if stop():
                return
            yield _outcome(index, work.attempt(task, Place()))


def _outcome(index: int, answer: Any) -> Outcome[Any]:
    if isinstance(answer, PeftSamError):
        return Outcome(index, error=answer)
    return Outcome(index, result=answer)


def _outcomes(
    client: Client,
    work: Work[Any, Any],
    tasks: Sequence[Sequence[Any]],
    threads: int | None,
    stop: Callable[[], bool],
) -> Iterator[Outcome[Any]]:
    from distributed import CancelledError, KilledWorker

    running: dict[Future[Any], int] = {}
    order = _Order(len(tasks))
    try:
        while not stop():
            for index in order.take(len(running), _slots(client)):
                answer = client.submit(_attempt, work, tasks[index], threads, pure=False)
                running[answer] = index
            if not running:
                return
            for future in _finished(running):
                index = running.pop(future)
                try:
                    yield _outcome(index, _answer(future))
                except KilledWorker:
                    if order.suspect(index):
                        yield Outcome(index, error=ClusterError(_DEADLY))
    except (OSError, CancelledError) as error:
        raise ClusterError(
            f"the connection to the scheduler was lost ({reason_of(error)}): what is finished is "
            "kept, start again to go on"
        ) from error
    finally:
        client.cancel(list(running))


class _Order:
    """Which tasks are next: no more than workers can compute at once.

    dask holds a worker's death against all tasks that it was given, not only against the
    one that it died of. So those under suspicion are computed again alone.
    """

    def __init__(self, tasks: int) -> None:
        self._waiting = deque(range(tasks))
        self._suspects: deque[int] = deque()
        self._seen: set[int] = set()

    def take(self, running: int, slots: int) -> list[int]:
        """Return the tasks to begin now."""
        if self._waiting:
            free = max(0, slots - running)
            return [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        return [self._suspects.popleft()] if self._suspects and not running else []

    def suspect(self, task: int) -> bool:
        """Note that workers died while they had a task; return whether it is proven now."""
        if task in self._seen:
            return True
        self._seen.add(task)
        self._suspects.append(task)
        return False


def _slots(client: Client) -> int:
    # While a local cluster replaces its only worker, one task waits for it.
    threads: dict[str, int] = client.nthreads()
    return max(1, sum(threads.values()))


def _finished(running: dict[Future[Any], int]) -> list[Future[Any]]:
    """Return what has finished, after waiting for a moment at most."""
    from distributed import wait

    try:
        return list(wait(list(running), timeout=_POLL, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def _answer(future: Future[Any]) -> Any:
    """Return a task's result; raise what ends them all."""
    try:
        return future.result()
    except ImportError as error:
        raise ClusterError(
            f"a worker cannot import what it needs ({reason_of(error)}): install the same version "
            "of napari-peftsam for all workers"
        ) from error


def _attempt(work: Work[Any, Any], task: Sequence[Any], threads: int | None) -> Any:
    """Run in a worker."""
    from distributed import get_worker

    number = None if threads is None else int(get_worker().name)
    return work.attempt(task, Place(number, threads))


def reason_of(error: BaseException) -> str:
    """Return an error's message in one line, its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
