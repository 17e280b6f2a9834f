"""Worker processes of this computer, and quiet while they are there."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import dask
from distributed import LocalCluster

from napari_peftsam.workers._keeper import WorkerKeeper

__all__ = ["local_cluster", "quiet"]

_LIVES = 2
"""So many local workers may die of a task, twice: beside others, then alone."""
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado")


@contextmanager
def local_cluster(workers: int) -> Iterator[LocalCluster]:
    """Start workers that nobody but this computer can reach."""
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
    resource_tracker.ensure_running()  # with the first process it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def quiet() -> Iterator[None]:
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
