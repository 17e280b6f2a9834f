"""Tasks on workers: each is computed once, even if workers die."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import distributed
import pytest
import torch

from napari_peftsam.batch import cluster as cluster_module
from napari_peftsam.batch import local
from napari_peftsam.batch.cluster import ClusterChoice, open_workers
from napari_peftsam.batch.run import Task, TaskDone, TaskFunction
from napari_peftsam.errors import ClusterError, ConfigurationError, ImageError, PeftSamError
from tests.workers._tasks import compute, not_ready, ready

HERE = ClusterChoice(workers=0)
WORK = TaskFunction(ready, compute)


def run_tasks(
    work: TaskFunction[str], tasks: Sequence[Sequence[Any]], choice: ClusterChoice | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[TaskDone[str]]:  # fmt: skip
    with open_workers(choice or ClusterChoice(workers=1), len(tasks)) as workers:
        yield from workers.run(work, [Task(str(each[0]), each) for each in tasks], stop)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"scheduler": "tcp://a:1", "workers": 2}, "give only one of them"),
        ({"workers": -1}, "at least 0, got -1"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "+".join(value),
)
def test_refused_choices(choice: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ClusterChoice(**choice)  # type: ignore[arg-type]


# --- in this process -----------------------------------------------------------------


def test_without_workers_tasks_are_computed_here_in_their_order(tmp_path: Path) -> None:
    outcomes = list(run_tasks(WORK, [("a", tmp_path), ("bad", tmp_path), ("b", tmp_path)], HERE))
    assert [(o.name, o.result) for o in outcomes] == [
        ("a", "shared a"), ("bad", None), ("b", "shared b"),
    ]  # fmt: skip
    assert isinstance(outcomes[1].error, ImageError)


def test_what_the_system_refuses_one_task_leaves_the_others_alone(tmp_path: Path) -> None:
    full, fine = run_tasks(WORK, [("full", tmp_path), ("a", tmp_path)], HERE)
    assert isinstance(full.error, PeftSamError)
    assert "No space left on device" in str(full.error)
    assert fine.result == "shared a"


def test_without_workers_distributed_is_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert [o.result for o in run_tasks(WORK, [("a", tmp_path)], HERE)] == ["shared a"]


@pytest.mark.parametrize("cores", [1, 4, 7])
def test_one_worker_would_only_cost_its_start(
    cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert len(list(run_tasks(WORK, [("a", tmp_path)], ClusterChoice()))) == 1


def test_without_distributed_workers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"pip install .*\[distributed\]"):
        list(run_tasks(WORK, [("a", tmp_path)]))


def test_what_all_tasks_need_ends_them_all(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no model"):
        list(run_tasks(TaskFunction(not_ready, compute), [("a", tmp_path)], HERE))


def test_stopping_ends_before_the_next_task(tmp_path: Path) -> None:
    asked = iter([False, True])
    tasks = [("a", tmp_path), ("b", tmp_path)]
    assert len(list(run_tasks(WORK, tasks, HERE, stop=lambda: next(asked)))) == 1


# --- on a local cluster --------------------------------------------------------------


@pytest.fixture(scope="module")
def deadly_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TaskDone[str]]:
    """Run tasks of which one kills its first worker and one every worker."""
    folder, before = tmp_path_factory.mktemp("seen"), set(multiprocessing.active_children())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_LIVES", 1)  # each new worker takes seconds to start
        outcomes = run_all(folder)
    assert set(multiprocessing.active_children()) == before, "nothing of the cluster is left"
    return outcomes


def run_all(folder: Path) -> dict[str, TaskDone[str]]:
    tasks = [(name, folder) for name in ("fine", "unlucky", "bad", "deadly", "late")]
    outcomes = list(run_tasks(WORK, tasks, ClusterChoice(workers=2)))
    assert len(outcomes) == len(tasks)
    return {o.name: o for o in outcomes}


@pytest.mark.parametrize("name", ["fine", "unlucky", "late"])
def test_dead_workers_are_replaced_and_their_tasks_computed_again(
    name: str, deadly_run: dict[str, TaskDone[str]]
) -> None:
    assert deadly_run[name].result == f"shared {name}"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("bad", ImageError, "a bad one"),
        ("deadly", ClusterError, "the workers that computed it died"),
    ],
)
def test_what_ends_one_task_leaves_the_others_alone(
    name: str, kind: type[PeftSamError], message: str, deadly_run: dict[str, TaskDone[str]]
) -> None:
    error = deadly_run[name].error
    assert isinstance(error, kind)
    assert message in str(error)


STRANGER = """
import asyncio, os, sys
from distributed import Scheduler, Security
from distributed.core import rpc

