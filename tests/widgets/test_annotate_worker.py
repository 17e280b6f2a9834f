"""Threads: order, errors, stopping."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import napari.utils.notifications as notifications
import pytest

from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._runner import ThreadRunner, notify
from tests.widgets._annotate_cases import PATIENCE, settle, wait


@pytest.fixture(autouse=True)
def _application(qapp: object) -> None:
    pass


def test_events_arrive_in_order_in_the_gui_thread_then_done() -> None:
    seen: list[object] = []
    threads = set()

    def note(event: object) -> None:
        threads.add(threading.current_thread())
        seen.append(event)

    ThreadRunner().start(
        lambda: iter(range(50)), on_event=note, on_done=lambda _: seen.append("done")
    )
    wait(lambda: seen[-1:] == ["done"])
    assert seen == [*range(50), "done"]
    assert threads == {threading.main_thread()}


@pytest.mark.parametrize("error", [PeftSamError("bad"), RuntimeError("memory"), ValueError("x")])
def test_every_error_is_reported(error: Exception) -> None:
    errors: list[Exception] = []

    def work() -> Iterator[int]:
        yield 1
        raise error

    done: list[str] = []
    worker = ThreadRunner().start(work, on_error=errors.append, on_done=lambda _: done.append("x"))
    wait(lambda: errors)
    assert errors == [error]
    assert not done
    assert worker.wait(PATIENCE)


def test_a_stopped_worker_is_silent_and_closes_its_generator() -> None:
    seen: list[int] = []
    closed = threading.Event()
    go = threading.Event()

    def work() -> Iterator[int]:
        try:
            yield 0
            go.wait(PATIENCE)
            yield 1
            yield 2
        finally:
            closed.set()

    worker = ThreadRunner().start(work, on_event=seen.append, on_done=lambda _: seen.append(-1))
    wait(lambda: seen == [0])
    worker.cancel()
    go.set()
    assert worker.wait(PATIENCE)
    settle()
    assert closed.is_set()
    assert seen == [0]
    assert not worker.is_running


def test_a_runner_stops_all_and_waits() -> None:
    runner = ThreadRunner()
    go = threading.Event()

    def work() -> Iterator[int]:
        for i in range(10**9):
            go.wait(0.005)  # never set: a pace at which the event loop keeps up
            yield i

    for _ in range(3):
        runner.start(work)
    assert len(runner) == 3
    assert runner.stop(PATIENCE)
    assert len(runner) == 0


def test_run_hands_over_the_result() -> None:
    results: list[int] = []
    ThreadRunner().run(lambda: 42, on_result=results.append)
    wait(lambda: results)
    assert results == [42]


def test_errors_are_shown_as_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("napari_peftsam.widgets._runner.show_error", shown.append)
    notify(PeftSamError("choose another file"))
    notify(KeyError("k"))
    assert shown == ["choose another file", "KeyError: 'k'"]
    assert hasattr(notifications, "show_error")


def test_no_dock_module_imports_torch() -> None:
    import subprocess
    import sys

    folder = Path(__file__).parents[2] / "napari_peftsam" / "widgets"
    modules = [f"napari_peftsam.widgets.{p.stem}" for p in folder.glob("*.py")]
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)


def test_torch_can_be_imported_after_a_window_was_opened(tiny_checkpoint: Path) -> None:
    import subprocess
    import sys

    code = f"""
import napari
from napari_peftsam.widgets.session import session_of
from tests.widgets._annotate_cases import settle, wait
viewer = napari.Viewer(show=True)
settle()
owner = session_of(viewer)
owner.open({str(tiny_checkpoint)!r})
wait(lambda: owner.has_model or owner.error, 200)
assert owner.has_model, owner.error
viewer.close()
"""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250, cwd=root)


def test_what_is_started_by_a_closed_runner_does_not_run() -> None:
    runner = ThreadRunner()
    assert runner.close(PATIENCE)
    called: list[str] = []
    worker = runner.run(lambda: called.append("ran"), on_result=lambda _: called.append("heard"))
    assert worker.wait(PATIENCE)
    settle()
    assert called == []
