"""Tools that make prompts in the canvas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_peftsam.app.advice import plane_text
from napari_peftsam.document import AddPoint, QueuePrompts, Reopen, SetQueue
from napari_peftsam.types import Box, Point, Prompts, Window
from napari_peftsam.widgets.layers.freehand import AREAS, FREEHAND, Freehand, Tool
from napari_peftsam.widgets.layers.prompts import Outlined, PromptLayers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from napari.layers import Layer

    from napari_peftsam.document import Action, DocumentImage, NewObject, PlaneKey
    from napari_peftsam.widgets.layers.bridge import LayerBridge

_DRAG = 4  # px on the screen; a longer way is a drag and moves the view
_ZOOM = "double_click_to_zoom"  # napari's
_PAINTING = {"paint", "polygon", "fill", "erase"}


class PromptTools:
    """Tools that turn clicks and boxes in the canvas into prompts, and the layers for them.

    Attributes
    ----------
    layers
        The layers for prompts and mask, None while they are closed.
    positive
        True while the next points are positive.
    find_proposal
        Returns the proposal that is shown at a row and column of the plane, 0 for none.
    is_open
        True while there are prompt layers as soon as there is an image.
    """

    def __init__(self, bridge: LayerBridge) -> None:
        self._bridge, self._document = bridge, bridge.document
        self.layers: PromptLayers | None = None
        self.positive = True
        self.is_open = self._had_points = False
        self.find_proposal: Callable[[float, float], int] = lambda *_: 0
        self._chosen: Tool = "point"
        self._freehand = Freehand(bridge, self)
        self._zooms: list[Callable[..., object]] = []
        events = bridge.document.events
        for signal, slot in (
            (bridge.events.plane_changed, self._place),
            (bridge.events.image_changed, self._image_changed),
            (events.opened, self.show),
            (events.prompts_changed, self._prompts_changed),
            (events.candidates_changed, self.show),
            (events.choice_changed, self.show),
        ):
            signal.connect(slot, max_args=0)

    # --- layers ---------------------------------------------------------------------------

    def open(self) -> None:
        """Add the layers for prompts and mask as soon as there is an image, and keep them."""
        self.is_open = True
        self._bridge.open_or_close()
        callbacks = self._bridge.viewer.mouse_double_click_callbacks
        self._zooms = [each for each in callbacks if each.__name__ == _ZOOM]
        for each in self._zooms:  # a double click reopens an object: the view stays
            callbacks.remove(each)
        if self._bridge.image is not None:
            self._need_layers()

    def close(self) -> None:
        """Undo `open`; images and objects stay as they are."""
        self.is_open = False
        self._bridge.open_or_close()
        self._bridge.viewer.mouse_double_click_callbacks.extend(self._zooms)
        self._zooms = []
        self._drop_layers()

    def raise_layers(self) -> None:
        """Put the prompt layers above all others, which would hide them."""
        layers = self._bridge.viewer.layers
        own = () if self.layers is None else self.layers.layers
        # A slice of napari's list is another such list, which follows its layers: 0.1 s.
        if self.layers is not None and tuple(layers)[-len(own) :] != own:
            for layer in self.layers.layers:
                if layer in layers:
                    layers.move(layers.index(layer), len(layers))

    def _need_layers(self) -> PromptLayers:
        """Return the prompt layers above all others; they are made anew if one is missing."""
        made = self.layers
        if made is None or self._is_incomplete(made):
            self._drop_layers()
            viewer, view = self._bridge.viewer, self._bridge.view
            units = None if view is None else view.layer.units[-2:]
            made = self.layers = PromptLayers(
                viewer, self._edited, lambda: self.positive, self._layer_added, units
            )
            for layer in (made.points, made.boxes):
                layer.mouse_drag_callbacks.append(self._clicked)
                layer.mouse_double_click_callbacks.append(self._double_clicked)
                layer.events.mode.connect(self._bridge.tool_may_differ)
            made.points.mouse_move_callbacks.append(self._hovered)
            self._place()
            self._bridge.events.own_layers_changed.emit()
        self.raise_layers()
        return made

    def _layer_added(self) -> None:
        self._bridge.events.own_layers_changed.emit()

    def prepare(self) -> None:
        """Add the layer for masks, which takes a moment, before the first one comes."""
        if self.layers is not None:
            self.layers.mask.need()

    def _is_incomplete(self, made: PromptLayers) -> bool:
        return any(layer not in self._bridge.viewer.layers for layer in made.layers)

    def _drop_layers(self) -> None:
        layers, self.layers = self.layers, None
        if layers is not None:
            layers.release()

    # --- tools ----------------------------------------------------------------------------

    @property
    def tool(self) -> Tool:
        """The prompt tool a click or drag in the canvas uses: napari's active layer decides."""
        layers = self.layers
        if layers is None:
            return ""
        active = self._bridge.viewer.layers.selection.active
        if active is layers.points and layers.points.mode in ("pan_zoom", "add"):
            return "point" if self._chosen == "box" else self._chosen
        return "box" if active is layers.boxes and layers.boxes.mode == "add_rectangle" else ""

    @property
    def brush(self) -> str:
        """The tool of napari's with which the user paints, erases, fills or outlines, if any."""
        active = self._bridge.viewer.layers.selection.active
        modes = (each.mode for each in self._bridge.object_layers if each is active)
        return next((str(mode) for mode in modes if mode in _PAINTING), "")

    @property
    def painting(self) -> int | None:
        """The label that the user paints, erases or fills with, None if none."""
        active = self._bridge.viewer.layers.selection.active
        return int(active.selected_label) if isinstance(active, Labels) and self.brush else None

    def choose(self, tool: Tool) -> None:
        """Activate a prompt tool; none puts the mouse back to moving the view."""
        layers = self.layers
        if layers is None:
            return
        if self._is_incomplete(layers):  # the user has removed one
            layers = self._need_layers()
        self._chosen = tool or self._chosen  # it stays over images
        self._freehand.forget()
        layer = layers.boxes if tool == "box" else layers.points
        layer.mode = "add_rectangle" if tool == "box" else "pan_zoom"
        self._bridge.viewer.layers.selection.active = layer if tool else self._bridge.image
        self._show_sign()
        self._bridge.tool_may_differ()

    def choose_brush(self, mode: str, label: int) -> None:
        """Activate a tool of napari's that paints, erases, fills or outlines an object."""
        objects = self._bridge.objects_of(label)
        if objects is None:
            return
        objects.selected_label = label
        if objects.multiscale:
            self._bridge.events.hint.emit("This image is too large to paint in: use prompts")
            return
        self._bridge.viewer.layers.selection.active = objects
        objects.mode = mode
        self._bridge.tool_may_differ()

    def _show_sign(self) -> None:
        """Show the sign of the next point in the cursor."""
        layers = self.layers
        if layers is not None and layers.points.mode == "pan_zoom":
            is_point = self._chosen in ("point", "scribble")
            layers.points.cursor = (
                "forbidden" if is_point and not self.positive else "crosshair"
            )  # fmt: skip

    def flip_sign(self) -> None:
        """Make the next points negative, or positive again."""
        self.positive = not self.positive
        self._show_sign()
        self._bridge.tool_may_differ()

    def show_background(self, image: str = "", region: tuple[slice, ...] = ()) -> None:
        """Show which pixels of the shown plane are known to hold no object."""
        self._freehand.show_background(image, region)

    def hide_while_held(self) -> Iterator[None]:
        """Hide masks and prompts until the key is released, which ends this generator."""
        own = (*(() if self.layers is None else self.layers.layers), *self._bridge.object_layers)
        shown = [layer for layer in own if layer.visible]
        for layer in shown:
            layer.visible = False
        yield
        for layer in shown:
            layer.visible = True

    # --- from the layers to the document ----------------------------------------------------

    def add_point(self, world: Sequence[float], positive: bool) -> None:
        """Add a point prompt at a position in the world; gives a hint where that fails."""
        bridge, view = self._bridge, self._bridge.view
        if bridge.plane is None or view is None:
            bridge.events.hint.emit(self.why_no_plane())
            return
        row, col = view.position(bridge.plane, world)
        if view.contains(row, col):
            self.do(AddPoint(bridge.plane, Point(row, col, positive)))
        else:
            bridge.events.hint.emit(f"That is outside {view.layer.name}: click on the image")

    def show_outlines(
        self,
        queued: Sequence[NewObject],
        selected: Sequence[int],
        preview: NewObject | None = None,
    ) -> None:
        """Show the outlines of queued masks, selected objects and the mask under the mouse."""
        plane, current = self._bridge.plane, self._document.current
        if self.layers is None:
            return
        outlined: list[Outlined] = []
        image = None if plane is None else self._document.images.get(plane.image)
        if plane is not None and image is not None:
            outlined = [self._outlined(image, plane, n) for n in selected if n in image.records]
            if current is not None and current.plane == plane:
                outlined += map(Outlined.of, queued)
            elif current is None and preview is not None:
                outlined.append(Outlined.of(preview))
        self.layers.show_outlines(outlined)

    def _outlined(self, image: DocumentImage, plane: PlaneKey, label: int) -> Outlined:
        window = Window.from_slices(*image.region(label)[-2:])
        return Outlined(image.mask(plane, label, window), (window.row, window.col))

    def _label_at(self, world: Sequence[float], *, any_class: bool = False) -> int:
        """Return the object at a position in the world, 0 for none.

        With a class in use it is one of that class, unless `any_class` is wanted.
        """
        plane, view = self._bridge.plane, self._bridge.view
        if plane is None or view is None:
            return 0
        row, col = view.position(plane, world)
        if not view.contains(row, col):
            return 0
        category = "" if any_class else self._document.category
        at = plane, round(row), round(col)
        return self._document.image(plane.image).object_at(*at, category)

    def _proposal_at(self, world: Sequence[float]) -> int:
        """Return the proposal at a position in the world that a click would open."""
        plane, view = self._bridge.plane, self._bridge.view
        if plane is None or view is None or self._document.current is not None:
            return 0
        return self.find_proposal(*view.position(plane, world))

    def do(self, action: Action) -> None:
        """Do an action, or report why it is refused, or which prompts elsewhere gave way."""
        before = self._document.pending
        self._bridge.attempt(lambda: self._document.do(action))
        left, plane = before.plane, self._document.pending.plane
        if left not in (None, plane) and plane is not None and left.image in self._document.images:
            where = plane_text(self._document.image(left.image).name, left.index)
            hint = f"What was asked for in {where} gave way: undo brings it back"
            self._bridge.events.hint.emit(hint)

    def _clicked(self, layer: Layer, event: Any) -> Iterator[None]:
        """Tell a click from a drag, which draws or moves the view."""
        if layer.mode not in ("pan_zoom", "add_rectangle") or event.button not in (1, 2):
            return
        start, path = np.asarray(event.pos), [event.position]
        draws = self.tool if self.tool in FREEHAND else ""
        is_negative = event.button == 2 or "Shift" in _names(event.modifiers)
        yield
        while event.type == "mouse_move":
            is_click = np.linalg.norm(event.pos - start) < _DRAG
            if layer.mode == "pan_zoom" and (is_click or draws):
                event.handled = True  # the view does not move
            if draws and not is_click:
                path.append(event.position)
                self._freehand.show(self.tool, path)
            yield
        if len(path) > 1:
            path.append(event.position)  # napari leaves out some movements of a quick mouse
        if draws and len(path) > 1:
            self._freehand.draw(self.tool, path, is_negative)
        elif np.linalg.norm(event.pos - start) < _DRAG:
            self._click(event.position, event.button == 2, _names(event.modifiers))

    def _click(self, world: Sequence[float], is_right: bool, keys: set[str]) -> None:
        """Select the object under the mouse, or add a point; with the knife, say where to split.

        On a proposal it opens that. While an object is pending, and with the control key, a click
        is always a point.
        """
        is_plain, adds = not keys and not is_right, keys == {"Shift", "Control"}
        label = self._label_at(world, any_class=adds)
        if self.tool in AREAS or (self.tool == "cut" and label and is_plain):
            self._freehand.draw(self.tool, [world], is_right)
        elif label and adds:
            self._bridge.events.object_picked.emit(label, True)
        elif label and is_plain and self._document.current is None:
            self._bridge.events.object_picked.emit(label, False)
        elif is_plain and (proposal := self._proposal_at(world)):
            self._bridge.events.proposal_picked.emit(proposal)
        elif self.tool == "point" or not is_plain:
            is_negative = is_right or "Shift" in keys
            self.add_point(world, self.positive and not is_negative)

    def _hovered(self, layer: Layer, event: Any) -> None:
        """Tell where the mouse would ask for an object."""
        plane, view, point = self._bridge.plane, self._bridge.view, None
        if plane is not None and view is not None and self.tool == "point" and self.positive:
            row, col = view.position(plane, event.position)
            at = event.position
            if view.contains(row, col) and not (self._label_at(at) or self._proposal_at(at)):
                point = Point(row, col)
        self._bridge.events.hovered.emit(point)

    def _double_clicked(self, layer: Layer, event: Any) -> None:
        """Reopen the object under the mouse; its first click has selected it."""
        label, plane = self._label_at(event.position), self._bridge.plane
        if label and plane is not None and self._document.current is None:
            self.do(Reopen(plane, label))

    # --- from the prompt layers -----------------------------------------------------------

    def _edited(self, prompts: tuple[Prompts, ...] | None) -> None:
        """Take over what the user changed in the prompt layers, and show what came of it."""
        plane, view = self._bridge.plane, self._bridge.view
        if prompts is None:
            pass
        elif plane is None or view is None:
            self._bridge.events.hint.emit(self.why_no_plane())
        else:
            fitted = tuple(_fitted(each, *view.shape[-2:]) for each in prompts)
            current = self._document.current
            queue = self._document.queue if current is not None and current.plane == plane else ()
            if fitted[: len(queue)] == queue:  # what is new only, for a telling history
                self.do(QueuePrompts(plane, fitted[len(queue) :]))
            else:
                self.do(SetQueue(plane, fitted))
        self.show()

    def why_no_plane(self) -> str:
        """Return why prompts cannot be given now."""
        bridge = self._bridge
        if bridge.view is None:
            return "Open an image first"
        return bridge.why_no_plane or f"{bridge.view.layer.name} is not in this slice"

    # --- from the document to the layers ----------------------------------------------------

    def _image_changed(self) -> None:
        if self.is_open and self._bridge.image is not None:
            self._need_layers()
            self.choose(self._chosen)

    def _prompts_changed(self) -> None:
        """Begin each object with positive points."""
        current = self._document.current
        is_new = current is None or not current.prompts.points
        if is_new and not self.positive and self._had_points:
            self.flip_sign()
        self._had_points = not is_new
        self.show()

    def _place(self) -> None:
        """Place the prompt layers in the shown plane."""
        plane, view = self._bridge.plane, self._bridge.view
        if plane is not None and view is not None and self.layers is not None:
            self.layers.place(view.plane_affine(plane), view.layer.units[-2:])
        self.show()

    def show(self, *, anew: bool = False) -> None:
        """Show prompts and mask of the object being made, if they lie in the shown plane."""
        if self.layers is None:
            return
        if anew:
            self.layers.forget_shown()
        current = self._document.current
        if current is None or current.plane != self._bridge.plane:
            self.layers.show_prompts((), waiting=True)
            self.layers.show_mask(None)
        else:
            mask = current.mask
            self.layers.show_prompts(self._document.queue, waiting=mask is None)
            self.layers.show_mask(mask, current.offset)


def _names(modifiers: Iterable[Any]) -> set[str]:
    """Return the names of keys held down, of which vispy makes objects."""
    return {str(getattr(each, "name", each)) for each in modifiers}


def _fitted(prompts: Prompts, height: int, width: int) -> Prompts:
    """Return prompts with a box cut off at the edges of the image."""
    box = prompts.box
    if box is None or box.row1 <= 0 or box.col1 <= 0 or box.row0 >= height or box.col0 >= width:
        return prompts  # the document says why that is none
    edges = np.clip(box.as_tuple(), 0, (height, width, height, width))
    return prompts.with_box(Box(*edges.tolist()))