FOREIGN = Security.temporary()

async def answer_of(address, security):
    keys = security.get_connection_args("client") if security else {}
    try:
        async with rpc(address, timeout=30, connection_args=keys) as scheduler:
            return (await asyncio.wait_for(scheduler.identity(), 30))["type"]
    except Exception as error:
        return type(error).__name__

async def main():
    if os.geteuid() == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
    for protocol, security in (("tcp", None), ("tls", FOREIGN)):
        own = Scheduler(
            protocol=protocol, host="127.0.0.1", port=0, dashboard=False,
            security=security or Security(),
        )
        async with own:
            assert await answer_of(own.address, security) == "Scheduler", "it knows how to"
    for security in (None, FOREIGN):
        for protocol in ("tls", "tcp"):
            print("answer", await answer_of(f"{protocol}://{sys.argv[1]}", security))

asyncio.run(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="needs users of Unix")
def test_no_other_user_gets_an_answer_from_a_local_cluster(tmp_path: Path) -> None:
    with open_workers(ClusterChoice(workers=1), 1) as workers:
        assert workers.client is not None
        address = workers.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        (tmp_path / "stranger.py").write_text(STRANGER)
        ended = subprocess.run(
            [sys.executable, str(tmp_path / "stranger.py"), address.partition("//")[2]],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    answers = [line for line in ended.stdout.splitlines() if line.startswith("answer")]
    assert len(answers) == 4
    assert "answer Scheduler" not in answers


# --- on a cluster of one's own -------------------------------------------------------


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Give the address of a scheduler with a worker in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", host="127.0.0.1",
        dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


def test_a_scheduler_is_used_and_left_as_it_was(scheduler: str, tmp_path: Path) -> None:
    for _ in range(2):
        tasks = [("a", tmp_path), ("bad", tmp_path)]
        outcomes = {o.name: o for o in run_tasks(WORK, tasks, ClusterChoice(scheduler))}
        assert outcomes["a"].result == "shared a"
        assert str(outcomes["bad"].error) == "a bad one"


def test_a_worker_without_a_model_ends_all_tasks(scheduler: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no model"):
        list(
            run_tasks(TaskFunction(not_ready, compute), [("a", tmp_path)], ClusterChoice(scheduler))
        )


def test_stopping_leaves_workers_free_for_others(scheduler: str, tmp_path: Path) -> None:
    choice = ClusterChoice(scheduler)
    assert list(run_tasks(WORK, [("a", tmp_path)], choice, stop=lambda: True)) == []
    run = run_tasks(WORK, [("a", tmp_path), ("b", tmp_path)], choice)
    next(run)
    run.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(list(run_tasks(WORK, [("a", tmp_path)], choice))) == 1


def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_CONNECT", 0.2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"no dask scheduler answers at {address}"):
            list(run_tasks(WORK, [("a", tmp_path)], ClusterChoice(address)))


def test_a_scheduler_without_workers_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_WORKERS_COME", 0.2)
    with local.local_cluster(0, None) as empty:
        choice = ClusterChoice(empty.scheduler_address)
        with pytest.raises(ClusterError, match=r"no worker came .* `dask worker tcp://"):
            list(run_tasks(WORK, [("a", tmp_path)], choice))
