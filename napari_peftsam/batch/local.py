"""Worker processes of this computer; imported only where they are asked for."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

import dask
from distributed import LocalCluster, Nanny, Security

_LIVES = 2
"""Local workers that may die of one task: twice, beside other tasks and then alone."""
_LOGGERS = ("distributed", "distributed.client", "distributed.gc", "tornado")
_PATIENCE = 60.0  # seconds


class _Keeper(Nanny):
    """Starts a worker process, starts it again when it dies, and ends it at once if asked.

    dask's own waits some seconds for the running task, then fails if a busy computer takes
    some more to end the process. Our tasks may be abandoned at any point.
    """

    async def kill(self, timeout: float = _PATIENCE, reason: str = "nanny-kill") -> None:
        """End the process, which may take `timeout` seconds."""
        if self.process is not None:
            await self.process.kill(
                timeout=max(timeout, _PATIENCE), executor_wait=False, reason=reason
            )


@contextmanager
def local_cluster(workers: int, security: Security | None) -> Iterator[LocalCluster]:
    """Start workers that only those with the credentials `security` can reach; without, all."""
    with dask.config.set({"distributed.nanny.pre-spawn-environ": {}}):  # leave `os.environ` alone
        with _without_interrupts():
            cluster = LocalCluster(
                n_workers=0,  # they are started when interrupts are there again
                worker_class=_Keeper,
                threads_per_worker=1,  # tasks at once; one model
                host="127.0.0.1",
                # dask runs whatever it receives, and every user of this computer can connect.
                protocol="tls://" if security else "tcp://",
                security=security,
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
