"""Real viewers with a tiny model, driven as a user does."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

# It imports triton, which ends a process that has drawn a window without a graphics card before
# (see `napari_peftsam.training.step`); other tests of the same process import it later.
import segment_anything  # noqa: F401

from tests.widgets._annotate_cases import PATIENCE, Bench

if TYPE_CHECKING:
    import napari


_finished = count()


def pytest_runtest_logfinish() -> None:
    """Let go of old viewers, and spare later collections what stays.

    Every viewer that closes collects the whole heap, and while it does so the viewers of
    earlier tests are not garbage yet: without this they pile up, and each test takes longer
    than the one before. Modules and what napari keeps of each window are frozen now and then.
    """
    gc.collect()
    if next(_finished) % 20 == 0:
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _frozen_before_there_is_a_viewer() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_session_freezes_a_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what this file has frozen, and the viewer of a test, as they are."""
    nothing = dict.fromkeys(("collect", "freeze", "unfreeze"), lambda: None)
    monkeypatch.setattr("napari_peftsam.heap.gc", SimpleNamespace(**nothing))


@pytest.fixture(scope="session", autouse=True)
def _signatures_are_read_once() -> Iterator[None]:
    """Keep whether a function takes an event: napari reads thousands of signatures per viewer."""
    from napari.utils.events import EventEmitter

    read = getattr(EventEmitter, "_check_signature", None)
    if read is None:  # another napari
        yield
        return
    known: dict[object, bool] = {}

    def takes_event(callback: Callable[..., object]) -> bool:
        function = getattr(callback, "__func__", callback)
        if not hasattr(function, "__code__") or hasattr(function, "__wrapped__"):
            return read(callback)
        key = function.__code__, len(function.__defaults__ or ()), function is callback
        if key not in known:
            known[key] = read(callback)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventEmitter, "_check_signature", staticmethod(takes_event))
        yield


@pytest.fixture(autouse=True)
def _hidden_windows_have_no_style(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Style windows when they are shown: Qt applies napari's sheet to each part of a window.

    It does so again whenever a layer is added or chosen, a fifth of the time of a test. Tests
    that measure hidden windows are marked ``styled``.
    """
    from napari._qt import qt_main_window

    if request.node.get_closest_marker("styled") or not hasattr(qt_main_window, "get_stylesheet"):
        return
    read, show = qt_main_window.get_stylesheet, qt_main_window.Window.show

    def show_with_style(window: Any, **options: Any) -> None:
        monkeypatch.setattr(qt_main_window, "get_stylesheet", read)
        window._update_theme()
        show(window, **options)

    monkeypatch.setattr(qt_main_window, "get_stylesheet", lambda *_, **__: "")
    monkeypatch.setattr(qt_main_window.Window, "show", show_with_style)


@pytest.fixture(scope="session", autouse=True)
def _manifests_are_read_once() -> Iterator[None]:
    """Keep what npe2 finds: each viewer has all manifests read again, which do not change."""
    from npe2 import PluginManifest

    found = list(PluginManifest.discover())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PluginManifest, "discover", lambda *_, **__: iter(found))
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of 4 blocks, width 16 and 64 px with random weights."""
    import torch

    from napari_peftsam.models import build_tiny

    path = tmp_path_factory.mktemp("models") / "tiny.pt"
    torch.save(build_tiny().sam.state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def _no_child_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start children for trainings only, not with the third object: they take seconds each."""
    monkeypatch.setattr("napari_peftsam.widgets._training._ENOUGH", 10**9)


@pytest.fixture(autouse=True)
def _hints_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let hints stay: on a busy machine they are gone before a test has read them."""
    monkeypatch.setattr("napari_peftsam.widgets._annotate_view._HINT_TIME", 10**9)


@pytest.fixture(autouse=True)
def project_folder(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep projects without a name, and the list of recent ones, in folders of this test."""
    monkeypatch.setenv("NAPARI_PEFTSAM_CONFIG", str(user_folder / "configuration"))
    monkeypatch.setenv("NAPARI_PEFTSAM_PROJECTS", str(user_folder / "projects"))
    return user_folder / "projects"


@pytest.fixture(autouse=True)
def _downloads_end() -> Iterator[None]:
    """Leave no download to the next test; they outlive viewers."""
    yield
    from napari_peftsam.widgets._downloads import downloads

    assert downloads().stop_all(timeout=PATIENCE)
    downloads.cache_clear()


@pytest.fixture
def bench(
    make_napari_viewer: Callable[..., napari.Viewer], tiny_checkpoint: Path
) -> Callable[..., Bench]:
    """Return a function that opens a viewer with images and the annotate dock."""

    def build(*images: object, ready: bool = True, **options: object) -> Bench:
        return Bench(make_napari_viewer(), tiny_checkpoint, images, ready=ready, **options)

    return build
