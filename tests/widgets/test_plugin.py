"""The docks open the way napari's menu opens them, all at once, and close again."""

from __future__ import annotations

from collections.abc import Callable

import napari
import numpy as np
import pytest
from qtpy.QtWidgets import QDockWidget, QScrollArea

from napari_peftsam.widgets import (
    AdaptersDock,
    AnnotateDock,
    ExportDock,
    FinetuneDock,
    ModelsDock,
)
from napari_peftsam.widgets._dock import Dock
from napari_peftsam.widgets._parts import DOCK_WIDTH
from napari_peftsam.widgets.launch import add_dock
from napari_peftsam.widgets.panels import PANELS, panel_dock
from napari_peftsam.widgets.session import session_of
from tests.widgets._annotate_cases import settle

DOCKS = {
    "Annotate": AnnotateDock,
    "Finetune": FinetuneDock,
    "Adapters": AdaptersDock,
    "Models": ModelsDock,
    "Export": ExportDock,
}


@pytest.mark.styled
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


def test_the_command_line_opens_one_dock(
    make_napari_viewer: Callable[..., napari.Viewer],
) -> None:
    viewer = make_napari_viewer(show=True)
    add_dock(viewer)
    settle()
    [dock] = viewer.window.dock_widgets.values()
    assert isinstance(dock, AnnotateDock)
    names = ("layer list", "layer controls")
    folded = [dock.window().findChild(QDockWidget, name) for name in names]
    assert not any(each.isVisible() for each in folded)
    dock.view.layers.click()
    assert all(each.isVisible() for each in folded)


def test_the_dock_has_one_width_whatever_it_shows(
    make_napari_viewer: Callable[..., napari.Viewer],
) -> None:
    viewer = make_napari_viewer(show=True)
    for number in range(12):
        viewer.add_image(np.random.default_rng(number).random((32, 32)), name="a long name " * 9)
    add_dock(viewer)
    [dock] = viewer.window.dock_widgets.values()
    area = dock.findChild(QScrollArea)
    texts = (dock.view.candidate, dock.view.score, dock.view.sources.model_status)
    for label, text in zip(texts, ("3/3", "0.97", "CUDA"), strict=True):
        label.setText(text)
    settle()
    assert dock.width() == DOCK_WIDTH
    assert area.widget().minimumSizeHint().width() <= area.viewport().width()


def test_the_other_docks_are_panels(make_napari_viewer: Callable[..., napari.Viewer]) -> None:
    viewer = make_napari_viewer(show=True)
    add_dock(viewer)
    [dock] = viewer.window.dock_widgets.values()
    for title in PANELS:
        dock.view.panels[title].click()
        settle()
        inner = panel_dock(dock, title)
        assert isinstance(inner, DOCKS[title])
        assert inner.isVisible()
        inner.window().close()
        settle()
        assert not inner.isVisible()
        dock.view.panels[title].click()
        settle()
        assert panel_dock(dock, title) is inner  # as it was left
        assert inner.isVisible()


def test_what_ends_after_the_viewer_reaches_no_dock(
    make_napari_viewer: Callable[..., napari.Viewer],
) -> None:
    viewer = make_napari_viewer()
    add_dock(viewer)
    owner = session_of(viewer)
    settle()
    viewer.close()
    settle()
    owner.events.model_changed.emit()  # as a thread does that still loads one
    owner.events.adapters_changed.emit()
    settle()
    assert owner.is_closed
