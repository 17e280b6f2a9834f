"""The bridge between napari's layers and the annotation session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

import numpy as np
from napari.layers import Image
from psygnal import Signal, SignalGroup

from napari_peftsam.annotation import PlaneKey, Session
from napari_peftsam.errors import PeftSamError
from napari_peftsam.types import Box, Point, Prompts
from napari_peftsam.widgets._images import ImageView
from napari_peftsam.widgets._objects_layer import ObjectsLayer
from napari_peftsam.widgets._prompt_layers import PromptLayers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import napari
    from napari.layers import Labels, Layer

__all__ = ["BridgeEvents", "LayerBridge", "Tool"]

Tool = Literal["point", "box", ""]
_DRAG = 4  # px on the screen; a longer way is a drag and moves the view
_PAINTING = {"paint", "polygon", "fill", "erase"}
_FLIP_SIGN = {"Shift", "Control"}


class BridgeEvents(SignalGroup):
    """Signals of a `LayerBridge`."""

    images_changed = Signal()
    """Image layers came, went or were renamed."""
    image_changed = Signal()
    """Another image is being annotated."""
    plane_changed = Signal()
    """Another plane of it is shown."""
    tool_changed = Signal()
    """Another prompt tool is active, or prompts have another sign."""
    prompt_layers_changed = Signal()
    """There are other layers for prompts and mask."""
    hint = Signal(str)
    """Something the user tried cannot be done; says what can."""


class LayerBridge:
    """Keeps image, objects and prompt layers and the session in step.

    Layers are known by reference: renaming and reordering them changes nothing.

    Parameters
    ----------
    viewer
        Whose layers; it is not kept alive.
    session
        What they show.
    """

    def __init__(self, viewer: napari.Viewer, session: Session) -> None:
        self._viewer = ref(viewer)
        self.session = session
        self.events = BridgeEvents()
        self.positive = True
        self._images: dict[Layer, ImageView] = {}
        self._objects: dict[Layer, ObjectsLayer] = {}
        self._image: ImageView | None = None
        self._plane: PlaneKey | None = None
        self._prompts: PromptLayers | None = None
        viewer.layers.events.inserted.connect(self._layer_added)
        viewer.layers.events.removed.connect(self._layer_removed)
        for layer in viewer.layers:
            self._watch(layer)

    @property
    def viewer(self) -> napari.Viewer:
        """The viewer."""
        viewer = self._viewer()
        assert viewer is not None, "its layers cannot outlive it"
        return viewer

    # --- images ---------------------------------------------------------------------

    @property
    def image_layers(self) -> tuple[Image, ...]:
        """The layers that can be annotated, as they are ordered in the viewer."""
        return tuple(layer for layer in self.viewer.layers if isinstance(layer, Image))

    @property
    def image(self) -> Image | None:
        """The image layer being annotated."""
        return None if self._image is None else self._image.layer

    @property
    def image_name(self) -> str:
        """Name of that image in the session, empty if there is none."""
        return "" if self._image is None else self._image.name

    @property
    def objects(self) -> Labels | None:
        """The layer with that image's objects."""
        return None if self._image is None else self._objects[self._image.layer].layer

    @property
    def plane(self) -> PlaneKey | None:
        """The plane of that image which is shown; None if none is."""
        return self._plane

    def select_image(self, layer: Image | None) -> None:
        """Annotate another image; it gets a layer for its objects the first time."""
        if layer is self.image:
            return
        if layer is not None and layer not in self._images:
            self._add_image(layer)
        if layer is not None and not layer.visible:
            self._swap_visible(self.image, layer)
        self._image = None if layer is None else self._images[layer]
        if layer is not None and self._prompts is not None:
            self._mend_prompts()
            self.show_tool("point")
        self._update_plane()
        self.events.image_changed.emit()

    def go_to(self, label: int) -> None:
        """Show an object: its plane, the camera on it, its label ready to paint with."""
        if self._image is None or self.objects is None:
            return
        record = self.session.image(self._image.name).records[label]
        region = self.session.image(self._image.name).region(label)[-2:]
        middle = [(s.start + s.stop - 1) / 2 for s in region]
        world = self._image.to_world(record.plane, *middle)
        dims = self.viewer.dims
        leading = dims.ndim - len(world)
        for axis, value in enumerate(world[:-2]):
            dims.set_point(leading + axis, value)
        self.viewer.scene.camera.center = (0.0, *world[-2:])
        self.objects.selected_label = label

    def _swap_visible(self, old: Image | None, new: Image) -> None:
        """Show an image that was hidden, in place of the one that would cover it."""
        for image, visible in ((old, False), (new, True)):
            if image is not None:
                image.visible = visible
                self._objects[image].layer.visible = visible

    def _add_image(self, layer: Image) -> None:
        view = ImageView(layer, layer.name)
        self.session.add_image(view.name, view.pixels, rgb=bool(layer.rgb))
        labels = self.session.image(view.name).labels
        name = "objects" if not self._objects else f"objects ({view.name})"
        objects = ObjectsLayer(self.session, layer, labels, name, lambda: view.name)
        self._images[layer], self._objects[layer] = view, objects
        above = self.viewer.layers.index(layer) + 1
        self.viewer.layers.insert(above, objects.layer)
        objects.layer.locked = self._prompts is not None

    def _lock_objects(self, *, locked: bool) -> None:
        for objects in self._objects.values():
            objects.layer.locked = locked

    def _watch(self, layer: Layer) -> None:
        if isinstance(layer, Image):
            layer.events.name.connect(self._renamed)

    def _layer_added(self, event: Any) -> None:
        self._watch(event.value)
        if isinstance(event.value, Image):
            self.events.images_changed.emit()

    def _layer_removed(self, event: Any) -> None:
        layer = event.value
        if isinstance(layer, Image):
            layer.events.name.disconnect(self._renamed)
        owner = next((i for i, o in self._objects.items() if o.layer is layer), layer)
        if owner in self._images:
            self._forget(owner)
        if isinstance(layer, Image):
            self.events.images_changed.emit()

    def _forget(self, layer: Layer) -> None:
        """Let go of an image; the layer with its objects, if still there, stays with the user."""
        view = self._images[layer]
        if self._image is view:
            self.select_image(None)
        del self._images[layer]
        self._objects.pop(layer).release()
        self.session.remove_image(view.name)

    def _renamed(self, event: Any) -> None:
        view = self._images.get(event.source)
        if view is not None:
            old, new = view.name, event.source.name
            view.name = new if new not in self.session.images else old
            self.session.rename_image(old, view.name)
            self._update_plane()
        self.events.images_changed.emit()

    # --- prompts --------------------------------------------------------------------

    def open_prompts(self) -> None:
        """Add the layers for prompts and mask, and follow what is shown."""
        if self._prompts is not None:
            return
        self._prompts = PromptLayers(self.viewer, self._edited, lambda: self.positive)
        self._prompts.points.mouse_drag_callbacks.append(self._clicked)
        viewer, events = self.viewer, self.session.events
        for signal in (viewer.dims.events.point, viewer.dims.events.ndisplay):
            signal.connect(self._update_plane)
        viewer.dims.events.order.connect(self._update_plane)
        viewer.layers.selection.events.active.connect(self._tool_may_differ)
        for layer in (self._prompts.points, self._prompts.boxes):
            layer.events.mode.connect(self._tool_may_differ)
        events.prompts_changed.connect(self._show, max_args=0)
        events.candidates_changed.connect(self._show, max_args=0)
        events.choice_changed.connect(self._show, max_args=0)
        self._lock_objects(locked=True)
        self._update_plane()

    def close_prompts(self) -> None:
        """Undo `open_prompts`; images and objects stay as they are."""
        prompts, self._prompts = self._prompts, None
        if prompts is None:
            return
        viewer, events = self.viewer, self.session.events
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
        self._lock_objects(locked=False)

    def _mend_prompts(self) -> None:
        """Make the prompt layers again if a script removed one of them."""
        prompts = self._prompts
        if prompts is not None and any(p not in self.viewer.layers for p in prompts.layers):
            self.close_prompts()
            self.open_prompts()
            self.events.prompt_layers_changed.emit()

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
        prompts = self._prompts
        if prompts is None:
            return
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
            self.events.hint.emit(f"That is outside {plane.image}: click on the image")
            return
        self.session.add_point(plane, Point(row, col, positive))

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
            self.events.hint.emit(str(error))
        self._show()

    def _take(self, plane: PlaneKey, prompts: list[Prompts]) -> None:
        current = self.session.current
        queue = self.session.queue if current is not None and current.plane == plane else ()
        if prompts[: len(queue)] == list(queue):  # what is new only, for a telling history
            self.session.queue_prompts(plane, prompts[len(queue) :])
        else:
            self.session.set_queue(plane, prompts)

    def _why_no_plane(self) -> str:
        if self._image is None:
            return "Open an image first"
        return self._image.why_not(self.viewer.dims) or f"{self._image.name} is not in this slice"

    # --- showing --------------------------------------------------------------------

    def _update_plane(self, event: Any = None) -> None:
        """Follow the viewer to another plane, and place the prompt layers there."""
        plane = None if self._image is None else self._image.shown_plane(self.viewer.dims)
        if plane is not None and self._prompts is not None and self._image is not None:
            affine = self._image.plane_affine(plane)
            self._prompts.place(affine, self._image.layer.units[-2:])
        if plane != self._plane:
            self._plane = plane
            self._show()
            self.events.plane_changed.emit()

    def _show(self) -> None:
        """Show prompts and mask of the object being made, if they lie in the shown plane."""
        if self._prompts is None:
            return
        current = self.session.current
        here = current is not None and current.plane == self._plane
        mask = current.mask if here and current is not None else None
        self._prompts.show_prompts(self.session.queue if here else (), waiting=mask is None)
        if self._image is not None:
            height, width = self._image.shape[-2:]
            self._prompts.show_mask(mask, (height, width))

    def _tool_may_differ(self, event: Any = None) -> None:
        self.events.tool_changed.emit()


def _fitted(prompts: Prompts, height: int, width: int) -> Prompts:
    """Return prompts with a box cut off at the edges of the image."""
    box = prompts.box
    if box is None or box.row1 <= 0 or box.col1 <= 0 or box.row0 >= height or box.col0 >= width:
        return prompts  # the session says why that is none
    rows = max(0.0, box.row0), min(float(height), box.row1)
    cols = max(0.0, box.col0), min(float(width), box.col1)
    return prompts.with_box(Box(rows[0], cols[0], rows[1], cols[1]))
