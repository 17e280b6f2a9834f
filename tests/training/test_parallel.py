"""Two processes under torchrun do what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.training import Team, TrainingConfig, encoder, joined_team, memory, team_size
from tests.training._ranks import CASES, config, train

Runs = dict[str, dict[str, Any]]
ENDS = ("timed", "stopped")


def test_processes_of_a_computer_share_its_memory_and_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, settings = torch.device("cpu"), TrainingConfig(steps=1)
    for module in (encoder, memory):
        monkeypatch.setattr(module, "free_memory", lambda _: 10**9)

    def shares() -> tuple[int, int]:
        with encoder.open_cache(settings, cpu) as cache:
            assert cache is not None
            return cache.memory_budget, memory._free(cpu)

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert shares() == (10**9 // 4, 10**9)  # without torchrun it says nothing
    monkeypatch.setattr(distributed, "is_torchelastic_launched", lambda: True)
    assert shares() == (10**9 // 16, 10**9 // 4)
    assert memory._free(torch.device("cuda")) == 10**9  # each has its own


@pytest.mark.parametrize("number", ["abc", "0", "-1", "9" * 5000, ""])
def test_a_number_of_processes_that_is_none(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", number)
    with pytest.raises(ConfigurationError, match="WORLD_SIZE must be a number of processes"):
        team_size()


def test_leaving_a_team_does_not_wait_for_its_threads() -> None:
    code = """
from unittest.mock import patch
from torch import distributed
from napari_peftsam.training import team

def join(device):
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

with (
    patch.object(team, "_join", join),
    patch.object(distributed, "is_torchelastic_launched", lambda: True),
):
    for _ in range(200):
        with team.joined_team("cpu") as joined:
            joined.broadcast(1.0)
    """
    # With torch 2.6 one in a few dozen teams waited for ever; nothing but a kill ended it.
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250, cwd=root)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, Runs]:
    """Return what the leading process saw of all runs, and what the other one did."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "tests.training._ranks", str(folder),
    ]  # fmt: skip
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root}, cwd=root, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "1.pt"), torch.load(folder / "0.pt")


@pytest.mark.parametrize("case", CASES)
def test_the_result_is_that_of_one_process(case: str, members: tuple[Runs, Runs]) -> None:
    alone, (leader, _) = train(config(*CASES[case])), members
    assert leader[case]["losses"] == pytest.approx(alone.losses, rel=1e-6)
    assert leader[case]["state"].keys() == alone.state.keys()
    for name, tensor in alone.state.items():
        torch.testing.assert_close(leader[case]["state"][name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", [*CASES, *ENDS])
def test_all_processes_end_with_the_same(case: str, members: tuple[Runs, Runs]) -> None:
    leader, other = members
    assert leader[case]["losses"] == other[case]["losses"]
    assert leader[case]["verdict"] == other[case]["verdict"]
    for name, tensor in leader[case]["state"].items():
        assert torch.equal(tensor, other[case]["state"][name]), name


def test_the_leader_decides_when_it_ends(members: tuple[Runs, Runs]) -> None:
    assert len(members[0]["timed"]["losses"]) > 0
    assert len(members[0]["stopped"]["losses"]) == 2


def test_without_torchrun_a_process_is_alone() -> None:
    assert team_size() == 1
    with joined_team("cpu") as team:
        assert type(team) is Team
        assert team.leads
