"""The layers that show the prompts and the mask of the object being made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels, Layer, Points, Shapes

from napari_peftsam.types import BoolArray, Box, LabelArray, Point, Prompts, Window
from napari_peftsam.widgets._parts import timer
from napari_peftsam.widgets.layers.overlays import Overlay, drawn_once, put, same_selection

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari
    import numpy.typing as npt

    from napari_peftsam.document import NewObject

# Told apart by lightness and shape as well as by hue.
_POSITIVE, _NEGATIVE, _WAITING = "#3ddc5b", "#ff3b30", "#ffd60a"
_MASK, _DOUBTFUL, _BACKGROUND, _SELECTED = "#00c8ff", "#ff9f0a", "#4d6bff", "#ff8cf0"
_SCORES = (0.5, 0.75)  # below: bad, doubtful
_SIZE, _EDGE = 14, 2  # px on the screen
_SMALLEST = 2  # px of the image; a smaller box is a slip of the hand
_DONE = {"added", "removed", "changed"}


_OUTLINES = (_POSITIVE, _DOUBTFUL, _NEGATIVE, "white", _SELECTED)
_NEIGHBOURS = 255 // len(_OUTLINES)  # outlines of one colour that are kept apart where they touch


def _outline_colours() -> dict[int | None, str]:
    """Return the colours of all numbers that outlines can have."""
    numbers = range(1, 1 + _NEIGHBOURS * len(_OUTLINES))
    return {number: _OUTLINES[(number - 1) % len(_OUTLINES)] for number in numbers}


def _number_of(place: int, colour: str) -> int:
    """Return the number of an outline of some colour; neighbours need different places."""
    return 1 + place % _NEIGHBOURS * len(_OUTLINES) + _OUTLINES.index(colour)


def _colour_of(score: float) -> str:
    """Return the colour of what is not accepted: green by a good score, amber, or red."""
    limits = zip(_SCORES, (_NEGATIVE, _DOUBTFUL), strict=True)
    return next((each for limit, each in limits if score < limit), _POSITIVE)


@dataclass(frozen=True, eq=False)
class Outlined:
    """A mask ``(h, w)`` at a row and column of the plane, and the colour of its outline.

    By default that of a selected object, which is not white as the proposal is that is looked at.
    """

    mask: BoolArray
    offset: tuple[int, int]
    colour: str = _SELECTED

    @classmethod
    def of(cls, made: NewObject) -> Outlined:
        """Return a mask that is not accepted, in the colour of its score."""
        return cls(made.mask, made.offset or (0, 0), _colour_of(made.score or 0.0))


class PromptLayers:
    """Points, boxes and mask as 2D layers, which napari shows in every plane.

    They only show what the document holds. What the user changes in them is handed on,
    as all prompts of the queue, to `on_edit`.

    Parameters
    ----------
    viewer
        Gets the layers.
    on_edit
        Called with the edited prompts, of the object being made, then of the queue; with
        None if the layers may show something else than the document.
    sign
        Returns whether a point added with napari's own tool is positive.
    on_added
        Called after one of the layers was added later, when it had something to show.
    units
        Of the rows and columns of the shown image: napari compares those of all layers.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        on_edit: Callable[[tuple[Prompts, ...] | None], None],
        sign: Callable[[], bool],
        on_added: Callable[[], object],
        units: Sequence[Any] | None = None,
    ) -> None:
        self._on_edit, self._on_added = on_edit, on_added
        self._sign = sign
        self._prompts: tuple[Prompts, ...] = ()
        self._shown: tuple[object, object] = ((), False), ((), False)
        self._gesture: Box | None = None  # from press to release of the last drag
        self._showing = self._held = self._is_path_shown = False
        self._layers, self._camera = viewer.layers, viewer.scene.camera
        self._pixel_size = 1.0
        self._edit: tuple[Prompts, ...] | None = None
        self._later = timer(None, 0)
        self.background = Overlay("background", 0.25, {1: _BACKGROUND}, self._add)
        self.frames = Overlay("frames", 0.9, {1: "white"}, self._add)
        self.mask = Overlay("mask", 0.55, {1: _MASK}, self._add)
        self.proposals = Overlay("proposals", 0.9, _outline_colours(), self._add, _EDGE)
        self.outlines = Overlay("outlines", 0.9, _outline_colours(), self._add, _EDGE)
        # The lowest first.
        self._overlays = (
            self.background, self.proposals, self.frames, self.mask, self.outlines
        )  # fmt: skip
        for overlay in self._overlays:
            overlay.place(units, None)
        self.boxes = Shapes(
            ndim=2,
            name="prompt boxes",
            units=units,
            face_color="transparent",
            edge_color=_POSITIVE,
            edge_width=1,
        )
        self.points = Points(
            ndim=2,
            name="prompt points",
            units=units,
            size=_SIZE,
            face_color=_POSITIVE,
            border_color="black",
        )
        self._connections: tuple[tuple[Any, Callable[..., None]], ...] = (
            (self._later.timeout, self._catch_up),
            (self._camera.events.zoom, self._rescale),
            (self.points.events.data, self._points_edited),
            (self.boxes.events.data, self._boxes_edited),
            (self.points.events.visible, self._catch_up),
            (self.boxes.events.visible, self._catch_up),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        for layer in (self.points, self.boxes):
            layer.mouse_drag_callbacks.append(self._hold)
        for layer in self.layers:  # before napari listens, so that ours is the last word
            layer.events.help.connect(_silence)
        viewer.layers.extend(self.layers)
        for layer in self.layers:
            layer.locked = True

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that are there, the lowest first."""
        overlays = (each.layer for each in self._overlays if each.layer is not None)
        return *overlays, self.boxes, self.points

    def _add(self, overlay: Overlay, layer: Labels) -> None:
        """Add the layer of an overlay below those that lie above it."""
        layers = self._layers
        above = self.layers[self.layers.index(layer) + 1]
        layer.events.help.connect(_silence)
        with same_selection(layers):
            layers.insert(layers.index(above) if above in layers else len(layers), layer)
        layer.locked = True
        self._on_added()

    def release(self) -> None:
        """Take the layers out of the viewer."""
        self._later.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)
        for layer in self.layers:
            layer.locked = False
            layer.events.help.disconnect(_silence)
            if layer in self._layers:
                self._layers.remove(layer)

    def place(self, affine: npt.NDArray[np.float64], units: Sequence[Any]) -> None:
        """Put the layers where an image plane is."""
        self._pixel_size = float(np.sqrt(abs(np.linalg.det(affine[:2, :2]))))
        for overlay in self._overlays:
            overlay.place(units, affine)
        for layer in (self.boxes, self.points):
            put(layer, units, affine)

    def show_prompts(self, prompts: tuple[Prompts, ...], waiting: bool) -> None:
        """Show these prompts: of the object being made, then of the queue."""
        if self._held:
            return  # until the mouse is released
        points = prompts[0].points if prompts else ()
        boxes = tuple(p.box for p in prompts if p.box is not None)
        active = bool(prompts) and prompts[0].box is not None and not waiting
        wanted = (points, waiting and bool(points)), (boxes, active and bool(boxes))
        self._prompts = prompts
        # napari 0.9 fails on changes of a hidden layer: they are shown when the layer is.
        shown = [
            new if layer.visible else old
            for new, old, layer in zip(wanted, self._shown, (self.points, self.boxes), strict=True)
        ]
        with self._quietly():  # only what differs: napari redraws at every assignment
            if shown[0] != self._shown[0]:
                before = self._shown[0]
                are_same = isinstance(before, tuple) and before[0] == points and bool(points)
                self._show_points(points, waiting, are_same)
            if shown[1] != self._shown[1]:
                self._show_boxes(boxes, active)
        self._shown = shown[0], shown[1]

    def show_path(self, path: Sequence[tuple[float, float]]) -> None:
        """Show a line while it is drawn; `forget_shown` and `show_prompts` take it away."""
        layer = self.boxes
        if not layer.visible:
            return
        with self._quietly():
            if self._is_path_shown:
                layer.selected_data = {len(layer.data) - 1}
                layer.remove_selected()
            layer.add_paths(
                [np.asarray(path)], edge_color=_WAITING, edge_width=_EDGE / self._screen_pixels()
            )
        self._is_path_shown = True

    def forget_shown(self) -> None:
        """Draw all prompts anew at the next `show_prompts`."""
        self._shown, self._is_path_shown, self._held = (None, None), False, False

    def show_mask(self, mask: BoolArray | None, offset: tuple[int, int] = (0, 0)) -> None:
        """Show a mask ``(h, w)`` at this row and column of the plane, or none."""
        self.mask.lay(None if mask is None else mask.astype(np.uint8), offset)

    def show_background(self, known: BoolArray | None) -> None:
        """Show the pixels ``(H, W)`` of the plane that are known to hold no object."""
        is_some = known is not None and known.any()
        self.background.lay(known.astype(np.uint8) if known is not None and is_some else None)

    def update_background(self, known: BoolArray | None, window: Window) -> None:
        """Show the pixels ``(h, w)`` of a window anew, None for none; the others stay."""
        self.background.numbers[window.slices] = 0 if known is None else known
        self.background.refresh()

    def image_pixels(self, screen: float) -> float:
        """Return how many pixels of the image a length on the screen is, one at least."""
        return max(1.0, screen / self._screen_pixels())

    def show_outlines(self, outlined: Sequence[Outlined]) -> None:
        """Show the outlines of masks in the plane, the first one above."""
        windows = [Window(*each.offset, *each.mask.shape) for each in outlined]
        whole = reduce(or_, windows) if windows else Window(0, 0, 1, 1)
        numbers = np.zeros(whole.shape, np.uint8)
        for place, (each, window) in enumerate(zip(outlined, windows, strict=True)):
            part = numbers[window.seen_from(whole).slices]
            part[each.mask & (part == 0)] = _number_of(place, each.colour)
        self.outlines.lay(numbers if outlined else None, (whole.row, whole.col))

    def show_proposals(
        self,
        labels: LabelArray | None,
        scores: Mapping[int, float],
        current: int = 0,
        offset: tuple[int, int] = (0, 0),
    ) -> None:
        """Show the outlines of the proposals with a score: in its colour, the current one white.

        `labels` ``(h, w)`` are their numbers from a row and column of the plane on.
        """
        if labels is None:
            self.proposals.lay()
            return
        colours = np.zeros(max(int(labels.max(initial=0)), *scores) + 1, np.uint8)
        for number, score in scores.items():
            colours[number] = _number_of(number, _colour_of(score))
        if current:
            colours[current] = _number_of(current, "white")
        self.proposals.lay(colours[labels], offset)

    def show_frames(self, windows: Sequence[Window]) -> None:
        """Show white frames around parts of the plane, the last one above."""
        whole = reduce(or_, windows) if windows else Window(0, 0, 1, 1)
        numbers = np.zeros(whole.shape, np.uint8)
        for each in windows:
            part = numbers[each.seen_from(whole).slices]
            inner = part[_EDGE:-_EDGE, _EDGE:-_EDGE].copy()
            part[:] = 1
            part[_EDGE:-_EDGE, _EDGE:-_EDGE] = inner
        self.frames.lay(numbers if windows else None, (whole.row, whole.col))

    # --- showing --------------------------------------------------------------------

    def _show_points(self, points: Sequence[Point], waiting: bool, are_same: bool) -> None:
        layer = self.points
        with drawn_once(layer):
            if not are_same:
                layer.selected_data = set()
                layer.data = np.array([(p.row, p.col) for p in points], float).reshape(-1, 2)
                if not points:
                    return
                layer.size = _SIZE / self._screen_pixels()
                layer.symbol = ["ring" if p.positive else "x" for p in points]  # they hide little
                layer.face_color = [_POSITIVE if p.positive else _NEGATIVE for p in points]
            layer.border_color = _WAITING if waiting else "black"
            layer.border_width = 0.25 if waiting else 0.05

    def _show_boxes(self, boxes: Sequence[Box], active: bool) -> None:
        layer = self.boxes
        with drawn_once(layer):
            layer.selected_data = set()
            layer.data = []
            if boxes:
                first = _POSITIVE if active else _WAITING
                layer.add_rectangles(
                    [_corners(box) for box in boxes],
                    edge_color=[first, *[_WAITING] * (len(boxes) - 1)],
                    edge_width=_EDGE / self._screen_pixels(),
                )

    def _rescale(self) -> None:
        """Keep the marks' size on the screen when the user zooms."""
        pixels = self._screen_pixels()
        if len(self.points.data):
            self.points.size = _SIZE / pixels
        with self._quietly():
            self.boxes.edge_width = [_EDGE / pixels] * len(self.boxes.data)

    def _screen_pixels(self) -> float:
        """Return how many pixels of the screen an image pixel fills."""
        return max(1e-6, float(self._camera.zoom) * self._pixel_size)

    # --- editing --------------------------------------------------------------------

    def _points_edited(self, event: Any) -> None:
        if self._showing or event.action.value not in _DONE:
            return
        first = self._prompts[0] if self._prompts else Prompts()
        signs = _signs(event, first.points, self._sign())
        points = tuple(
            Point(float(at[0]), float(at[1]), positive)
            for at, positive in zip(self.points.data, signs, strict=False)
        )
        self._hand_on((Prompts(points, first.box), *self._prompts[1:]))

    def _boxes_edited(self, event: Any) -> None:
        if self._showing or event.action.value not in _DONE:
            return
        prompts = list(self._prompts)
        shown = [i for i, p in enumerate(prompts) if p.box is not None]
        if event.action.value == "removed":
            for i in event.data_indices:
                prompts[shown[i]] = prompts[shown[i]].with_box(None)
        else:
            boxes = [_box(corners) for corners in self.boxes.data]
            for i, box in zip(shown, boxes, strict=False):
                prompts[i] = prompts[i].with_box(box or prompts[i].box)
            for box in filter(None, boxes[len(shown) :]):
                is_drawn = self.boxes.mode == "add_rectangle" and self._gesture is not None
                _add_box(prompts, self._gesture if is_drawn and self._gesture else box)
                self._gesture = None
        self._hand_on(tuple(prompts))

    def _hand_on(self, prompts: tuple[Prompts, ...]) -> None:
        # Later, because napari is in the midst of the gesture that made this event.
        self._prompts = self._edit = prompts
        self._shown = None, None  # the layers show something else now
        self._later.start()

    def _hold(self, layer: Layer, event: Any) -> Iterator[None]:
        """Leave the layers alone while the mouse draws or moves something in them.

        An answer that arrives meanwhile would redraw them and end the gesture.
        """
        self._held, self._gesture = True, None
        start = np.asarray(layer.world_to_data(event.position))[-2:]
        yield
        while event.type == "mouse_move":
            yield
        self._held = False
        # napari draws to the last movement of the mouse that it saw, which may be far back.
        end = np.asarray(layer.world_to_data(event.position))[-2:]
        self._gesture = _box(np.stack([start, end]))
        self._later.start()

    def _catch_up(self) -> None:
        edit, self._edit = self._edit, None
        self._on_edit(edit)  # shows what came of it

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Take what happens in the layers meanwhile for no edit of the user's."""
        self._showing = True
        try:
            yield
        finally:
            self._showing = False


def _silence(event: Any) -> None:
    """Take napari's hints at its own tools out of the status bar: the dock has others."""
    event.source.help = ""


def _corners(box: Box) -> npt.NDArray[np.float64]:
    """Return the corners ``(2, 2)`` of a box in pixel centres, as napari counts."""
    return np.array([(box.row0, box.col0), (box.row1, box.col1)]) - 0.5


def _box(corners: npt.NDArray[np.float64]) -> Box | None:
    """Return the box around a shape, None if it is too small to be meant."""
    (row0, col0), (row1, col1) = corners.min(axis=0) + 0.5, corners.max(axis=0) + 0.5
    if row1 - row0 < _SMALLEST or col1 - col0 < _SMALLEST:
        return None
    return Box(float(row0), float(col0), float(row1), float(col1))


def _add_box(prompts: list[Prompts], box: Box) -> None:
    """Add a new box: to the object being made if that has points only, else as another."""
    if len(prompts) == 1 and prompts[0].box is None:
        prompts[0] = prompts[0].with_box(box)
    else:
        prompts.append(Prompts(box=box))


def _signs(event: Any, points: Sequence[Point], sign: bool) -> list[bool]:
    """Return the sign of every point after an edit of these points."""
    known = [p.positive for p in points]
    if event.action.value == "removed":
        return [s for i, s in enumerate(known) if i not in set(event.data_indices)]
    return known + [sign] * (len(event.value) - len(known))
