"""Whatever a user does in whatever order: labels, records, table and project say the same.

``EPISODES=100 ACTIONS=60`` in the environment runs more than the suite does, ``FIRST=17`` begins
with that one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari.layers._layer_actions as menu
import numpy as np
import psutil
import pytest
from napari.utils.notifications import notification_manager

from napari_peftsam.document import Undo, verify
from napari_peftsam.widgets.finetune import FinetuneDock
from tests.document._cases import check_invariants
from tests.widgets._annotate_cases import SHAPE, Bench, blobs, settle, wait

EPISODES = int(os.environ.get("EPISODES", "10"))
ACTIONS = int(os.environ.get("ACTIONS", "60"))
FIRST = int(os.environ.get("FIRST", "0"))
KEYS = (
    *("Q", "W", "Shift-W", "Shift-Q", "N", "G", "Shift-G", "Enter", "Enter", "Enter"),
    *("Shift-Enter", "Alt-Enter", "Alt-Shift-Enter", "Escape", "Shift-Escape", "Delete"),
    *("Shift-X", "Shift-K", "Shift-U", "Shift-E", "Shift-C", "Shift-S", "U", ".", "Shift-N"),
    *("Shift-O", "PageUp", "PageDown", "Shift-PageDown", "Shift-J"),
    *("Control-Z", "Control-Z", "Control-Shift-Z"),
)  # fmt: skip


class User:
    """Does one thing after another, drawn at random."""

    def __init__(self, bench: Bench, finetune: FinetuneDock, checkpoint: Path, seed: int) -> None:
        self.bench, self.finetune, self.checkpoint = bench, finetune, checkpoint
        self.rng = np.random.default_rng(seed)
        self.done: list[str] = []

    def act(self) -> None:
        actions: dict[Callable[[], str | None], int] = {
            self.click: 8, self.make_an_object: 6, self.drag: 4, self.key: 12,
            self.wait_for_the_mask: 4, self.hide: 2, self.rename: 1,
            self.lock: 1, self.delete: 1, self.duplicate: 1, self.convert: 1,
            self.reorder: 1, self.activate: 2, self.step: 2, self.other_image: 2, self.opacity: 1,
            self.axes: 1, self.model: 1, self.train: 1, self.paint: 2, self.add: 1,
        }  # fmt: skip
        weights = np.array(list(actions.values()), float)
        action = list(actions)[int(self.rng.choice(len(actions), p=weights / weights.sum()))]
        self.done.append(action.__name__)
        try:
            told = action()
        except Exception as error:  # napari's own failures are not ours
            if _is_ours(error) or isinstance(error, AssertionError):
                raise
            told = f"napari: {error}"
        self.done[-1] += f" {told}" if told else ""

    # --- what a person can do -------------------------------------------------------

    def _somewhere(self) -> tuple[float, float]:
        row, col = self.rng.uniform(-2, np.array(SHAPE) + 2)
        return float(row), float(col)

    def _layer(self) -> Any:
        layers = self.bench.viewer.layers
        return layers[int(self.rng.integers(len(layers)))] if len(layers) else None

    def _selected(self) -> Any:
        layer = self._layer()
        if layer is not None:
            self.bench.viewer.layers.selection = {layer}
        return layer

    def click(self) -> str | None:
        if self.bench.viewer.layers.selection.active is None:
            return "no layer"
        modifiers = self.rng.choice(["", "Control", "Shift"], p=[0.7, 0.2, 0.1])
        self.bench.click(*self._somewhere(), *filter(None, [str(modifiers)]))
        return str(modifiers)

    def drag(self) -> str | None:
        if self.bench.viewer.layers.selection.active is None:
            return "no layer"
        self.bench.drag(self._somewhere(), self._somewhere())
        return None

    def key(self) -> str:
        key = str(self.rng.choice(KEYS))
        self._press(key)
        return key

    def _press(self, key: str) -> None:
        try:
            self.bench.press(key)
        except AssertionError as error:
            assert "nothing is bound" in str(error)  # noqa: PT017

    def wait_for_the_mask(self) -> None:
        prompting, review = self.bench.dock.prompting, self.bench.dock.reviewing
        wait(lambda: not review.run.is_running)
        current = self.bench.document.current
        # The mask of an object in another plane is computed when that one is shown again.
        if current is None or current.plane != self.bench.layers.plane:
            return
        wait(lambda: self.bench.mask is not None or prompting.state.kind != "ready")

    def make_an_object(self) -> None:
        self.click()
        self.wait_for_the_mask()
        self._press("Enter")

    def hide(self) -> str | None:
        layer = self._layer()
        if layer is not None:
            layer.visible = not layer.visible
        return str(layer)

    def rename(self) -> str | None:
        layer = self._layer()
        if layer is not None:
            layer.name = str(self.rng.choice(["renamed", "image0", "objects", "prompt points", ""]))
        return str(layer)

    def lock(self) -> str | None:
        layer = self._selected()
        menu._toggle_lock(self.bench.viewer.layers)
        return str(layer)

    def delete(self) -> str | None:
        layer = self._selected()
        if self.rng.random() < 0.5 and layer is not None:
            layer.locked = False
        self.bench.viewer.layers.remove_selected()
        return str(layer)

    def duplicate(self) -> str | None:
        layer = self._selected()
        menu._duplicate_layer(self.bench.viewer.layers)
        return str(layer)

    def convert(self) -> str | None:
        layer = self._selected()
        menu._convert(self.bench.viewer.layers, str(self.rng.choice(["labels", "image"])))
        return str(layer)

    def reorder(self) -> None:
        layers = self.bench.viewer.layers
        if len(layers) > 1:
            layers.move(*map(int, self.rng.integers(0, len(layers), 2)))

    def activate(self) -> str | None:
        layer = self._layer()
        self.bench.viewer.layers.selection.active = layer
        return str(layer)

    def opacity(self) -> str | None:
        layer = self._layer()
        if layer is not None:
            layer.opacity = float(self.rng.choice([0.0, 0.5, 1.0]))
        return str(layer)

    def step(self) -> None:
        dims = self.bench.viewer.dims
        dims.set_current_step(0, int(self.rng.integers(0, max(1, dims.nsteps[0]))))

    def axes(self) -> str:
        dims = self.bench.viewer.dims
        if self.rng.random() < 0.5:
            dims.ndisplay = 5 - dims.ndisplay
        else:
            dims.transpose()
        return f"{dims.ndisplay}D {dims.order}"

    def other_image(self) -> None:
        images = self.bench.layers.image_layers
        if images:
            self.bench.layers.select_image(images[int(self.rng.integers(len(images)))])

    def add(self) -> str:
        shape = SHAPE if self.rng.random() < 0.7 else (3, *SHAPE)
        name = str(self.rng.choice(["image0", "more"]))
        self.bench.viewer.add_image(blobs(shape, seed=int(self.rng.integers(9))), name=name)
        return name

    def paint(self) -> str | None:
        layer = self.bench.layers.objects
        if layer is None or layer not in self.bench.viewer.layers:
            return "no layer"
        label = int(self.rng.integers(0, 5))
        at = [int(x) for x in self.rng.integers(0, layer.data.shape)]
        layer.selected_label, layer.brush_size = label, int(self.rng.integers(1, 9))
        layer.paint(at, label)
        return f"{label} at {at}"

    def model(self) -> None:
        self.bench.owner.open(self.checkpoint)

    def train(self) -> str:
        options = self.finetune.options
        options.unit.setCurrentText("steps")
        options.amount.setValue(int(self.rng.integers(1, 4)))
        button = self.finetune.view.train
        if button.isEnabled():
            button.click()
        return f"running: {self.finetune.training.is_running}"

    # --- what must hold -------------------------------------------------------------

    def check(self) -> None:
        """Look at labels, records, table and project."""
        document, layers = self.bench.document, self.bench.layers
        check_invariants(document)
        shown = layers.image_id
        table = self.bench.view.table.objects
        expected = 0 if shown is None else len(document.records(shown))
        assert table.rowCount() == expected
        for row in range(table.rowCount()):
            for column in range(table.columnCount()):
                table.data(table.index(row, column))


def _is_ours(error: BaseException) -> bool:
    """Return whether code of the project is in the traceback of an error or its causes."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if "napari_peftsam" in trace.tb_frame.f_globals["__name__"]:
                return True
            trace = trace.tb_next
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return False


