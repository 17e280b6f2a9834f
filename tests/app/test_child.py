"""A finetuning in a child process: its events, its errors, its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from napari_peftsam.app.child import Child, TrainingProcess
from napari_peftsam.app.finetuning import TrainingJob
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.errors import PeftSamError, TrainingError
from napari_peftsam.training import (
    Judging,
    MemoryPlanned,
    StepProgress,
    TrainingConfig,
    TrainingReport,
    TrainingStarted,
    TrainingStep,
    Validated,
)
from tests.training._world import finish
from tests.widgets._training_cases import add_images, is_alive

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs signals")


def _job(checkpoint: Path, images: int = 3, **options: Any) -> Callable[[], TrainingJob]:
    workspace = Workspace()
    workspace.load_model(checkpoint, "cpu")
    add_images(workspace.document, images)
    return workspace.prepare_training(TrainingConfig(**({"steps": 2, "validations": 1} | options)))


class Exit:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, ("a last word",)


def test_events_come_in_order_and_no_process_is_left(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    process = TrainingProcess(_job(checkpoint))
    events, report = finish(process.events())
    first = [type(event) for event in events].index(MemoryPlanned)
    assert first, "the step shows signs of life from inside"
    shares = [event.share for event in events[:first] if isinstance(event, StepProgress)]
    assert len(shares) == first
    assert shares == sorted(shares)
    kinds = [type(event) for event in events[first:]]
    assert kinds[:4] == [MemoryPlanned, TrainingStep, TrainingStarted, Validated]
    assert kinds[-2:] == [Validated, Judging]
    assert isinstance(report, TrainingReport)
    assert process.pid is not None
    assert not is_alive(process.pid)


@pytest.mark.parametrize("state", ["ready", "dead"])
def test_a_child_that_waits_does_the_run_unless_it_died(checkpoint: Path, state: str) -> None:
    child = Child.start()
    if state == "dead":
        child.process.kill()
        child.process.wait()
    process = TrainingProcess(_job(checkpoint), child)
    _, report = finish(process.events())
    assert isinstance(report, TrainingReport)
    assert process.pid is not None
    assert (process.pid == child.process.pid) == (state == "ready")
    assert not is_alive(process.pid)
    assert not is_alive(child.process.pid)


@pytest.mark.parametrize("end", ["cancelled", "not prepared", "no run"])
def test_a_child_that_waits_is_ended_with_what_it_waits_for(end: str) -> None:
    def prepare() -> TrainingJob:
        raise TrainingError("no objects")

    child = Child.start()
    process = TrainingProcess(prepare, child)
    if end == "no run":
        child.end()
    elif end == "cancelled":
        process.cancel()
        assert list(process.events()) == []
    else:
        with pytest.raises(TrainingError, match="no objects"):
            list(process.events())
    assert not is_alive(child.process.pid)


def test_errors_of_the_child_arrive_as_they_are(checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match="at least 3 annotated objects, found 2"):
        list(TrainingProcess(_job(checkpoint, images=1)).events())


def test_stop_ends_the_run_with_a_result(checkpoint: Path) -> None:
    process = TrainingProcess(_job(checkpoint, steps=100_000))
    events = process.events()
    next(event for event in events if isinstance(event, TrainingStep) and event.step == 2)
    process.stop()
    process.stop()
    _, report = finish(events)
    assert report is not None
    assert 2 <= report.steps < 100_000


def test_closing_the_generator_ends_the_child(checkpoint: Path) -> None:
    process = TrainingProcess(_job(checkpoint, steps=100_000))
    events = process.events()
    assert isinstance(next(events), StepProgress)
    assert process.pid is not None
    assert is_alive(process.pid)
    events.close()
    assert not is_alive(process.pid)


def test_cancel_ends_a_run_that_another_thread_waits_for(checkpoint: Path) -> None:
    process = TrainingProcess(_job(checkpoint, steps=100_000))
    timer = threading.Timer(0.5, process.cancel)  # while the child is still importing torch
    timer.start()
    _, report = finish(process.events())
    timer.join()
    assert report is None
    assert process.pid is not None
    assert not is_alive(process.pid)


def test_a_run_cancelled_before_it_starts_has_no_process(checkpoint: Path) -> None:
    process = TrainingProcess(_job(checkpoint))
    process.cancel()
    process.stop()
    assert list(process.events()) == []
    assert process.pid is None


@posix_only
def test_a_killed_child_is_an_error_that_names_memory(checkpoint: Path) -> None:
    process = TrainingProcess(_job(checkpoint, steps=100_000))
    events = process.events()
    list(islice(events, 3))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(TrainingError, match="was killed, most often because memory ran out"):
        list(events)
    assert not is_alive(process.pid)


def test_a_child_that_dies_early_is_an_error_with_its_last_words() -> None:
    process = TrainingProcess(lambda: SimpleNamespace(broken=Exit()))  # type: ignore[arg-type]
    with pytest.raises(PeftSamError, match=r"ended with status 1 and no result.*a last word"):
        list(process.events())


def test_pauses_do_not_end_a_run_and_may_come_at_any_time(checkpoint: Path) -> None:
    process = TrainingProcess(_job(checkpoint))
    process.pause()  # there is no child yet
    events = process.events()
    for event in events:
        process.pause()
        process.go_on()
        if isinstance(event, TrainingStep):
            break
    _, report = finish(events)
    assert report is not None
    process.pause()
    process.go_on()
