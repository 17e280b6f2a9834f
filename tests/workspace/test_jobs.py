"""Finetuning in a child process gives the same events as in this one."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest

from napari_peftsam.app.child import serve
from napari_peftsam.app.finetuning import TrainingJob, train
from napari_peftsam.errors import TrainingError
from napari_peftsam.peft import LoraConfig
from napari_peftsam.training import AnnotatedPlane, StepProgress, TrainingConfig, TrainingReport
from tests.training._world import finish, make_plane

CONFIG = TrainingConfig(method=LoraConfig(rank=2), steps=2, rounds=1, validations=1)


def _answers(job: TrainingJob, more: bytes = b"") -> list[object]:
    commands, answers = io.BytesIO(pickle.dumps(job) + more), io.BytesIO()
    serve(commands, answers)
    answers.seek(0)
    found = []
    while answers.tell() < len(answers.getvalue()):
        message, is_report = pickle.load(answers)
        assert is_report == isinstance(message, TrainingReport)
        found.append(message)
    return found


def _job(checkpoint: Path, planes: tuple[AnnotatedPlane, ...]) -> TrainingJob:
    return TrainingJob(str(checkpoint), "cpu", planes, CONFIG)


def test_events_survive_the_way(checkpoint: Path) -> None:
    job = _job(checkpoint, (make_plane("a"),))
    # An exhausted standard input asks for an early end: at least the frame is there.
    sent, direct = _answers(job), finish(train(job, stop=lambda: True))[0]
    first, *_ = (type(event) for event in sent if not isinstance(event, StepProgress))
    assert first is type(direct[0])
    finished = sent[-1]
    assert isinstance(finished, TrainingReport)
    assert finished.adapter.config == CONFIG.method


@pytest.mark.parametrize(
    ("source", "count", "message"),
    [
        pytest.param("nonsense.pth", 8, "unknown model", id="no such model"),
        pytest.param(None, 0, "at least 3", id="no objects"),
    ],
)
def test_errors_arrive_typed(
    source: str | None, count: int, message: str, checkpoint: Path
) -> None:
    plane = make_plane("a")
    if not count:
        plane = AnnotatedPlane("a", "a", plane.pixels, plane.labels * 0)
    job = TrainingJob(source or str(checkpoint), "cpu", (plane,), CONFIG)
    *_, error = _answers(job)
    assert isinstance(error, Exception)
    assert message in str(error)
    if not count:
        assert isinstance(error, TrainingError)
