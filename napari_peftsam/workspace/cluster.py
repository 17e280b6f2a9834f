"""Many independent tasks on worker processes, here or on other machines, through dask.

`distributed` is imported only when workers are asked for: it is an optional extra.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from napari_peftsam.errors import ClusterError, ConfigurationError, PeftSamError

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

__all__ = ["ClusterChoice", "Outcome", "Work", "Workers", "open_workers"]

_LIVES = 2
"""So many local workers may die of a task, twice: beside others, then alone."""
_DEADLY = (
    "the workers that computed it died, the last time with nothing else to do, perhaps for want of "
    "memory: use a smaller image or model"
)
_CORES_PER_WORKER = 4  # torch uses several cores for one image, and each worker holds a model
_POLL = 0.2  # seconds between two looks at whether to stop
_CONNECT = 10.0  # seconds for a scheduler to answer
_WORKERS_COME = 120.0  # seconds for the first worker to be there
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado")

ResultT = TypeVar("ResultT")
ContextT = TypeVar("ContextT")

_turn = threading.Lock()


@dataclass(frozen=True)
class ClusterChoice:
    """Where tasks are computed; by default on a local cluster that ends with them.

    Attributes
    ----------
    scheduler
        Address of a running dask scheduler, as ``tcp://10.0.0.5:8786``. Its workers must
        have this program and see the files under the same paths.
    workers
        Worker processes of the local cluster. 0 computes everything in this process,
        without dask. Default: one per GPU, else one per four cores; where that is one, or
        dask's `distributed` is not installed, 0.

    Raises
    ------
    ConfigurationError
        If both are given, or `workers` is negative.
    """

    scheduler: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.scheduler is not None and self.workers is not None:
            raise ConfigurationError(
                f"got the scheduler {self.scheduler} and {self.workers} workers: a scheduler has "
                "its own workers, so give only one of them"
            )
        if self.workers is not None and self.workers < 0:
            raise ConfigurationError(
                f"the number of workers must be at least 0, got {self.workers}"
            )


@dataclass(frozen=True)
class Work(Generic[ContextT, ResultT]):
    """What to do with each of many tasks; sent to the workers, hence picklable.

    Attributes
    ----------
    prepare
        Called before every task in the process that computes it; returns what tasks
        share, such as a model, and keeps it for its next call. Its errors end all tasks.
    function
        Called with what `prepare` returned and the task's own arguments. A `PeftSamError`
        is this task's outcome and leaves the others alone.
    """

    prepare: Callable[[], ContextT]
    function: Callable[..., ResultT]

    def attempt(self, task: Sequence[Any]) -> Any:
        """Return the result of one task, or the error that it ended with."""
        with _turn:  # remote workers may have several threads, but there is one model
            context = self.prepare()
            try:
                return self.function(context, *task)
            except PeftSamError as error:
                return error


@dataclass(frozen=True)
class Outcome(Generic[ResultT]):
    """What became of task number `index`: its result, or the error that it ended with."""

    index: int
    result: ResultT | None = None
    error: PeftSamError | None = None


class Workers:
    """Processes that compute tasks, or this one; see `open_workers`."""

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
            yield _outcome(index, work.attempt(task))


@contextmanager
def open_workers(cluster: ClusterChoice, most: int) -> Iterator[Workers]:
    """Yield the workers that were chosen, at most so many; a local cluster ends afterwards.

    Scripts that start a local cluster need ``if __name__ == "__main__":``, as with
    `multiprocessing`, since every worker imports them.

    Raises
    ------
    ClusterError
        If there is no `distributed`, or the scheduler does not answer or has no worker.
    """
    if _is_here(cluster):
        yield Workers(None)
    else:
        with _quiet(), _connected(cluster, most) as (client, threads):
            yield Workers(client, threads)


def _is_here(cluster: ClusterChoice) -> bool:
    if cluster.workers is not None or cluster.scheduler is not None:
        return cluster.workers == 0
    # A single worker would only cost the time to start it.
    return _default_workers() == 1 or find_spec("distributed") is None


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
            f"the connection to the scheduler was lost ({_reason(error)}): what is finished is "
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
            f"a worker cannot import what it needs ({_reason(error)}): install the same version "
            "of napari-peftsam for all workers"
        ) from error


def _attempt(work: Work[Any, Any], task: Sequence[Any], threads: int | None) -> Any:
    """Run in a worker: one task, on its share of this computer."""
    from distributed import get_worker

    if threads is not None:  # a local worker; others are set up by those who start them
        torch.set_num_threads(threads)
        if torch.cuda.is_available():
            torch.cuda.set_device(get_worker().name % torch.cuda.device_count())
    return work.attempt(task)


@contextmanager
def _connected(cluster: ClusterChoice, most: int) -> Iterator[tuple[Client, int | None]]:
    """Yield a client, and the threads that each local worker may use."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError(
            f"worker processes need distributed ({_reason(error)}): "
            'pip install "napari-peftsam[distributed]", or compute in this process (--workers 0)'
        ) from error
    if cluster.scheduler is None:
        wanted = _default_workers() if cluster.workers is None else cluster.workers
        workers = max(1, min(wanted, most))
        with _local_cluster(workers) as local, Client(local) as client:
            _await_worker(client, "this computer's memory may be used up; or, in a script, start "
                                  'the work below `if __name__ == "__main__":`')  # fmt: skip
            yield client, max(1, (os.cpu_count() or 1) // workers)
        return
    try:
        client = Client(cluster.scheduler, timeout=_CONNECT)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no dask scheduler answers at {cluster.scheduler} ({_reason(error)}): start one with "
            "`dask scheduler`, or leave it out to use this computer"
        ) from error
    with client:
        _await_worker(client, f"start one with `dask worker {cluster.scheduler} --nthreads 1`")
        yield client, None


def _await_worker(client: Client, remedy: str) -> None:
    try:
        client.wait_for_workers(1, timeout=_WORKERS_COME)
    except TimeoutError as error:
        raise ClusterError(
            f"no worker came within {_WORKERS_COME:.0f} seconds: {remedy}"
        ) from error


def _default_workers() -> int:
    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // _CORES_PER_WORKER)


@contextmanager
def _local_cluster(workers: int) -> Iterator[LocalCluster]:
    """Start workers that nobody but this computer can reach."""
    import dask
    from distributed import LocalCluster

    from napari_peftsam.workspace._nanny import WorkerKeeper

    with dask.config.set({"distributed.nanny.pre-spawn-environ": {}}):  # leave `os.environ` alone
        with _without_interrupts():
            cluster = LocalCluster(
                n_workers=0,  # they are started when interrupts are there again
                worker_class=WorkerKeeper,
                threads_per_worker=1,  # tasks at once; one model
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
                memory_limit=0,  # dask would stop giving tasks to a worker of a large model
                scheduler_kwargs={"dashboard": False, "allowed_failures": _LIVES - 1},
            )
        with cluster:
            cluster.scale(workers)
            yield cluster


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let threads and processes started inside never be interrupted by Ctrl-C.

    A terminal sends it to all processes; only the one that was started by hand should
    answer, and end the others. Threads and processes inherit the mask of signals.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence dask's loggers, which write to standard error: errors are raised besides."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
