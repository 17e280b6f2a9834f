"""Places to compute tasks: this process, a local cluster or a remote one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from napari_peftsam.batch.run import Workers, reason_of
from napari_peftsam.errors import ClusterError, ConfigurationError

if TYPE_CHECKING:
    from distributed import Client

_PACKAGES = ("distributed", "cryptography")
_CORES_PER_WORKER = 4  # torch uses several cores for one image, and each worker holds a model
_CONNECT = 10.0  # seconds for a scheduler to answer
_WORKERS_COME = 60.0  # seconds for the first worker to be there
_PROCESS_STARTS = 300.0  # seconds for a local one: this computer may be busy
_NO_LOCAL_WORKER = (
    "this computer's memory may be used up; or, in a script, start the work below "
    '`if __name__ == "__main__":`'
)


@dataclass(frozen=True)
class ClusterChoice:
    """Place where tasks are computed; by default on a local cluster that ends with them.

    Attributes
    ----------
    scheduler
        Address of a running dask scheduler, as ``tls://10.0.0.5:8786``. Its workers must
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


@contextmanager
def open_workers(cluster: ClusterChoice, most: int) -> Iterator[Workers]:
    """Yield the chosen workers, at most `most`; a local cluster ends afterwards.

    Scripts that start a local cluster need ``if __name__ == "__main__":``, as with
    `multiprocessing`, since every worker imports them.
    """
    is_here = cluster.workers == 0
    if cluster.workers is None and cluster.scheduler is None:
        # A single worker would only cost the time to start it.
        is_here = _default_workers() == 1 or not all(map(find_spec, _PACKAGES))
    if is_here:
        yield Workers(None)
    else:
        with _connected(cluster, most) as (client, threads):
            yield Workers(client, threads)


@contextmanager
def _connected(cluster: ClusterChoice, most: int) -> Iterator[tuple[Client, int | None]]:
    """Yield a client, and the threads that each local worker may use."""
    try:
        from distributed import Client, Security

        from napari_peftsam.batch.local import local_cluster, quiet

        security = None if cluster.scheduler else Security.temporary()  # needs cryptography
    except ImportError as error:
        raise ClusterError(
            f"worker processes need distributed ({reason_of(error)}): "
            'pip install "napari-peftsam[distributed]", or compute in this process (--workers 0)'
        ) from error
    with quiet():
        if security is not None:
            wanted = _default_workers() if cluster.workers is None else cluster.workers
            workers = max(1, min(wanted, most))
            with local_cluster(workers, security) as local, Client(local) as client:
                _await_worker(client, _PROCESS_STARTS, _NO_LOCAL_WORKER)
                yield client, max(1, (os.cpu_count() or 1) // workers)
            return
        assert cluster.scheduler is not None
        with _client(cluster.scheduler) as client:
            remedy = f"start one with `dask worker {cluster.scheduler} --nthreads 1`"
            _await_worker(client, _WORKERS_COME, remedy)
            yield client, None


def _client(scheduler: str) -> Client:
    from distributed import Client

    try:
        return Client(scheduler, timeout=_CONNECT)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no dask scheduler answers at {scheduler} ({reason_of(error)}): start one with "
            "`dask scheduler`, or leave it out to use this computer"
        ) from error


def _await_worker(client: Client, seconds: float, remedy: str) -> None:
    try:
        client.wait_for_workers(1, timeout=seconds)
    except TimeoutError as error:
        raise ClusterError(f"no worker came within {seconds:.0f} seconds: {remedy}") from error


def _default_workers() -> int:
    import torch

    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // _CORES_PER_WORKER)
