"""Lines that are drawn in the canvas: prompts, cuts, and what is known of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from napari_peftsam.app.corrections import cut_object, split_at
from napari_peftsam.app.freehand import Line, lasso_prompts, scribble_points
from napari_peftsam.app.regions import (
    background_stroke,
    complete_area,
    known_background,
    regions_at,
    window_around,
)
from napari_peftsam.document import MarkComplete, QueuePrompts, SetPrompts
from napari_peftsam.types import Prompts, Window

if TYPE_CHECKING:
    from napari_peftsam.document import Action, DocumentImage, PlaneKey
    from napari_peftsam.widgets.layers.bridge import LayerBridge
    from napari_peftsam.widgets.layers.tools import PromptTools

Tool = Literal[
    "point", "box", "lasso", "scribble", "cut", "area", "rectangle", "background", "suggest", ""
]  # fmt: skip
AREAS = ("area", "rectangle", "background", "suggest")
"""Tools that say more about the image than its objects."""
FREEHAND = ("lasso", "scribble", "cut", *AREAS)
"""Tools that draw lines."""

_LARGEST = 8192  # pixels along the longer side of planes whose background is shown
_BRUSH = 8  # px on the screen: half the width of a stroke on the background

_World = Sequence[Sequence[float]]


class Freehand:
    """Turns lines into actions of the tool that draws them.

    Parameters
    ----------
    bridge
        Has the shown plane.
    tools
        Has the layer in which a line is shown while it is drawn.
    """

    def __init__(self, bridge: LayerBridge, tools: PromptTools) -> None:
        self._bridge, self._tools, self._document = bridge, tools, bridge.document
        self._clicked: tuple[PlaneKey, int, tuple[float, float]] | None = None

    def forget(self) -> None:
        """Forget the place that was clicked on in an object to be split."""
        self._clicked = None

    def show(self, tool: Tool, path: _World) -> None:
        """Show a line while it is drawn."""
        layers, places = self._tools.layers, self._places(path)
        if layers is None or not places:
            return
        if tool in ("rectangle", "suggest"):
            (row0, col0), (row1, col1) = places[0], places[-1]
            places = [(row0, col0), (row0, col1), (row1, col1), (row1, col0), (row0, col0)]
        layers.show_path(places)

    def draw(self, tool: Tool, path: _World, is_negative: bool) -> None:
        """Do what a line means; a line of one position is a click."""
        plane, places = self._bridge.plane, self._places(path)
        if plane is None or not places:
            self._bridge.events.hint.emit(self._tools.why_no_plane())
            return
        image = self._document.image(plane.image)
        if tool == "suggest":
            self._bridge.attempt(lambda: self._suggest(image, places))
        else:
            self._bridge.attempt(lambda: self._do(tool, image, plane, places, is_negative))
        self._tools.show(anew=True)

    def show_background(self, image_id: str = "", region: tuple[slice, ...] = ()) -> None:
        """Show which pixels of the shown plane are known to hold no object.

        With a region, only labels in it have changed.
        """
        plane, layers = self._bridge.plane, self._tools.layers
        if layers is None:
            return
        image = None if plane is None else self._document.images.get(plane.image)
        if plane is None or image is None or max(image.plane_shape) > _LARGEST:
            layers.show_background(None)
        elif not region or layers.background.numbers.shape != image.plane_shape:
            layers.show_background(known_background(image, plane))
        elif image_id == image.id:
            window = Window.from_slices(*region[-2:])
            layers.update_background(known_background(image, plane, window), window)

    def _places(self, path: _World) -> list[tuple[float, float]]:
        plane, view = self._bridge.plane, self._bridge.view
        if plane is None or view is None:
            return []
        return [view.position(plane, world) for world in path]

    def _do(
        self, tool: Tool, image: DocumentImage, plane: PlaneKey, places: Line, is_negative: bool
    ) -> None:
        actions: Sequence[Action]
        if tool == "background":
            layers = self._tools.layers
            radius = 1.0 if layers is None else layers.image_pixels(_BRUSH)
            stroke = background_stroke(
                image, plane, places, radius, is_background=not is_negative
            )  # fmt: skip
            actions = [stroke]
        elif tool in AREAS and is_negative:
            found = regions_at(image, plane, *places[0])
            actions = [MarkComplete(image.id, region, is_complete=False) for region in found]
        elif tool in AREAS and len(places) > 1:
            actions = [complete_area(plane, places, is_rectangle=tool == "rectangle")]
        elif tool == "cut" and len(places) > 1:
            actions = [cut_object(image, plane, places, self._document.label_set)]
        elif tool == "cut":
            actions = self._split(image, plane, places[0])
        elif tool == "lasso" and len(places) > 1:
            actions = [QueuePrompts(plane, (lasso_prompts(places, image.plane_shape),))]
        elif tool == "scribble":
            actions = [self._scribble(image, plane, places, is_negative)]
        else:
            actions = []
        for action in actions:
            self._document.do(action)

    def _suggest(self, image: DocumentImage, places: Line) -> None:
        part = window_around(places) & image.window if len(places) > 1 else None
        if part:
            self._bridge.events.part_drawn.emit(part)

    def _split(
        self, image: DocumentImage, plane: PlaneKey, place: tuple[float, float]
    ) -> Sequence[Action]:
        """Split an object at the second click on it; select it at the first."""
        row, col = round(place[0]), round(place[1])
        label = image.object_at(plane, row, col, self._document.category)
        first, self._clicked = self._clicked, (plane, label, place)
        if first is not None and first[:2] == (plane, label):
            self.forget()
            return [split_at(image, plane, label, (first[2], place))]
        self._bridge.events.object_picked.emit(label, False)
        self._bridge.events.hint.emit(f"Now click on the other part of object {label}")
        return []

    def _scribble(
        self, image: DocumentImage, plane: PlaneKey, places: Line, is_negative: bool
    ) -> Action:
        positive = self._tools.positive and not is_negative
        points = scribble_points(places, image.plane_shape, positive=positive)
        current = self._document.current
        if positive or current is None or current.plane != plane:
            return QueuePrompts(plane, (Prompts(points),))
        known = current.prompts
        return SetPrompts(plane, replace(known, points=(*known.points, *points)))
