"""A training gives way to the viewer, in small steps and never for long."""

from __future__ import annotations

import io
import pickle
import threading
from pathlib import Path

import pytest
import torch

from napari_peftsam.app import child
from napari_peftsam.app.child import GO_ON, LONGEST_PAUSE, PAUSE, Pauses, serve
from napari_peftsam.app.finetuning import TrainingJob
from napari_peftsam.models import build_tiny, encode_tensor
from napari_peftsam.peft import LoraConfig, inject
from napari_peftsam.training import TrainingConfig, TrainingReport
from napari_peftsam.training.step import give_way_inside
from tests.training._world import make_plane

PATIENCE = 60.0  # s; a limit for a hanging test, not a demand


class _Gate(threading.Event):
    """An event that announces who waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.awaited.set()
        return super().wait(timeout)


def waiting(pauses: Pauses) -> threading.Thread:
    """Return a thread that waits for the end of the pause."""
    pauses._going = gate = _Gate()
    thread = threading.Thread(target=pauses.wait)
    thread.start()
    assert gate.awaited.wait(PATIENCE)
    return thread


def test_without_a_pause_nobody_waits() -> None:
    Pauses().wait()


def test_a_pause_lasts_until_it_is_ended() -> None:
    pauses = Pauses(longest=PATIENCE)
    pauses.begin()
    thread = waiting(pauses)
    assert thread.is_alive()
    pauses.end()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_forgotten_pause_ends_by_itself_and_costs_its_time_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([0.0, LONGEST_PAUSE / 2, LONGEST_PAUSE])  # a later look fails
    monkeypatch.setattr(child, "monotonic", lambda: next(times))
    pauses = Pauses()
    waits: list[float | None] = []
    monkeypatch.setattr(pauses._going, "wait", waits.append)
    pauses.begin()
    pauses.wait()
    assert waits == [LONGEST_PAUSE / 2]
    for _ in range(1000):
        pauses.wait()
    assert waits == [LONGEST_PAUSE / 2]


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
    serve(commands, answers)  # the end of the commands ends the last pause, and the run
    answers.seek(0)
    found = []
    while answers.tell() < len(answers.getvalue()):
        found.append(pickle.load(answers))
    report, is_report = found[-1]
    assert is_report
    assert isinstance(report, TrainingReport)
