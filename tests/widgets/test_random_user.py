"""A user who presses everything: whatever comes of it, labels, table and screen agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.layers import Image
from qtpy.QtCore import Qt

from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._objects_table import FILTERS
from tests.document._cases import check_invariants
from tests.widgets._annotate_cases import SHAPE, Bench, blobs, settle, wait

Open = Callable[..., Bench]

STEPS = 250
KEYS = (
    "Q", "W", "Shift-Q", "Shift-W", "N", "G", "Shift-G", "Enter", "Shift-Enter", "Alt-Enter",
    "Alt-Shift-Enter", "Escape", "Shift-Escape", "Delete", "Shift-X", "Shift-K", "Shift-U",
    "Shift-E", "Shift-C", "Shift-S", "PageUp", "PageDown", "Shift-PageDown", "Control-Z",
    "Control-Z", "Control-Shift-Z",
)  # fmt: skip


class User:
    """Does something at random, with mouse, keys, buttons and layers."""

    def __init__(self, b: Bench, seed: int) -> None:
        self.b, self.random = b, np.random.default_rng(seed)
        self.log: list[str] = []
        self.ways: list[tuple[int, Callable[[], object]]] = [
            (6, self.click), (2, self.double_click), (4, self.draw), (8, self.key),
            (2, self.button), (2, self.row), (1, self.sort), (1, self.filter), (1, self.eye),
            (1, self.rename), (1, self.activate), (1, self.plane), (1, self.zoom), (1, self.paint),
            (2, self.wait), (1, self.menu), (1, self.reorder), (1, self.use_class),
            (1, self.categorize),
        ]  # fmt: skip
        b.dock.corrections.ask_number = lambda *_: int(self.random.integers(1, 30))
        b.dock.corrections.ask_text = lambda *_: "cell"

    def step(self) -> None:
        weights = np.array([weight for weight, _ in self.ways], float)
        _, way = self.ways[self.random.choice(len(self.ways), p=weights / weights.sum())]
        self.log.append(way.__name__)
        way()
        settle()

    def one_of(self, values: Any) -> Any:
        values = list(values)
        return values[self.random.integers(len(values))] if values else None

    def place(self) -> tuple[float, float]:
        row, col = self.random.uniform((-3, -3), (SHAPE[0] + 3, SHAPE[1] + 3))
        return float(row), float(col)

    def mouse_button(self) -> int:
        # With the right button napari's brush goes on until its canvas sees the release.
        return 1 if self.b.layers.tools.brush else int(self.random.integers(1, 3))

    def click(self) -> None:
        keys = self.one_of([(), (), ("Shift",), ("Control",), ("Shift", "Control")])
        if self.b.viewer.layers.selection.active is not None:
            self.b.click(*self.place(), *keys, button=self.mouse_button())

    def double_click(self) -> None:
        if self.b.viewer.layers.selection.active is not None:
            self.b.double_click(*self.place())

    def draw(self) -> None:
        if self.b.viewer.layers.selection.active is not None:
            path = [self.place() for _ in range(int(self.random.integers(2, 6)))]
            self.b.draw(path, button=self.mouse_button())

    def key(self) -> None:
        key = self.one_of(KEYS)
        self.log[-1] = f"key {key}"
        self.b.press(key)

    def button(self) -> None:
        view = self.b.view
        buttons = (
            view.point, view.box, view.lasso, view.scribble, view.sign, view.accept, view.discard,
            view.accept_all, view.replace, view.cut_out, view.undo, view.redo, view.clean,
            view.preview, view.images.complete, view.images.next_image, view.correct.delete,
            view.correct.grow, view.correct.split, *view.correct.brushes.values(),
        )  # fmt: skip
        button = self.one_of(buttons)
        self.log[-1] = f"button {button.text()}"
        button.click()

    def menu(self) -> None:
        action = self.one_of([a for a in self.b.view.correct.menu.actions() if not a.menu()])
        self.log[-1] = f"menu {action.text()}"
        action.trigger()

    def row(self) -> None:
        table = self.b.view.table
        rows = table.objects.rowCount()
        if rows:
            label = table.objects.label(int(self.random.integers(rows)))
            table.select(label, add=bool(self.random.integers(2)))

    def sort(self) -> None:
        table = self.b.view.table
        order = self.one_of([Qt.SortOrder.AscendingOrder, Qt.SortOrder.DescendingOrder])
        table.sortByColumn(int(self.random.integers(table.objects.columnCount())), order)

    def filter(self) -> None:
        self.b.view.correct.filter.activated.emit(int(self.random.integers(len(FILTERS))))

    def eye(self) -> None:
        layer = self.one_of(self.b.viewer.layers)
        self.log[-1] = f"eye {layer.name}"
        layer.visible = not layer.visible

    def rename(self) -> None:
        layer = self.one_of(x for x in self.b.viewer.layers if isinstance(x, Image))
        if layer is not None:
            layer.name = f"image {self.random.integers(4)}"

    def activate(self) -> None:
        layer = self.one_of(self.b.viewer.layers)
        self.log[-1] = f"activate {layer.name}"
        self.b.viewer.layers.selection.active = layer

    def reorder(self) -> None:
        layers = self.b.viewer.layers
        layers.move(int(self.random.integers(len(layers))), int(self.random.integers(len(layers))))

    def use_class(self) -> None:
        combo = self.b.view.correct.category
        index = int(self.random.integers(combo.count()))
        self.log[-1] = f"class {combo.itemText(index)}"
        combo.setCurrentIndex(index)
        combo.activated.emit(index)

    def categorize(self) -> None:
        corrections, name = self.b.dock.corrections, self.one_of(["", "nucleus", "cell"])
        self.log[-1] = f"categorize {name}"
        self.b.layers.attempt(lambda: corrections.categorize(name))

    def plane(self) -> None:
        if self.b.viewer.dims.ndim > 2:
            self.b.viewer.dims.set_point(0, int(self.random.integers(3)))

    def zoom(self) -> None:
        self.b.viewer.scene.camera.zoom = float(self.random.uniform(1, 9))

    def paint(self) -> None:
        objects = self.one_of(self.b.layers.object_layers)
        if objects is not None and objects in self.b.viewer.layers and objects.visible:
            row, col = (int(self.random.integers(n)) for n in SHAPE)
            index = (0,) * (objects.data.ndim - 2)
            objects.data_setitem(
                tuple(np.array([i]) for i in (*index, row, col)), int(self.random.integers(4))
            )

    def wait(self) -> None:
        if self.b.document.current is not None and self.b.layers.plane is not None:
            wait(lambda: not self.b.dock.prompting.state.is_awaited)


def check(b: Bench) -> None:
    """Labels, records, table and screen agree."""
    document, layers = b.document, b.layers
    check_invariants(document)
    images = [layer for layer in b.viewer.layers if isinstance(layer, Image)]
    assert layers.image in images
    visible = [layer for layer in images if layer.visible]
    assert visible in ([layers.image], [])  # its eye may be shut
    assert layers.objects.data is document.image(layers.image_id).array(document.label_set)
    own = [layer for layer in b.viewer.layers if layer not in b.prompts.layers]
    assert set(own) == {*images, *layers.object_layers}
    assert len(layers.object_layers) >= len(document.image(layers.image_id).label_sets)
    model = b.view.table.objects
    assert model.image == layers.image_id
    records = document.image(layers.image_id).records
    shown = [model.label(row) for row in range(model.rowCount())]
    assert set(shown) <= set(records)
    assert len(set(shown)) == len(shown)
    assert b.view.images.name.text() == layers.image.name
    assert document.image(layers.image_id).name == layers.image.name
    pending = document.pending
    assert (pending.plane is None) == (not pending.queue)
    if document.current is None or document.current.plane != layers.plane:
        assert not b.prompts.mask.numbers.any()
        # What is hidden is shown as it was until its eye opens.
        assert not len(b.prompts.points.data) or not b.prompts.points.visible
    assert b.view.undo.isEnabled() == (document.undo_label is not None)


@pytest.mark.parametrize("seed", [2, 3])
def test_whatever_the_user_does(bench: Open, seed: int) -> None:
    b = bench(blobs(), np.stack([blobs(seed=n) for n in (1, 2, 3)]), blobs(seed=4))
    user = User(b, seed)
    refused: list[Exception] = []
    b.layers.events.failed.connect(refused.append)
    for number in range(STEPS):
        user.step()
        try:
            check(b)
        except AssertionError as error:
            last = ", ".join(user.log[-12:])
            raise AssertionError(f"after step {number}: {last}") from error
    assert all(isinstance(error, PeftSamError) for error in refused)
    while b.document.undo() is not None:
        pass
    settle()
    check(b)
    assert not any(image.records for image in b.document.images.values())
