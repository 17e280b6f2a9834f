"""napari's image layers and the images of a document, kept in step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from napari.layers import Image

from napari_peftsam.document import Document, ImageId, PlaneKey, RenameImage
from napari_peftsam.document.derive import numbered
from napari_peftsam.errors import PeftSamError
from napari_peftsam.heap import collect_all
from napari_peftsam.widgets.layers.events import BridgeEvents
from napari_peftsam.widgets.layers.objects import ImageObjects
from napari_peftsam.widgets.layers.removed import RemovedImages
from napari_peftsam.widgets.layers.solo import Solo
from napari_peftsam.widgets.layers.tools import PromptTools
from napari_peftsam.widgets.layers.view import ImageView, is_same_image, layer_options

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari
    from napari.layers import Labels, Layer

    from napari_peftsam.metadata import ImageMetadata
    from napari_peftsam.types import Window

_T = TypeVar("_T")
_CONTOUR = 2  # pixels of the image


class LayerBridge:
    """The images of a viewer that are annotated, each with a layer for its objects.

    Layers are known by reference: renaming and reordering them changes nothing.

    Parameters
    ----------
    viewer
        The owner of the layers; it is not kept alive.
    document
        The images and objects that the layers show.

    Attributes
    ----------
    events
        See `BridgeEvents`.
    tools
        Tools and layers for prompts.
    plane
        The plane of the annotated image which is shown; None if none is.
    why_no_plane
        Why prompts cannot be given in the present view, empty if they can.
    contour
        Width in pixels of the contours of objects; 0: they are filled.
    """

    def __init__(self, viewer: napari.Viewer, document: Document) -> None:
        self._viewer = ref(viewer)
        self.document = document
        self.events = BridgeEvents()
        self.plane: PlaneKey | None = None
        self.why_no_plane = ""
        self.contour = 0
        self._shown: dict[Layer, ImageObjects] = {}
        self._current: ImageObjects | None = None
        self._left = RemovedImages(self)
        layers, dims, camera = viewer.layers, viewer.dims, viewer.scene.camera
        for signal, slot in (
            (layers.events.inserted, self._layer_added),
            (layers.events.removed, self._layer_removed),
            (layers.events.renamed, self._layer_renamed),
            (layers.selection.events.active, self.tool_may_differ),
            (dims.events.point, self.update_plane),
            (dims.events.ndisplay, self.update_plane),
            (dims.events.order, self.update_plane),
            (camera.events.center, self._view_moved),
            (camera.events.zoom, self._view_moved),
            (document.events.category_changed, self._need_class),
            (document.events.image_added, self._document_added),
            (document.events.image_removed, self._document_removed),
            (document.events.image_renamed, self._document_renamed),
            (document.events.closing, self._project_closes),
        ):
            signal.connect(slot)
        self.tools = PromptTools(self)
        self._solo = Solo(self, self._shown)

    @property
    def viewer(self) -> napari.Viewer:
        """The viewer."""
        viewer = self._viewer()
        assert viewer is not None, "its layers cannot outlive it"
        return viewer

    def attempt(self, action: Callable[[], _T]) -> _T | None:
        """Call a function; report it if the document refuses the action or cannot save it."""
        try:
            return action()
        except PeftSamError as error:
            self.events.failed.emit(error)
            return None

    # --- the annotated image ------------------------------------------------------------

    @property
    def image_layers(self) -> tuple[Image, ...]:
        """The layers that can be annotated, also those put aside: the queue of images."""
        return self._solo.images

    @property
    def view(self) -> ImageView | None:
        """The image being annotated, as it lies in the viewer."""
        return None if self._current is None else self._current.view

    @property
    def image(self) -> Image | None:
        """The image layer being annotated."""
        return None if self._current is None else self._current.view.layer

    @property
    def image_id(self) -> ImageId | None:
        """Id of that image in the document."""
        return None if self._current is None else self._current.view.image

    @property
    def objects(self) -> Labels | None:
        """The layer with that image's objects of the class in use."""
        return None if self._current is None else self._current.in_use

    @property
    def object_layers(self) -> tuple[Labels, ...]:
        """The layers with that image's objects, one for each label set."""
        return () if self._current is None else self._current.layers

    def objects_of(self, label: int) -> Labels | None:
        """Return the layer with an object of that image; of a new one, as `objects`."""
        return None if self._current is None else self._current.layer_of(label)

    @property
    def visible(self) -> Window | None:
        """The part of the shown plane which the canvas shows; None if it shows none."""
        return None if self._current is None or self.plane is None else self._current.view.visible

    def select_image(self, layer: Image | None) -> None:
        """Annotate another image; it gets a layer for its objects the first time."""
        if layer is self.image:
            return
        if layer is not None and layer not in self._shown:
            self.adopt(layer)
        self._current = None if layer is None else self._shown[layer]
        self._need_class()
        if layer is not None:  # others would cover it
            last = self._solo.plane_of(layer)
            self._solo.show(layer)
            if last is not None:
                self.show_plane(last)
        self.update_plane()
        self.events.image_changed.emit()

    def go_to(self, label: int) -> None:
        """Show an object: its plane, the camera on it, its label ready to paint with."""
        if self._current is None:
            return
        image = self._current.image
        record = image.records.get(label)
        if record is None:
            return
        middle = [(s.start + s.stop - 1) / 2 for s in image.region(label)[-2:]]
        self.show_plane(PlaneKey(image.id, record.index), *middle)
        self.look_at(*middle)
        self._current.layer_of(label).selected_label = label

    def look_at(self, row: float, col: float) -> None:
        """Bring a position of the shown plane into sight; the view stays if it is."""
        view = self.view
        if view is not None and self.plane is not None and not view.visible.contains(row, col):
            world = view.to_world(self.plane, row, col)
            self.viewer.scene.camera.center = (0.0, *world[-2:])

    def show_plane(self, plane: PlaneKey, row: float = 0, col: float = 0) -> tuple[float, ...]:
        """Show a plane of the image and return where a position in it lies in the world."""
        assert self._current is not None, "a plane of an image"
        world = self._current.view.to_world(plane, row, col)
        dims = self.viewer.dims
        leading = dims.ndim - len(world)
        for axis, value in enumerate(world[:-2]):
            dims.set_point(leading + axis, value)
        return world

    @property
    def ahead(self) -> tuple[PlaneKey, ...]:
        """The planes that are probably annotated next: of this stack, then of the next image."""
        return self._solo.ahead()

    # --- all images -----------------------------------------------------------------------

    def layer_of(self, image: ImageId) -> Image | None:
        """Return the layer of an image of the document, None if it has none."""
        return next((o.view.layer for o in self._shown.values() if o.image.id == image), None)

    def image_of(self, layer: Layer) -> ImageId | None:
        """Return the image that a layer shows, None if it is not annotated."""
        objects = self._shown.get(layer)
        return None if objects is None else objects.image.id

    def metadata_of(self, image: ImageId) -> ImageMetadata:
        """Return axes, pixel size and channels of an image: of its layer, else as stored."""
        layer = self.layer_of(image)
        stored = self.document.image(image).info.metadata
        return stored if layer is None else self._shown[layer].view.metadata

    def show(self, image: ImageId, *, visible: bool = True) -> None:
        """Give an image of the document, whose pixels are read, its layers.

        A layer that shows the same pixels under the same name is taken.
        """
        if self.layer_of(image) is not None:
            return
        entry = self.document.image(image)
        free = (layer for layer in self.image_layers if layer not in self._shown)
        same = (each for each in free if each.name == entry.name and each.rgb == entry.rgb)
        layer = next((each for each in same if is_same_image(ImageView(each), entry)), None)
        if layer is None:
            about = layer_options(entry.info.metadata)
            layer = Image(entry.pixels, name=entry.name, rgb=entry.rgb, visible=visible, **about)
        view = ImageView(layer)
        view.image = image
        self._show_image(view)
        for each in self._shown[layer].layers:
            each.visible = layer.visible
        if visible or not self.tools.is_open:
            self._solo.bring_back(layer)
        else:
            self._solo.put_aside(layer)
        self._solo.sort()
        self.events.images_changed.emit()

    def show_anew(self, image: ImageId) -> None:
        """Make the layer of an image anew, in the place of the one it has."""
        old = self.layer_of(image)
        assert old is not None, "it is shown"
        was_annotated, images = old is self.image, self.image_layers
        self.take_out(*self._let_go(old).layers, old)
        self.show(image, visible=was_annotated)
        new = self.layer_of(image)
        assert new is not None, "it was shown"
        self._solo.keep_order([new if layer is old else layer for layer in images])
        if was_annotated:
            self.select_image(new)

    def flip_contours(self) -> None:
        """Show the objects of all images as contours, or filled again."""
        self.contour = 0 if self.contour else _CONTOUR
        for layer in (each for objects in self._shown.values() for each in objects.layers):
            layer.contour = self.contour

    def open_or_close(self) -> None:
        """Follow the tools: layers with objects cannot be removed while they are open."""
        if not self.tools.is_open:
            self._solo.bring_all_back()
        for objects in self._shown.values():
            objects.lock(self.tools.is_open)

    def viewer_closes(self) -> None:
        """Keep the images whose layers napari has just removed from its closing viewer."""
        self._left.stop()
        self._solo.stop()
        collect_all()

    def adopt(self, layer: Image) -> None:
        """Add the image of a layer, which may be in the viewer or not, to the document."""
        self._left.remove()
        view = ImageView(layer)
        left = self._left.find(view)  # the image is back
        if self.document.find_image(layer.name) is not None:  # it is put aside: napari allows it
            names = (each for each in numbered(layer.name))
            layer.name = next(name for name in names if self.document.find_image(name) is None)
        view.image = self.document.add_image(
            layer.name,
            view.pixels,
            rgb=bool(layer.rgb),
            labels=None if left is None else left.labels.copy(),
            records=() if left is None else tuple(left.records.values()),
            others={} if left is None else {k: left.array(k).copy() for k in left.label_sets[1:]},
            metadata=view.metadata,
        )
        if left is not None:
            self._left.drop(left.id)
        self._show_image(view)
        if layer not in self.viewer.layers:
            self.events.images_changed.emit()

    def _show_image(self, view: ImageView) -> None:
        """Give an image of the document a layer for its objects, above its own layer."""
        layer = view.layer
        self._shown[layer] = objects = ImageObjects(self, view)
        layer.events.data.connect(self._pixels_replaced)
        if layer in self.viewer.layers:
            at = self.viewer.layers.index(layer) + 1
            for place, each in enumerate(objects.layers, start=at):
                self.viewer.layers.insert(place, each)
        objects.lock(self.tools.is_open)

    def _need_class(self) -> None:
        """Show a layer for the objects that are made from now on."""
        if self._current is not None:
            self._current.need(self.document.label_set)

    def _let_go(self, layer: Layer) -> ImageObjects:
        """Follow the layers of an image no more."""
        if layer is self.image:
            self.select_image(None)
        layer.events.data.disconnect(self._pixels_replaced)
        objects = self._shown.pop(layer)
        objects.release()
        return objects

    def _forget(self, objects: ImageObjects) -> None:
        """Remove an image; the layer with its objects, if still there, stays with the user."""
        self._let_go(objects.view.layer)
        self._left.keep(objects)

    def take_out(self, *layers: Layer) -> None:
        """Take layers out of the viewer, those that are put aside excepted."""
        for layer in layers:
            layer.locked = False
            if layer in self.viewer.layers:  # else it is put aside
                self.viewer.layers.remove(layer)

    # --- from the viewer to the document ---------------------------------------------------

    def _layer_added(self, event: Any) -> None:
        if isinstance(event.value, Image) and not self._solo.is_moving:
            self.events.images_changed.emit()

    def _layer_removed(self, event: Any) -> None:
        layer = event.value
        if self._solo.is_moving:
            return
        owners = (o for i, o in self._shown.items() if layer is i or layer in o.layers)
        objects = next(owners, None)
        if objects is not None:
            self._forget(objects)
        if isinstance(layer, Image):
            self.events.images_changed.emit()

    def _layer_renamed(self, event: Any) -> None:
        layer = self.viewer.layers[event.index]
        if layer in self._shown:
            self.note_name(layer)
        if isinstance(layer, Image):
            self.events.images_changed.emit()

    def note_name(self, layer: Layer) -> None:
        """Give an image the name of its layer; if another has it, the layer that of the image."""
        image = self._shown[layer].image
        if layer.name != image.name:
            self.attempt(lambda: self.document.do(RenameImage(image.id, layer.name)))
            layer.name = image.name

    def _pixels_replaced(self, event: Any) -> None:
        """Follow a layer to other pixels; objects that no longer fit them stay as they are."""
        view = self._shown[event.source].view
        if view.pixels is self.document.image(view.image).pixels:
            pass  # they came from there
        elif view.fits:
            self.attempt(lambda: self.document.replace_pixels(view.image, view.pixels))
        elif view is self.view:
            self.events.hint.emit(view.why_not(self.viewer.dims))
        self.update_plane()

    def update_plane(self) -> None:
        """Follow the viewer to another plane."""
        view = self.view
        self.why_no_plane = "" if view is None else self._why_no_plane(view)
        can_prompt = view is not None and not self.why_no_plane
        plane = view.shown_plane(self.viewer.dims) if view is not None and can_prompt else None
        if plane != self.plane:
            self.plane = plane
            self._solo.note_plane(plane)
            self.events.plane_changed.emit()

    def _why_no_plane(self, view: ImageView) -> str:
        covering = self._solo.covering(view.layer)
        if covering is not None:
            return f"{covering.name} covers {view.layer.name}: hide it, or lower its opacity"
        return view.why_not(self.viewer.dims)

    def _view_moved(self) -> None:
        self.events.view_moved.emit()

    def tool_may_differ(self) -> None:
        """Report that the user may have chosen another tool or label."""
        self.events.tool_changed.emit()

    # --- from the document to the viewer ---------------------------------------------------

    def _document_added(self, image: str) -> None:
        """Show an image again whose removal was undone."""
        objects = self._left.drop(ImageId(image))
        if objects is not None:
            self._show_image(objects.view)
            self._solo.bring_back(objects.view.layer)
            self._solo.sort()
            self.select_image(objects.view.layer)
        elif self.document.image(ImageId(image)).pixels is None:
            self.events.image_wanted.emit(image)

    def _document_removed(self, image: str) -> None:
        """Take the layers of an image out of the viewer whose removal was done again."""
        layer = self.layer_of(ImageId(image))
        if layer is not None:
            objects = self._shown[layer]
            self._forget(objects)
            self.take_out(*objects.layers, layer)

    def _document_renamed(self, image: str, name: str) -> None:
        layer = self.layer_of(ImageId(image))
        if layer is not None:
            self._shown[layer].follow_name()
            if layer.name != name:
                layer.name = name

    def _project_closes(self) -> None:
        """Take the layers of a project out; images without any work stay for the next one."""
        self._left.remove()
        store = self.document.store
        is_worked_on = store.path is not None or store.last_step() is not None
        self._solo.bring_all_back()
        for layer in list(self._shown):
            objects = self._let_go(layer).layers
            self.take_out(*objects, *((layer,) if is_worked_on else ()))
        self._left.clear()
