"""What the canvas and the fields do with events of Qt, which no shortcut stands in for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pytest
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDockWidget, QPushButton, QWidget

from napari_peftsam.document import ImportLabels
from napari_peftsam.widgets.finetune import training_of
from tests.widgets._annotate_cases import SHAPE, Bench, blobs, settle, wait

LEFT = Qt.MouseButton.LeftButton


class Canvas:
    """The canvas of a shown viewer, and events on it."""

    def __init__(self, b: Bench) -> None:
        self.b = b
        window = b.dock.window()
        kinds = (w for w in window.findChildren(QWidget) if "CanvasBackend" in type(w).__name__)
        self.widget = next(kinds)

    def at(self, row: float, col: float) -> QPoint:
        camera = self.b.viewer.scene.camera
        y, x = (np.array([row, col]) - np.asarray(camera.center)[-2:]) * camera.zoom
        return QPoint(round(x + self.widget.width() / 2), round(y + self.widget.height() / 2))

    def click(
        self, row: float, col: float,
        keys: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier,
        button: Qt.MouseButton = LEFT,
    ) -> None:  # fmt: skip
        QTest.mouseClick(self.widget, button, keys, self.at(row, col))
        settle()

    def double_click(self, row: float, col: float) -> None:
        """Press and release twice; the second press is a double click."""
        place = QPointF(self.at(row, col))
        for kind in (
            QEvent.Type.MouseButtonPress, QEvent.Type.MouseButtonRelease,
            QEvent.Type.MouseButtonDblClick, QEvent.Type.MouseButtonRelease,
        ):  # fmt: skip
            up = kind == QEvent.Type.MouseButtonRelease
            held = Qt.MouseButton.NoButton if up else LEFT
            event = QMouseEvent(kind, place, place, LEFT, held, Qt.KeyboardModifier.NoModifier)
            QApplication.sendEvent(self.widget, event)
        settle()


@pytest.fixture
def canvas(make_napari_viewer: Callable[..., napari.Viewer], tiny_checkpoint: Path) -> Canvas:
    b = Bench(make_napari_viewer(show=True), tiny_checkpoint, [blobs()])
    b.viewer.reset_view()
    settle()
    return Canvas(b)


def put_an_object(b: Bench) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[10:30, 20:40] = 1
    b.document.do(ImportLabels(b.layers.image_id, labels))
    settle()


@pytest.mark.parametrize(
    ("options", "positive"),
    [
        ({}, True),
        ({"keys": Qt.KeyboardModifier.ShiftModifier}, False),
        ({"button": Qt.MouseButton.RightButton}, False),
    ],
    ids=["plain", "shift", "right"],
)
def test_shift_and_the_right_button_deny(
    canvas: Canvas, options: dict[str, Any], positive: bool
) -> None:
    canvas.click(40, 10, **options)
    assert canvas.b.document.current is not None
    [point] = canvas.b.document.current.prompts.points
    assert point.positive is positive


def test_control_and_shift_add_to_the_selection(canvas: Canvas) -> None:
    put_an_object(canvas.b)
    keys = Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.ControlModifier
    canvas.click(20, 30, keys)
    assert canvas.b.view.table.selected_labels() == [1]
    assert canvas.b.document.current is None


def test_a_double_click_reopens_and_the_view_stays(canvas: Canvas) -> None:
    put_an_object(canvas.b)
    before = canvas.b.viewer.scene.camera.zoom
    canvas.double_click(20, 30)
    assert canvas.b.document.current is not None
    assert canvas.b.document.current.reopens == 1
    assert canvas.b.viewer.scene.camera.zoom == before
    canvas.b.viewer.window.remove_dock_widget(canvas.b.dock)
    names = [each.__name__ for each in canvas.b.viewer.mouse_double_click_callbacks]
    assert "double_click_to_zoom" in names  # napari's own is given back


def test_masks_are_hidden_while_a_key_is_held(canvas: Canvas) -> None:
    put_an_object(canvas.b)
    objects = canvas.b.layers.objects
    QTest.keyPress(canvas.widget, Qt.Key.Key_J)
    settle()
    assert not objects.visible
    QTest.keyRelease(canvas.widget, Qt.Key.Key_J)
    wait(lambda: objects.visible)


@pytest.mark.parametrize("name", ["undo", "Home"])
def test_a_click_on_a_button_leaves_the_keys_to_the_canvas(canvas: Canvas, name: str) -> None:
    b = canvas.b
    put_an_object(b)
    b.viewer.add_image(np.zeros((3, *SHAPE)))
    window = b.dock.window()
    others = window.findChild(QDockWidget, "layer list").findChildren(QPushButton)
    homes = [each for each in others if "reset" in each.toolTip().lower()]
    [button] = [b.view.undo] if name == "undo" else homes
    b.view.images.search.setVisible(True)
    b.view.images.search.setFocus()
    QTest.mouseClick(button, LEFT)
    settle()
    b.viewer.dims.set_current_step(0, 1)
    QTest.keyClick(window.focusWidget(), Qt.Key.Key_Left)
    assert b.viewer.dims.current_step[0] == 0


def test_the_compared_model_is_named_while_the_key_is_held(canvas: Canvas) -> None:
    b = canvas.b
    wait(lambda: b.dock.prompting.state.kind == "ready")
    overlay, training = b.viewer.canvas.overlays.text, training_of(b.owner)
    overlay.text, overlay.visible = "figure 1", True
    training.before, training.after = "v1", "base"  # as after a training
    QTest.keyPress(canvas.widget, Qt.Key.Key_H)
    settle()
    assert (overlay.text, overlay.visible, overlay.font_size) == ("v1", True, 28.0)
    QTest.keyRelease(canvas.widget, Qt.Key.Key_H)
    wait(lambda: overlay.text == "figure 1")
    assert overlay.font_size == 10


def test_the_status_bar_has_no_hints_at_naparis_tools_for_prompts(canvas: Canvas) -> None:
    b = canvas.b
    for key in "WQ":
        b.press(key)
        assert b.viewer.help == ""


def test_the_search_keeps_its_keys(canvas: Canvas) -> None:
    b = canvas.b
    for number in range(9):
        b.viewer.add_image(blobs(seed=number), name=f"more{number}", visible=False)
    b.press("Q")
    canvas.click(40, 10)
    b.answered()
    search, shown = b.view.images.search, b.layers.image
    QTest.keyClicks(search, "zz")
    for key in (Qt.Key.Key_Return, Qt.Key.Key_Escape, Qt.Key.Key_Return):
        QTest.keyClick(search, key)
        settle()
    assert search.text() == ""
    assert b.layers.image is shown
    assert b.document.current is not None
    assert not b.document.records(b.layers.image_id)
