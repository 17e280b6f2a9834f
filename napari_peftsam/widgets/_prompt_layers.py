"""The layers that show the prompts and the mask of the object being made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Layer, Points, Shapes
from napari.utils import DirectLabelColormap

from napari_peftsam.types import BoolArray, Box, Point, Prompts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari
    import numpy.typing as npt

__all__ = ["PromptLayers"]

# Told apart by lightness and shape as well as by hue.
_POSITIVE, _NEGATIVE, _WAITING = "#3ddc5b", "#ff3b30", "#ffd60a"
_MASK = "#00c8ff"
_SIZE = 14  # px on the screen
_DONE = {"added", "removed", "changed"}


class PromptLayers:
    """Points, boxes and mask as 2D layers, which napari shows in every plane.

    They only show what the session holds. What the user changes in them is handed on,
    as all prompts of the queue, to `on_edit`.

    Parameters
    ----------
    viewer
        Gets the layers.
    on_edit
        Called with the edited prompts: of the object being made, then of the queue.
    sign
        Returns whether a point added with napari's own tool is positive.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        on_edit: Callable[[tuple[Prompts, ...]], None],
        sign: Callable[[], bool],
    ) -> None:
        self._on_edit = on_edit
        self._sign = sign
        self._prompts: tuple[Prompts, ...] = ()
        self._busy = False
        self.mask = Labels(
            np.zeros((1, 1), np.uint8),
            name="mask",
            opacity=0.55,
            colormap=DirectLabelColormap(color_dict={None: "transparent", 1: _MASK}),
        )
        self.boxes = Shapes(
            ndim=2, name="prompt boxes", face_color="transparent", edge_color=_POSITIVE, edge_width=1
        )
        self.points = Points(
            ndim=2, name="prompt points", size=_SIZE, face_color=_POSITIVE, border_color="black"
        )
        self.layers: tuple[Layer, ...] = (self.mask, self.boxes, self.points)
        self.mask.editable = False
        self.points.events.data.connect(self._points_edited)
        self.boxes.events.data.connect(self._boxes_edited)
        viewer.layers.extend(self.layers)
        for layer in self.layers:
            layer.locked = True

    def release(self, viewer: napari.Viewer) -> None:
        """Take the layers out of the viewer."""
        self.points.events.data.disconnect(self._points_edited)
        self.boxes.events.data.disconnect(self._boxes_edited)
        for layer in self.layers:
            layer.locked = False
            if layer in viewer.layers:
                viewer.layers.remove(layer)

    def place(self, affine: npt.NDArray[np.float64], units: Sequence[Any]) -> None:
        """Put the layers where an image plane is."""
        for layer in self.layers:
            layer.units = units
            layer.affine = affine

    def show_prompts(self, prompts: tuple[Prompts, ...], waiting: bool) -> None:
        """Show these prompts: of the object being made, then of the queue."""
        self._prompts = prompts
        with self._quietly():
            self._show_points(prompts[0].points if prompts else (), waiting)
            self._show_boxes(prompts, waiting)

    def show_mask(self, mask: BoolArray | None, shape: tuple[int, int]) -> None:
        """Show a mask ``(H, W)``, or none in a plane of this shape."""
        if mask is not None:
            self.mask.data = mask.astype(np.uint8)
        elif self.mask.data.shape != shape or self.mask.data.any():
            self.mask.data = np.zeros(shape, np.uint8)

    # --- helpers --------------------------------------------------------------------

    def _show_points(self, points: Sequence[Point], waiting: bool) -> None:
        layer = self.points
        layer.selected_data = set()
        layer.data = np.array([(p.row, p.col) for p in points], float).reshape(-1, 2)
        if not points:
            return
        layer.size = _SIZE / max(1.0, self._zoom())
        layer.symbol = ["disc" if p.positive else "ring" for p in points]
        layer.face_color = [_POSITIVE if p.positive else _NEGATIVE for p in points]
        layer.border_color = _WAITING if waiting else "black"
        layer.border_width = 0.25 if waiting else 0.08

    def _show_boxes(self, prompts: Sequence[Prompts], waiting: bool) -> None:
        layer = self.boxes
        boxes = [p.box for p in prompts if p.box is not None]
        layer.selected_data = set()
        layer.data = []
        if boxes:
            colors = [_WAITING if waiting else _POSITIVE, *[_WAITING] * (len(boxes) - 1)]
            layer.add_rectangles([_corners(box) for box in boxes], edge_color=colors)

    def _points_edited(self, event: Any) -> None:
        if self._busy or event.action.value not in _DONE:
            return
        first = self._prompts[0] if self._prompts else Prompts()
        signs = _signs(event, first.points, self._sign())
        points = tuple(
            Point(float(at[0]), float(at[1]), sign)
            for at, sign in zip(self.points.data, signs, strict=True)
        )
        self._edited((Prompts(points, first.box), *self._prompts[1:]))

    def _boxes_edited(self, event: Any) -> None:
        if self._busy or event.action.value not in _DONE:
            return
        shown = [i for i, p in enumerate(self._prompts) if p.box is not None]
        boxes = [_box(corners) for corners in self.boxes.data]
        prompts = list(self._prompts)
        if event.action.value == "removed":
            for i in event.data_indices:
                prompts[shown[i]] = prompts[shown[i]].with_box(None)
        else:
            for i, box in zip(shown, boxes, strict=False):
                prompts[i] = prompts[i].with_box(box or prompts[i].box)
            for box in boxes[len(shown) :]:
                _add_box(prompts, box)
        self._edited(tuple(prompts))

    def _edited(self, prompts: tuple[Prompts, ...]) -> None:
        self._on_edit(prompts)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
