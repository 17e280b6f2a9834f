"""Many independent tasks computed in this process or by dask's workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from napari_peftsam.errors import ClusterError, PeftSamError

if TYPE_CHECKING:
    from distributed import Client, Future

_DEADLY = (
    "the workers that computed it died, the last time with nothing else to do, perhaps for want of "
    "memory: use a smaller image or model"
)
_POLL = 0.2  # seconds between two looks at whether to stop

R = TypeVar("R")
Arguments = Sequence[Any]
Stop = Callable[[], bool]

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Worker:
    """A process that computes tasks, and its share of the computer.

    Attributes
    ----------
    number
        Number of a local worker, from 0; None for other processes.
    threads
        Upper limit of its threads; None leaves it as the worker was started.
    """

    number: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class TaskFunction(Generic[R]):
    """The function of many tasks; sent to the workers, hence picklable.

    Attributes
    ----------
    prepare
        Called before every task in the worker that computes it; returns what tasks share,
        such as a model, and keeps it for its next call. Its errors end all tasks.
    function
        Called with what `prepare` returned and the task's own arguments. A `PeftSamError`,
        or an error of the operating system, is this task's result and leaves the others
        alone.
    """

    prepare: Callable[[Worker], Any]
    function: Callable[..., R]

    def attempt(self, arguments: Arguments, worker: Worker) -> R | PeftSamError:
        """Return the result of one task, or the error that it ended with."""
        with _one_at_a_time:  # remote workers may have several threads, but there is one model
            shared = self.prepare(worker)
            try:
                return self.function(shared, *arguments)
            except PeftSamError as error:
                return error
            except OSError as error:  # such as a full disk
                return PeftSamError(reason_of(error))


@dataclass(frozen=True)
class Task:
    """Work on an image, or on a part of it, and its name for messages."""

    name: str
    arguments: Arguments
    image: str = ""


@dataclass(frozen=True)
class TaskDone(Generic[R]):
    """The end of one more task, `done` of `total`: its result, or its error."""

    task: Task
    done: int
    total: int
    result: R | None = None
    error: PeftSamError | None = None

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task.name


@dataclass(frozen=True)
class Workers:
    """Processes that compute tasks, see `napari_peftsam.batch.cluster.open_workers`.

    Attributes
    ----------
    client
        Client of dask; None computes in this process.
    threads
        Threads of each local worker; None for other workers.
    """

    client: Client | None
    threads: int | None = None

    def run(
        self, function: TaskFunction[R], tasks: Sequence[Task], stop: Stop = lambda: False
    ) -> Generator[TaskDone[R], None, list[TaskDone[R]]]:
        """Compute tasks; yield their results as they come, and return them all.

        A task whose worker died is computed again by another one; a local worker that died
        is started again. A task at which workers die repeatedly ends with a `ClusterError`.

        Parameters
        ----------
        stop
            Asked several times per second (in this process: between tasks); True ends the
            iteration early, as closing it does. Tasks that have begun are then abandoned.

        Raises
        ------
        ClusterError
            If the scheduler is lost, or its workers do not have this program.
        PeftSamError
            Raised by `function.prepare`.
        """
        answers: Generator[tuple[Task, Any]]
        if self.client is None:
            answers = _here(function, tasks, stop)
        else:
            answers = _on_cluster(self.client, function, tasks, self.threads, stop)
        done: list[TaskDone[R]] = []
        with closing(answers):
            for number, (task, answer) in enumerate(answers, start=1):
                failed = isinstance(answer, PeftSamError)
                result, error = (None, answer) if failed else (answer, None)
                done.append(TaskDone(task, number, len(tasks), result, error))
                yield done[-1]
        return done


def _here(
    function: TaskFunction[Any], tasks: Sequence[Task], stop: Stop
) -> Generator[tuple[Task, Any]]:
    for task in tasks:
        if stop():
            return
        yield task, function.attempt(task.arguments, Worker())


def _on_cluster(
    client: Client,
    function: TaskFunction[Any],
    tasks: Sequence[Task],
    threads: int | None,
    stop: Stop,
) -> Generator[tuple[Task, Any]]:
    """Give the workers no more tasks than they can compute at once.

    dask holds a worker's death against all tasks that the worker was given, not only against
    the one that it died of. Those under suspicion are computed again, alone.
    """
    from distributed import CancelledError, KilledWorker

    running: dict[Future[Any], int] = {}
    waiting, suspects = deque(range(len(tasks))), deque[int]()
    suspected: set[int] = set()
    try:
        while not stop():
            for index in _next_tasks(waiting, suspects, len(running), client):
                arguments = tasks[index].arguments
                answer = client.submit(_attempt, function, arguments, threads, pure=False)
                running[answer] = index
            if not running:
                return
            for future in _finished(running):
                index = running.pop(future)
                try:
                    yield tasks[index], _answer(future)
                except KilledWorker:
                    if index in suspected:
                        yield tasks[index], ClusterError(_DEADLY)
                    else:
                        suspected.add(index)
                        suspects.append(index)
    except (OSError, CancelledError) as error:
        raise ClusterError(
            f"the connection to the scheduler was lost ({reason_of(error)}): what is finished is "
            "kept, start again to go on"
        ) from error
    finally:
        client.cancel(list(running))


def _next_tasks(
    waiting: deque[int], suspects: deque[int], running: int, client: Client
) -> list[int]:
    """Return the tasks to begin now."""
    if waiting:
        # While a local cluster replaces its only worker, one task waits for it.
        slots = max(1, sum(client.nthreads().values()))
        return [waiting.popleft() for _ in range(min(max(0, slots - running), len(waiting)))]
    return [suspects.popleft()] if suspects and not running else []


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


def _attempt(function: TaskFunction[Any], arguments: Arguments, threads: int | None) -> Any:
    """Run in a worker."""
    from distributed import get_worker

    number = None if threads is None else int(get_worker().name)
    return function.attempt(arguments, Worker(number, threads))


def reason_of(error: BaseException) -> str:
    """Return an error's message in one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
