"""A viewer with the annotate dock, and the hands of its user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any

import napari
import numpy as np
import numpy.typing as npt
from napari.utils.interactions import (
    mouse_double_click_callbacks,
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtWidgets import QApplication
from vispy.util import keys

from napari_peftsam.widgets.annotate import AnnotateDock
from napari_peftsam.widgets.session import session_of

SHAPE = (48, 60)
_MODIFIERS = {"Shift": keys.SHIFT, "Control": keys.CONTROL}  # as events of the canvas have them
PATIENCE = 240.0  # s; a limit for a hanging test, not a demand


def blobs(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> npt.NDArray[np.uint16]:
    """Return an image with noise, which every model can normalise."""
    return np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)


def wait(condition: Callable[[], Any], patience: float = PATIENCE) -> None:
    """Run the event loop until the condition holds."""
    end = monotonic() + patience
    while not condition():
        QApplication.processEvents()
        sleep(0.002)  # leaves Python to the worker that is waited for
        assert monotonic() < end, "it did not happen"


def settle() -> None:
    """Run the event loop until everything that is due has happened."""
    for _ in range(5):
        QApplication.processEvents()


class Bench:
    """One viewer with images and the dock; its methods are what a user does."""

    def __init__(
        self,
        viewer: napari.Viewer,
        checkpoint: Path,
        images: Sequence[Any],
        *,
        ready: bool = True,
        **options: Any,
    ) -> None:
        self.viewer = viewer
        self.image_layers = [
            viewer.add_image(data, name=f"image{i}", **options) for i, data in enumerate(images)
        ]
        self.owner = session_of(viewer)
        self.owner.open(checkpoint)
        self.dock = AnnotateDock(viewer)
        self.holder = viewer.window.add_dock_widget(self.dock, name="Annotate")
        self.document, self.layers, self.view = self.dock.document, self.dock.layers, self.dock.view
        if ready and images:
            wait(lambda: self.dock.prompting.state.kind == "ready")

    @property
    def mask(self) -> npt.NDArray[np.bool_] | None:
        current = self.document.current
        return None if current is None else current.mask

    @property
    def prompts(self) -> Any:
        return self.layers.tools.layers

    def click(self, row: float, col: float, *modifiers: str, button: int = 1) -> None:
        """Click at a position in the world of the last two axes."""
        leading = self.viewer.dims.point[:-2]
        self._drag([(*leading, row, col)], modifiers, button)

    def drag(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        before_release: Callable[[], object] | None = None,
    ) -> None:
        """Press the mouse, move, release."""
        leading = self.viewer.dims.point[:-2]
        self._drag([(*leading, *start), (*leading, *end)], (), 1, before_release)
        settle()

    def draw(self, path: Sequence[tuple[float, float]], *modifiers: str, button: int = 1) -> None:
        """Draw a line with the mouse held down."""
        leading = self.viewer.dims.point[:-2]
        self._drag([(*leading, *at) for at in path], modifiers, button)
        settle()

    def double_click(self, row: float, col: float) -> None:
        """Click twice: the second press is a double click for Qt."""
        self.click(row, col)
        layer, leading = self.viewer.layers.selection.active, self.viewer.dims.point[:-2]
        event = SimpleNamespace(
            type="mouse_double_click", button=1, modifiers=(), handled=False,
            position=(*leading, row, col), pos=_pixels((row, col)),
        )  # fmt: skip
        mouse_double_click_callbacks(layer, event)
        settle()

    def _drag(
        self,
        way: list[tuple[float, ...]],
        modifiers: Sequence[str],
        button: int,
        before_release: Callable[[], object] | None = None,
    ) -> None:
        layer = self.viewer.layers.selection.active
        assert layer is not None
        event = SimpleNamespace(
            type="mouse_press",
            button=button,
            modifiers=tuple(_MODIFIERS[each] for each in modifiers),
            is_dragging=False,
            handled=False,
            position=way[0],
            pos=_pixels(way[0]),
            view_direction=None,
            up_direction=None,
            dims_displayed=list(self.viewer.dims.displayed),
            dims_point=list(self.viewer.dims.point),
            camera_zoom=1.0,
        )
        mouse_press_callbacks(layer, event)
        event.is_dragging = True
        for at in [*way, way[-1]] if len(way) > 1 else []:
            event.type, event.position, event.pos = "mouse_move", at, _pixels(at)
            mouse_move_callbacks(layer, event)
        if before_release is not None:
            before_release()
        event.type = "mouse_release"
        mouse_release_callbacks(layer, event)

    def press(self, key: str) -> None:
        """Press a key in the canvas: the active layer's bindings win over the viewer's."""
        binding = coerce_keybinding(key)
        active = self.viewer.layers.selection.active
        for provider in (active, self.viewer):
            if provider is None:
                continue
            keymaps = [
                provider.keymap,
                *(getattr(c, "class_keymap", {}) for c in type(provider).__mro__),
            ]
            for keymap in keymaps:
                if binding in keymap:
                    keymap[binding](provider)
                    settle()
                    return
        raise AssertionError(f"nothing is bound to {key}")

    def answered(self) -> npt.NDArray[np.bool_]:
        """Wait for the mask of the present prompts."""
        wait(lambda: self.mask is not None)
        assert self.mask is not None
        return self.mask

    def segment(self, row: float, col: float) -> int:
        """Click, also inside an accepted object, wait for the mask, and accept it."""
        self.click(row, col, "Control")
        self.answered()
        before = {r.label for r in self.document.records(self.layers.image_id)}
        self.press("Enter")
        after = {r.label for r in self.document.records(self.layers.image_id)}
        (label,) = after - before
        return label


def _pixels(position: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.asarray(position[-2:], float)[::-1] * 10
