"""The part of the bridge between layers and document that holds images and objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Image
from qtpy.QtCore import QTimer

from napari_peftsam.document import Document, ImageId, PlaneKey, RemoveImage, RenameImage
from napari_peftsam.errors import PeftSamError
from napari_peftsam.widgets._bridge_events import BridgeEvents
from napari_peftsam.widgets._images import ImageView, is_same_image
from napari_peftsam.widgets._objects_layer import ObjectsLayer

if TYPE_CHECKING:
    import napari
    from napari.layers import Labels, Layer

    from napari_peftsam.document import DocumentImage
    from napari_peftsam.types import PixelArray, Window

__all__ = ["ImageBridge"]


@dataclass(frozen=True, eq=False)
class _Left:
    """A removed image, and the layer in which its objects stay with the user."""

    view: ImageView
    image: DocumentImage
    layer: Labels
    sample: PixelArray | None  # tells the image from others of the same name and shape


class ImageBridge:
    """The part of `LayerBridge` that holds images and their objects; see there.

    Layers are known by reference: renaming and reordering them changes nothing.

    Parameters
    ----------
    viewer
        Whose layers; it is not kept alive.
    document
        What they show.
    """

    def __init__(self, viewer: napari.Viewer, document: Document) -> None:
        self._viewer = ref(viewer)
        self.document = document
        self.events = BridgeEvents()
        self._images: dict[Layer, ImageView] = {}
        self._objects: dict[Layer, ObjectsLayer] = {}
        self._left: dict[ImageId, _Left] = {}
        # Images whose layers went since the event loop last turned: if the viewer closes
        # in the same turn, napari removed them and not the user.
        self._removed: list[ImageId] = []
        self._soon = QTimer()
        self._soon.setSingleShot(True)
        self._soon.timeout.connect(self._remove_images)
        self._adding = False
        self._image: ImageView | None = None
        self._plane: PlaneKey | None = None
        self._locks = False
        viewer.layers.events.inserted.connect(self._layer_added)
        viewer.layers.events.removed.connect(self._layer_removed)
        for moved in (viewer.scene.camera.events.center, viewer.scene.camera.events.zoom):
            moved.connect(self._view_moved)
        document.events.image_added.connect(self._document_added)
        document.events.image_removed.connect(self._document_removed)
        document.events.image_renamed.connect(self._document_renamed)
        document.events.closing.connect(self._project_closes)
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
    def image_id(self) -> ImageId | None:
        """Id of that image in the document."""
        return None if self._image is None else self._image.image

    @property
    def objects(self) -> Labels | None:
        """The layer with that image's objects."""
        return None if self._image is None else self._objects[self._image.layer].layer

    def scale_of(self, image: ImageId) -> tuple[float, ...] | None:
        """Return the size of a pixel along each spatial axis of an image, None if unknown."""
        view = next((v for v in self._images.values() if v.image == image), None)
        if view is None:
            return None
        return tuple(abs(float(s)) for s in view.layer.scale)  # negative: mirrored

    @property
    def plane(self) -> PlaneKey | None:
        """The plane of that image which is shown; None if none is."""
        return self._plane

    @property
    def visible(self) -> Window | None:
        """The part of that plane which the canvas shows; None if it shows none."""
        return None if self._image is None or self._plane is None else self._image.visible

    def select_image(self, layer: Image | None) -> None:
        """Annotate another image; it gets a layer for its objects the first time."""
        if layer is self.image:
            return
        if layer is not None and layer not in self._images:
            self._add_image(layer)
        if layer is not None and not layer.visible:
            self._swap_visible(self.image, layer)
        self._image = None if layer is None else self._images[layer]
        self._image_selected()
        self._update_plane()
        self.events.image_changed.emit()

    def go_to(self, label: int) -> None:
        """Show an object: its plane, the camera on it, its label ready to paint with."""
        if self._image is None or self.objects is None:
            return
        record = self.document.image(self._image.image).records.get(label)
        if record is None:
            return
        region = self.document.image(self._image.image).region(label)[-2:]
        middle = [(s.start + s.stop - 1) / 2 for s in region]
        world = self.show_plane(PlaneKey(self._image.image, record.index), *middle)
        self.viewer.scene.camera.center = (0.0, *world[-2:])
        self.objects.selected_label = label

    def show_plane(self, plane: PlaneKey, row: float = 0, col: float = 0) -> tuple[float, ...]:
        """Show a plane of the image and return where a position in it lies in the world."""
        assert self._image is not None, "a plane of an image"
        world = self._image.to_world(plane, row, col)
        dims = self.viewer.dims
        leading = dims.ndim - len(world)
        for axis, value in enumerate(world[:-2]):
            dims.set_point(leading + axis, value)
        return world

    def _swap_visible(self, old: Image | None, new: Image) -> None:
        """Show an image that was hidden, in place of the one that would cover it."""
        for image, visible in ((old, False), (new, True)):
            if image is not None:
                image.visible = visible
                self._objects[image].layer.visible = visible

    def _add_image(self, layer: Image) -> None:
        self._remove_images()
        view = ImageView(layer)
        left = self._same_image(view)
        self._adding = True
        try:
            if left is None:
                view.image = self.document.add_image(layer.name, view.pixels, rgb=bool(layer.rgb))
            else:  # the image is back
                before = left.image
                view.image = self.document.add_image(
                    layer.name,
                    view.pixels,
                    rgb=bool(layer.rgb),
                    labels=before.labels.copy(),
                    records=tuple(before.records.values()),
                )
                self._drop_left(before.id)
        finally:
            self._adding = False
        self._show_image(view)

    def layer_of(self, image: ImageId) -> Image | None:
        """Return the layer of an image of the document, None if it has none."""
        return next((v.layer for v in self._images.values() if v.image == image), None)

    def show(self, image: ImageId, *, visible: bool = True) -> None:
        """Give an image of the document, whose pixels are read, its layers.

        A layer that shows the same pixels under the same name is taken.
        """
        entry = self.document.image(image)
        if self.layer_of(image) is not None:
            return
        layer = self._same_layer(entry)
        if layer is None:
            layer = self.viewer.add_image(
                entry.pixels, name=entry.name, rgb=entry.rgb, visible=visible
            )
        view = ImageView(layer)
        view.image = image
        self._show_image(view)
        self._objects[layer].layer.visible = layer.visible

    def _same_layer(self, entry: DocumentImage) -> Image | None:
        for layer in self.image_layers:
            known = layer in self._images or layer.name != entry.name or layer.rgb != entry.rgb
            if not known and is_same_image(ImageView(layer), entry):
                return layer
        return None

    def _show_image(self, view: ImageView) -> None:
        """Give an image of the document a layer for its objects, above its own layer."""
        layer, image = view.layer, self.document.image(view.image)
        name = "objects" if not self._objects else f"objects ({image.name})"
        objects = ObjectsLayer(self.document, layer, image, name, self.events.failed.emit)
        self._images[layer], self._objects[layer] = view, objects
        layer.events.data.connect(self._pixels_replaced)
        for changed in (objects.layer.events.mode, objects.layer.events.selected_label):
            changed.connect(self._tool_may_differ)
        above = self.viewer.layers.index(layer) + 1
        self.viewer.layers.insert(above, objects.layer)
        objects.layer.locked = self._locks

    def _lock_objects(self, *, locked: bool) -> None:
        self._locks = locked
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
        """Remove an image; the layer with its objects, if still there, stays with the user."""
        view = self._images[layer]
        objects = self._let_go(layer)
        image = objects.image
        sample = view.sample() if image.records else None
        self._left[view.image] = _Left(view, image, objects.layer, sample)
        if view.image in self.document.images:
            self._removed.append(view.image)
            self._soon.start()

    def _let_go(self, layer: Layer) -> ObjectsLayer:
        """Follow the layers of an image no more."""
        if self._image is self._images[layer]:
            self.select_image(None)
        del self._images[layer]
        layer.events.data.disconnect(self._pixels_replaced)
        objects = self._objects.pop(layer)
        for changed in (objects.layer.events.mode, objects.layer.events.selected_label):
            changed.disconnect(self._tool_may_differ)
        objects.release()
        return objects

    def _remove_images(self) -> None:
        """Remove the images from the document whose layers the user removed."""
        self._soon.stop()
        removed, self._removed = self._removed, []
        for image in removed:
            if image in self.document.images:
                try:
                    self.document.do(RemoveImage(image))
                except PeftSamError as error:
                    self.events.failed.emit(error)

    def _same_image(self, view: ImageView) -> _Left | None:
        """Return the removed image that a layer shows again, None if there is none."""
        for left in self._left.values():
            known = left.image.name == view.layer.name and left.image.shape == view.shape
            if known and left.sample is not None and np.array_equal(left.sample, view.sample()):
                return left
        return None

    def _drop_left(self, image: ImageId) -> _Left | None:
        """Forget a removed image, and take the layer out in which its objects stayed."""
        left = self._left.pop(image, None)
        if left is not None and left.layer in self.viewer.layers:
            left.layer.locked = False
            self.viewer.layers.remove(left.layer)
        return left

    def _document_added(self, image: str) -> None:
        """Show an image again whose removal was undone."""
        left = self._drop_left(ImageId(image))
        if left is None:
            if not self._adding and self.document.image(ImageId(image)).pixels is None:
                self.events.image_wanted.emit(image)
            return
        if left.view.layer not in self.viewer.layers:
            self.viewer.layers.append(left.view.layer)
        self._show_image(left.view)
        self.select_image(left.view.layer)

    def _document_removed(self, image: str) -> None:
        """Take the layers of an image out of the viewer whose removal was done again."""
        layer = self.layer_of(ImageId(image))
        if layer is not None:
            objects = self._objects[layer].layer
            self._forget(layer)
            for each in (objects, layer):
                each.locked = False
                self.viewer.layers.remove(each)

    def viewer_closes(self) -> None:
        """Keep the images whose layers napari has just removed from its closing viewer."""
        self._soon.stop()
        self._removed.clear()

    def _project_closes(self) -> None:
        """Take the layers of a project out; images without any work stay for the next one."""
        self._remove_images()
        store = self.document.store
        is_worked_on = store.path is not None or store.last_step() is not None
        for layer in list(self._images):
            objects = self._let_go(layer).layer
            for each in (objects, layer) if is_worked_on else (objects,):
                each.locked = False
                self.viewer.layers.remove(each)
        self._left.clear()

    def _renamed(self, event: Any) -> None:
        view = self._images.get(event.source)
        if view is not None:
            try:
                self.document.do(RenameImage(view.image, event.source.name))
            except PeftSamError as error:  # e.g. a name that another image has
                self.events.failed.emit(error)
        self.events.images_changed.emit()

    def _document_renamed(self, image: str, name: str) -> None:
        layer = self.layer_of(ImageId(image))
        if layer is not None and layer.name != name:
            layer.name = name

    def _pixels_replaced(self, event: Any) -> None:
        """Follow a layer to other pixels; objects that no longer fit them stay as they are."""
        view = self._images[event.source]
        if view.fits:
            try:
                self.document.replace_pixels(view.image, view.pixels)
            except PeftSamError as error:
                self.events.failed.emit(error)
        elif view is self._image:
            self.events.hint.emit(view.why_not(self.viewer.dims))
        self._update_plane()

    def _update_plane(self, event: Any = None) -> None:
        """Follow the viewer to another plane."""
        plane = None if self._image is None else self._image.shown_plane(self.viewer.dims)
        if plane != self._plane:
            self._plane = plane
            self._plane_changed()
            self.events.plane_changed.emit()

    def _view_moved(self, event: Any = None) -> None:
        self.events.view_moved.emit()

    def _tool_may_differ(self, event: Any = None) -> None:
        self.events.tool_changed.emit()

    # --- for the part above -----------------------------------------------------------

    def _image_selected(self) -> None:
        """Another image is chosen; its plane is not known yet."""

    def _plane_changed(self) -> None:
        """Another plane is shown, or none."""
