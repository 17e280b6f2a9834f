"""Labels layers over the image that are added when they first have something to show."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Layer
from napari.utils import DirectLabelColormap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    from napari.components import LayerList


@contextmanager
def drawn_once(layer: Layer) -> Iterator[None]:
    """Let napari draw a layer once, at the end; the world is not measured: the image fills it."""
    try:
        with layer.events.blocker_all():
            yield
    finally:
        layer.refresh(thumbnail=False)


@contextmanager
def same_selection(layers: LayerList) -> Iterator[None]:
    """Keep the active layer while others are inserted.

    napari activates each of them, and showing its controls is a third of the time that adding it
    takes.
    """
    active = layers.selection.active
    with layers.selection.events.active.blocker():
        try:
            yield
        finally:
            layers.selection.active = active


def spare_tools(layer: Labels) -> None:
    """Let napari make the marks of its polygon and its brush once they are used.

    They are half of the time that adding a layer of labels takes.
    """
    known = getattr(layer, "_overlays", {})
    tools = {"polygon": known.get("polygon"), "paint": known.get("brush_stroke")}

    def take() -> None:
        for mode, tool in tools.items():
            if tool is not None:
                tool.visible = layer.mode == mode

    take()
    layer.events.mode.connect(take)


def put(layer: Layer, units: Sequence[Any] | None, affine: Any) -> None:
    """Put a layer where an image plane is, unless it is there: napari draws it anew each time."""
    layer.units = units
    if not np.array_equal(layer.affine.affine_matrix, np.eye(3) if affine is None else affine):
        layer.affine = affine


class Overlay:
    """Numbers over a part of the shown plane.

    napari takes a tenth of a second to add a layer of labels: a window opens without it.

    Parameters
    ----------
    name, opacity
        Of the layer.
    colours
        Of its numbers. They stay: a new map of them takes napari 0.1 s.
    add
        Adds a layer of this overlay to the viewer.
    rim
        Width in pixels of the rims that are shown of the numbers; 0: they are filled. napari
        would compute contours of its own anew for each of several events.

    Attributes
    ----------
    layer
        None until there was something to show.
    """

    def __init__(
        self,
        name: str,
        opacity: float,
        colours: dict[int | None, str],
        add: Callable[[Overlay, Labels], None],
        rim: int = 0,
    ) -> None:
        self.layer: Labels | None = None
        self._name, self._opacity, self._rim, self._add = name, opacity, rim, add
        self._colours: dict[int | None, str] = {None: "transparent", **colours}
        self._place: dict[str, Any] = {}

    @property
    def numbers(self) -> npt.NDArray[np.uint8]:
        """The numbers ``(h, w)`` that are shown, which may be changed; see `refresh`."""
        return np.zeros((1, 1), np.uint8) if self.layer is None else np.asarray(self.layer.data)

    def place(self, units: Sequence[Any] | None, affine: npt.NDArray[np.float64] | None) -> None:
        """Lie where an image plane is, in the units of its rows and columns."""
        self._place = {"units": units, "affine": affine}
        if self.layer is not None:
            put(self.layer, units, affine)

    def need(self) -> Labels:
        """Return the layer, which is added if there is none."""
        if self.layer is None:
            self.layer = Labels(
                np.zeros((1, 1), np.uint8),
                name=self._name,
                opacity=self._opacity,
                colormap=DirectLabelColormap(color_dict=self._colours),
                **self._place,
            )
            self.layer.editable = False
            spare_tools(self.layer)
            self._add(self, self.layer)
        return self.layer

    def lay(
        self, numbers: npt.NDArray[np.uint8] | None = None, offset: tuple[int, int] = (0, 0)
    ) -> None:
        """Show numbers ``(h, w)`` at this row and column of the plane; None for nothing."""
        if numbers is None and not self.numbers.any():
            return
        layer = self.need()
        with drawn_once(layer):
            layer.data = np.zeros((1, 1), np.uint8) if numbers is None else self._seen(numbers)
            layer.translate = offset

    def _seen(self, numbers: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if not self._rim:
            return numbers
        rim = np.zeros(numbers.shape, np.bool_)
        down, right = numbers[1:] != numbers[:-1], numbers[:, 1:] != numbers[:, :-1]
        rim[1:] |= down
        rim[:-1] |= down
        rim[:, 1:] |= right
        rim[:, :-1] |= right
        rim[[0, -1]] = rim[:, [0, -1]] = True  # nothing is beyond
        for _ in range(self._rim - 1):  # a sixth of the time of scipy's erosion
            inner, rim = rim, rim.copy()
            rim[1:] |= inner[:-1]
            rim[:-1] |= inner[1:]
            rim[:, 1:] |= inner[:, :-1]
            rim[:, :-1] |= inner[:, 1:]
        return numbers * rim

    def refresh(self) -> None:
        """Show changed numbers."""
        self.need().refresh(extent=False, highlight=False, thumbnail=False)
