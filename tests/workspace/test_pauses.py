"""A training gives way to the viewer, in small steps and never for long."""

from __future__ import annotations

import io
import pickle
import threading
from pathlib import Path
from time import monotonic

import pytest
import torch

from napari_peftsam.models import build_tiny, encode_tensor
from napari_peftsam.peft import LoraConfig, inject
from napari_peftsam.training import TrainingConfig, TrainingFinished
from napari_peftsam.workspace import TrainingJob
from napari_peftsam.workspace._pauses import Pauses, give_way_inside
from napari_peftsam.workspace.jobs import GO_ON, PAUSE, _serve
from tests.training._world import make_plane


def waiting(pauses: Pauses) -> threading.Thread:
    thread = threading.Thread(target=pauses.wait)
    thread.start()
    thread.join(0.05)
    return thread


def test_without_a_pause_nobody_waits() -> None:
    Pauses().wait()


def test_a_pause_lasts_until_it_is_ended() -> None:
    pauses = Pauses()
    pauses.begin()
    thread = waiting(pauses)
    assert thread.is_alive()
    pauses.end()
    thread.join(20)
    assert not thread.is_alive()


def test_a_forgotten_pause_ends_by_itself_and_costs_its_time_once() -> None:
    pauses = Pauses(longest=0.1)
    pauses.begin()
    pauses.wait()
    began = monotonic()
    for _ in range(1000):
        pauses.wait()
    assert monotonic() - began < 50, "1000 pauses would take 100 s"


@pytest.mark.parametrize("trained", [True, False], ids=["with gradients", "without"])
def test_a_network_gives_way_within_one_pass_and_computes_the_same(trained: bool) -> None:
    model, other = build_tiny(), build_tiny()
    method = LoraConfig()
    calls: list[int] = []
    give_way_inside(model.sam, lambda: calls.append(1))
    with inject(model, method) as injection, inject(other, method) as plain:
        for name, parameter in plain.trainable_parameters().items():
            parameter.data = injection.trainable_parameters()[name].data.clone()
        x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.set_grad_enabled(trained):
            embedding, expected = encode_tensor(model.sam, x), encode_tensor(other.sam, x)
        assert torch.equal(embedding, expected)
        forwards = len(calls)
        assert forwards >= 2 * model.architecture.depth
        if trained:
            weights = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(1))
            (embedding * weights).sum().backward()
            (expected * weights).sum().backward()
            assert len(calls) >= forwards + 2 * model.architecture.depth - 1
            for name, parameter in plain.trainable_parameters().items():
                if parameter.grad is not None:  # the decoder took no part
                    found = injection.trainable_parameters()[name].grad
                    assert torch.equal(found, parameter.grad), name


def test_commands_to_the_child_change_nothing_but_the_time(checkpoint: Path) -> None:
    config = TrainingConfig(method=LoraConfig(rank=2), steps=2, rounds=1, validations=1)
    job = TrainingJob(str(checkpoint), "cpu", (make_plane("a"),), config)
    commands = io.BytesIO(pickle.dumps(job) + PAUSE + GO_ON + b"?" + PAUSE)
    answers = io.BytesIO()
    _serve(commands, answers)  # the end of the commands ends the last pause, and the run
    answers.seek(0)
    found = []
    while answers.tell() < len(answers.getvalue()):
        found.append(pickle.load(answers))
    assert isinstance(found[-1], TrainingFinished)