@pytest.mark.filterwarnings("ignore:Contours are not displayed:UserWarning")  # napari's, in 3D
@pytest.mark.parametrize("seed", range(FIRST, FIRST + EPISODES))
def test_a_random_user_breaks_nothing(
    bench: Callable[..., Bench], tiny_checkpoint: Path, seed: int
) -> None:
    threads = set(threading.enumerate())
    children = set(psutil.Process().children(recursive=True))
    b = bench(blobs(), blobs((3, *SHAPE), seed=1))
    dock = FinetuneDock(b.viewer)
    b.viewer.window.add_dock_widget(dock, name="Finetune")
    user = User(b, dock, tiny_checkpoint, seed)
    told = len(notification_manager.records)
    try:
        for _ in range(ACTIONS):
            user.act()
            settle()
            user.check()
        wait(lambda: not b.dock.reviewing.run.is_running)
        document = b.document
        _, differences = verify(document.store)
        assert differences == []
        while document.undo_label:
            document.do(Undo())
        settle()
        user.check()
        errors = [
            record.exception
            for record in list(notification_manager.records)[told:]
            if getattr(record, "exception", None) and _is_ours(record.exception)
        ]
        assert errors == []
    except BaseException as error:
        error.add_note("after " + "; ".join(user.done))
        raise
    b.viewer.close()
    settle()
    wait(lambda: set(psutil.Process().children(recursive=True)) <= children)
    left = [t for t in set(threading.enumerate()) - threads if not t.daemon and t.is_alive()]
    assert left == []
