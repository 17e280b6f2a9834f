"""The docks open the way napari's menu opens them, all at once, and close again."""

from __future__ import annotations

from collections.abc import Callable

import napari
import numpy as np
import pytest

from napari_peftsam.widgets import (
    AdaptersDock,
    AnnotateDock,
    ExportDock,
    FinetuneDock,
    ModelsDock,
)
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets.launch import add_docks
from napari_peftsam.widgets.session import session_of
from tests.widgets._annotate_cases import settle

DOCKS = {
    "Annotate": AnnotateDock,
    "Finetune": FinetuneDock,
    "Adapters": AdaptersDock,
    "Models": ModelsDock,
    "Export": ExportDock,
}


@pytest.mark.parametrize(("name", "kind"), DOCKS.items(), ids=list(DOCKS))
def test_napari_opens_each_dock_from_its_menu(
    name: str, kind: type[Dock], make_napari_viewer_proxy: Callable[..., napari.Viewer]
) -> None:
    viewer = make_napari_viewer_proxy()
    viewer.add_image(np.random.default_rng(0).random((32, 32)))
    _, dock = viewer.window.add_plugin_dock_widget("napari-peftsam", name)
    settle()
    assert isinstance(dock, kind)
    assert dock.minimumSizeHint().width() <= 320


def test_docks_from_the_menu_lie_behind_each_other(
    make_napari_viewer_proxy: Callable[..., napari.Viewer],
) -> None:
    viewer = make_napari_viewer_proxy()
    holders = {}
    for name in DOCKS:
        holders[name], _ = viewer.window.add_plugin_dock_widget("napari-peftsam", name)
        settle()
    window = holders["Annotate"].window()
    behind = set(window.tabifiedDockWidgets(holders["Finetune"]))
    assert behind == {holders[name] for name in ("Adapters", "Models", "Export")}
    assert window.tabifiedDockWidgets(holders["Annotate"]) == []


def test_the_command_line_opens_all_docks(
    make_napari_viewer: Callable[..., napari.Viewer],
) -> None:
    viewer = make_napari_viewer()
    add_docks(viewer)
    settle()
    assert {type(dock) for dock in viewer.window.dock_widgets.values()} == set(DOCKS.values())


def test_what_ends_after_the_viewer_reaches_no_dock(
    make_napari_viewer: Callable[..., napari.Viewer],
) -> None:
    viewer = make_napari_viewer()
    add_docks(viewer)
    owner = session_of(viewer)
    settle()
    viewer.close()
    settle()
    owner.events.model_changed.emit()  # as a thread does that still loads one
    owner.events.adapters_changed.emit()
    settle()
    assert owner.is_closed
