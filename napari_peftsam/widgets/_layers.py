"""The bridge between napari's layers and the document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_peftsam.document import AddPoint, Document, PlaneKey, QueuePrompts, SetQueue
from napari_peftsam.errors import PeftSamError
from napari_peftsam.types import Box, Point, Prompts
from napari_peftsam.widgets._bridge_events import BridgeEvents
from napari_peftsam.widgets._image_bridge import ImageBridge
from napari_peftsam.widgets._prompt_layers import PromptLayers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari
    from napari.layers import Layer

__all__ = ["BridgeEvents", "LayerBridge", "Tool"]

Tool = Literal["point", "box", ""]
_DRAG = 4  # px on the screen; a longer way is a drag and moves the view
_PAINTING = {"paint", "polygon", "fill", "erase"}
_FLIP_SIGN = {"Shift", "Control"}


class LayerBridge(ImageBridge):
    """Keeps image, objects and prompt layers and the document in step.

    Parameters
    ----------
    viewer
        Whose layers; it is not kept alive.
    document
        What they show.

    Attributes
    ----------
    events
        See `BridgeEvents`.
    positive
        Whether the next points are positive.
    """

    def __init__(self, viewer: napari.Viewer, document: Document) -> None:
        super().__init__(viewer, document)
        self.positive = True
        self._prompts: PromptLayers | None = None
        self._wants_prompts = False
        document.events.opened.connect(self._show)

    # --- prompts --------------------------------------------------------------------

    def open_prompts(self) -> None:
        """Add the layers for prompts and mask as soon as there is an image, and keep them."""
        self._wants_prompts = True
        self._lock_objects(locked=True)
        if self._image is not None:
            self._need_prompts()

    def _need_prompts(self) -> None:
        """Add the prompt layers if one is missing, and put them above all others."""
        layers = self.viewer.layers
        if self._prompts is None or any(p not in layers for p in self._prompts.layers):
            self._drop_prompts()
            self._add_prompts()
            self.events.prompt_layers_changed.emit()
        self.raise_prompts()

    def raise_prompts(self) -> None:
        """Put the prompt layers above all others, which would hide them."""
        layers = self.viewer.layers
        if self._prompts is not None and tuple(layers[-3:]) != self._prompts.layers:
            for layer in self._prompts.layers:
                if layer in layers:
                    layers.move(layers.index(layer), len(layers))

    def _add_prompts(self) -> None:
        self._prompts = PromptLayers(self.viewer, self._edited, lambda: self.positive)
        self._prompts.points.mouse_drag_callbacks.append(self._clicked)
        viewer, events = self.viewer, self.document.events
        for signal in (viewer.dims.events.point, viewer.dims.events.ndisplay):
            signal.connect(self._update_plane)
        viewer.dims.events.order.connect(self._update_plane)
        viewer.layers.selection.events.active.connect(self._tool_may_differ)
        for layer in (self._prompts.points, self._prompts.boxes):
            layer.events.mode.connect(self._tool_may_differ)
        events.prompts_changed.connect(self._show, max_args=0)
        events.candidates_changed.connect(self._show, max_args=0)
        events.choice_changed.connect(self._show, max_args=0)
        self._update_plane()
        self._plane_changed()

    def close_prompts(self) -> None:
        """Undo `open_prompts`; images and objects stay as they are."""
        self._wants_prompts = False
        self._lock_objects(locked=False)
        self._drop_prompts()

    def _drop_prompts(self) -> None:
        prompts, self._prompts = self._prompts, None
        if prompts is None:
            return
        viewer, events = self.viewer, self.document.events
        for signal in (viewer.dims.events.point, viewer.dims.events.ndisplay):
            signal.disconnect(self._update_plane)
        viewer.dims.events.order.disconnect(self._update_plane)
        viewer.layers.selection.events.active.disconnect(self._tool_may_differ)
        for layer in (prompts.points, prompts.boxes):
            layer.events.mode.disconnect(self._tool_may_differ)
        events.prompts_changed.disconnect(self._show)
        events.candidates_changed.disconnect(self._show)
        events.choice_changed.disconnect(self._show)
        prompts.release(viewer)

    @property
    def prompt_layers(self) -> PromptLayers | None:
        """The layers for prompts and mask, None while they are closed."""
        return self._prompts

    @property
    def tool(self) -> Tool:
        """The prompt tool a click or drag in the canvas uses: napari's active layer decides."""
        prompts = self._prompts
        if prompts is None:
            return ""
        active = self.viewer.layers.selection.active
        if active is prompts.points and prompts.points.mode in ("pan_zoom", "add"):
            return "point"
        if active is prompts.boxes and prompts.boxes.mode == "add_rectangle":
            return "box"
        return ""

    @property
    def painting(self) -> int | None:
        """The label that the user paints, erases or fills with, None if none."""
        objects = self.objects
        if objects is None or self.viewer.layers.selection.active is not objects:
            return None
        return int(objects.selected_label) if objects.mode in _PAINTING else None

    def show_tool(self, tool: Tool) -> None:
        """Activate a prompt tool; none puts the mouse back to moving the view."""
        if self._prompts is None:
            return
        if any(layer not in self.viewer.layers for layer in self._prompts.layers):
            self._need_prompts()  # the user has removed one
        prompts = self._prompts
        layer = prompts.boxes if tool == "box" else prompts.points
        layer.mode = "add_rectangle" if tool == "box" else "pan_zoom"
        active = layer if tool else self.image
        self.viewer.layers.selection.active = active
        if tool == "point":
            layer.cursor = "crosshair"
        self.events.tool_changed.emit()

    def set_sign(self, positive: bool) -> None:
        """Say whether the next points are positive."""
        self.positive = positive
        self.events.tool_changed.emit()

    def add_point(self, world: tuple[float, ...], positive: bool) -> None:
        """Add a point prompt at a position in the world; gives a hint where that fails."""
        plane = self._plane
        if plane is None or self._image is None:
            self.events.hint.emit(self._why_no_plane())
            return
        row, col = self._image.position(plane, world)
        if not self._image.contains(row, col):
            self.events.hint.emit(f"That is outside {self._image.layer.name}: click on the image")
            return
        try:
            self.document.do(AddPoint(plane, Point(row, col, positive)))
        except PeftSamError as error:
            self.events.failed.emit(error)

    def _clicked(self, layer: Layer, event: Any) -> Iterator[None]:
        """Tell a click from a drag, which moves the view."""
        if layer.mode != "pan_zoom" or event.button not in (1, 2):
            return
        start = np.asarray(event.pos)
        yield
        while event.type == "mouse_move":
            if np.linalg.norm(event.pos - start) < _DRAG:
                event.handled = True  # the view does not tremble
            yield
        if np.linalg.norm(event.pos - start) < _DRAG:
            flipped = event.button == 2 or bool(_FLIP_SIGN & {str(m) for m in event.modifiers})
            self.add_point(tuple(event.position), self.positive != flipped)

    def _edited(self, prompts: tuple[Prompts, ...]) -> None:
        """Take over what the user changed in the prompt layers."""
        plane = self._plane
        try:
            if plane is None or self._image is None:
                self.events.hint.emit(self._why_no_plane())
            else:
                height, width = self._image.shape[-2:]
                self._take(plane, [_fitted(p, height, width) for p in prompts])
        except PeftSamError as error:
            self.events.failed.emit(error)
        self._show()

    def _take(self, plane: PlaneKey, prompts: list[Prompts]) -> None:
        current = self.document.current
        queue = self.document.queue if current is not None and current.plane == plane else ()
        if prompts[: len(queue)] == list(queue):  # what is new only, for a telling history
            self.document.do(QueuePrompts(plane, tuple(prompts[len(queue) :])))
        else:
            self.document.do(SetQueue(plane, tuple(prompts)))

    def _why_no_plane(self) -> str:
        if self._image is None:
            return "Open an image first"
        return (
            self._image.why_not(self.viewer.dims)
            or f"{self._image.layer.name} is not in this slice"
        )

    # --- showing --------------------------------------------------------------------

    def _image_selected(self) -> None:
        if self._image is not None and self._wants_prompts:
            self._need_prompts()
            self.show_tool("point")

    def _plane_changed(self) -> None:
        """Place the prompt layers in the shown plane."""
        if self._plane is not None and self._prompts is not None and self._image is not None:
            affine = self._image.plane_affine(self._plane)
            self._prompts.place(affine, self._image.layer.units[-2:])
        self._show()

    def _show(self) -> None:
        """Show prompts and mask of the object being made, if they lie in the shown plane."""
        if self._prompts is None:
            return
        current = self.document.current
        here = current is not None and current.plane == self._plane
        mask = current.mask if here and current is not None else None
        self._prompts.show_prompts(self.document.queue if here else (), waiting=mask is None)
        self._prompts.show_mask(mask, current.offset if current is not None else (0, 0))


def _fitted(prompts: Prompts, height: int, width: int) -> Prompts:
    """Return prompts with a box cut off at the edges of the image."""
    box = prompts.box
    if box is None or box.row1 <= 0 or box.col1 <= 0 or box.row0 >= height or box.col0 >= width:
        return prompts  # the document says why that is none
    rows = max(0.0, box.row0), min(float(height), box.row1)
    cols = max(0.0, box.col0), min(float(width), box.col1)
    return prompts.with_box(Box(rows[0], cols[0], rows[1], cols[1]))
