"""One image on the screen, the annotated one; the others wait in a queue beside the layer list."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Image, Layer

from napari_peftsam.document import PlaneKey
from napari_peftsam.heap import collect_all, spare_collections
from napari_peftsam.widgets._parts import stop_timers, timer
from napari_peftsam.widgets.layers.overlays import same_selection
from napari_peftsam.widgets.layers.view import PATH

if TYPE_CHECKING:
    from napari_peftsam.widgets.layers.bridge import LayerBridge
    from napari_peftsam.widgets.layers.objects import ImageObjects

_HIDING = ("translucent", "translucent_no_depth", "opaque")
_SEEN = 0.5  # opacity at which an image below is seen well enough


class Solo:
    """Annotates the image that the user looks at, and puts the others aside.

    It follows the active layer and the eyes of the layers. While the tools are open, layers of
    images that are annotated, or were read from a file, are in the viewer only while they are
    shown; layers that a script or another plugin made are hidden instead. Images that are blended
    by addition onto one of the same shape are its channels: they stay as they are.

    Parameters
    ----------
    bridge
        Has the annotated image.
    objects
        The layers with the objects of images, by the layer of the image.

    Attributes
    ----------
    is_moving
        True while layers are put aside or come back: nothing is removed or added by the user.
    """

    def __init__(self, bridge: LayerBridge, objects: Mapping[Layer, ImageObjects]) -> None:
        self._bridge, self._objects = bridge, objects
        self.is_moving = False
        self._order: list[Image] = []
        self._planes = WeakKeyDictionary[Layer, PlaneKey]()  # shown last
        self._eyes = WeakKeyDictionary[Layer, bool]()  # of objects of images that are not shown
        self._leaving: list[Layer] = []  # hidden; still in the viewer
        self._soon = timer(None, 0)
        self._soon.timeout.connect(self._take_out)
        layers = bridge.viewer.layers
        layers.events.inserted.connect(self._inserted)
        layers.events.removing.connect(self._let_collect)
        layers.selection.events.active.connect(self._active_changed)
        for layer in layers:
            self._watch(layer)

    @property
    def images(self) -> tuple[Image, ...]:
        """The images that can be annotated, those put aside included, in the order they came."""
        here = [layer for layer in self._bridge.viewer.layers if isinstance(layer, Image)]
        present = {*here, *self._objects}
        known = set(self._order)
        self._order = [layer for layer in self._order if layer in present]
        new = [layer for layer in (*here, *self._objects) if layer not in known]
        self._order += dict.fromkeys(layer for layer in new if isinstance(layer, Image))
        return tuple(self._order)

    def keep_order(self, images: Sequence[Image]) -> None:
        """Keep images in another order."""
        self._order = list(images)

    def sort(self) -> None:
        """Put the images into the order of the document, before those that it does not have."""
        places = {image: place for place, image in enumerate(self._bridge.document.images)}

        def place(layer: Image) -> int:
            known = self._objects.get(layer)
            return len(places) if known is None else places.get(known.image.id, len(places))

        self._order = sorted(self.images, key=place)

    def plane_of(self, layer: Layer) -> PlaneKey | None:
        """Return the plane of an image that was shown last, None if none was."""
        return self._planes.get(layer)

    def note_plane(self, plane: PlaneKey | None) -> None:
        """Take note of the plane of the annotated image that is shown."""
        if plane is not None and self._bridge.image is not None and not self.is_moving:
            self._planes[self._bridge.image] = plane

    def ahead(self) -> tuple[PlaneKey, ...]:
        """Return the planes probably shown next: of the annotated stack, and of the next image."""
        plane, shown = self._bridge.plane, self._bridge.image
        if plane is None or shown is None:
            return ()
        found: list[PlaneKey | None] = []
        if plane.index and plane.index[-1] + 1 < self._objects[shown].image.shape[-3]:
            found.append(PlaneKey(plane.image, (*plane.index[:-1], plane.index[-1] + 1)))
        images = self.images
        for each in images[images.index(shown) + 1 :][:1]:
            known = self._objects.get(each)
            is_flat = known is not None and len(known.image.shape) == 2
            first = PlaneKey(known.image.id) if known is not None and is_flat else None
            found.append(self._planes.get(each, first))
        return tuple(each for each in found if each is not None)

    def show(self, layer: Image) -> None:
        """Show an image with its objects, and no other; fit it unless it lies as the last one."""
        viewer = self._bridge.viewer
        here = [each for each in viewer.layers if isinstance(each, Image)]
        before = {_place(each) for each in here if each.visible}
        with self._quietly():
            layer.visible = True  # first, for the viewer is drawn at once if it shows one
            for each in self._objects[layer].layers:
                each.visible = self._eyes.pop(each, True)
            with same_selection(viewer.layers):
                self.bring_back(layer)
            for other in here:
                if other is not layer:
                    self._put_away(other, layer)
        if before and before != {_place(layer)}:
            # napari 0.9 can fit layers only that have as many axes as the viewer.
            viewer.fit_to_view(layers=[layer] if layer.ndim == viewer.dims.ndim else None)

    def covering(self, layer: Image) -> Image | None:
        """Return an image that hides the annotated one, None if none does."""
        layers = list(self._bridge.viewer.layers)  # napari takes 0.1 s for a slice of its own
        above = layers[layers.index(layer) + 1 :] if layer in layers else []
        opaque = (each for each in above if isinstance(each, Image) and each.visible)
        hiding = (each for each in opaque if each.blending in _HIDING and each.opacity > _SEEN)
        return next((each for each in hiding if _overlap(each, layer)), None)

    def bring_all_back(self) -> None:
        """Put the layers of all images into the viewer, hidden but for the annotated one."""
        with self._quietly():
            for layer in self.images:
                self.bring_back(layer)

    def bring_back(self, layer: Image) -> None:
        """Put the layers of an image into the viewer, if they are not there."""
        layers, known = self._bridge.viewer.layers, self._objects.get(layer)
        mine = () if known is None else (layer, *known.layers)
        self._leaving = [each for each in self._leaving if each not in mine]
        if known is not None and any(each not in layers for each in mine):
            here = [layers.index(each) for each in layers if isinstance(each, Image)]
            # Below what other plugins show on it.
            at = layers.index(layer) if layer in layers else max(here) + 1 if here else 0
            with self._quietly():
                for place, each in enumerate(mine, start=at):
                    if each not in layers:
                        layers.insert(place, each)
            self._bridge.note_name(layer)  # napari changes a name that another layer has
            known.lock(self._bridge.tools.is_open)

    def _put_away(self, image: Image, shown: Image) -> None:
        """Put an image aside or hide it, unless it is a channel of the shown one."""
        is_channel = image.visible and _is_channel(image, shown)
        if not is_channel and self._bridge.tools.is_open and self._is_annotated(image):
            self.put_aside(image)
            return
        if image in self._objects:
            self._shut(image)
        image.visible = is_channel

    def put_aside(self, image: Image) -> None:
        """Hide the layers of an annotated image, and take them out of the viewer soon.

        They come back as they were.
        """
        with self._quietly():
            self._shut(image)
            image.visible = False
        here = [each for each in (*self._objects[image].layers, image) if each not in self._leaving]
        self._leaving += (each for each in here if each in self._bridge.viewer.layers)
        self._soon.start()

    def _take_out(self) -> None:
        """Take one of the layers that leave out of the viewer, which takes napari 50 ms."""
        layers = self._bridge.viewer.layers
        self._leaving = [each for each in self._leaving if each in layers]
        if self._leaving:
            each = self._leaving.pop(0)
            spare_collections()  # napari collects whenever a layer goes
            with self._quietly():
                each.locked = False
                if layers.selection.active is each:
                    layers.selection.active = self._bridge.image
                layers.remove(each)
            self._soon.start()

    def stop(self) -> None:
        """Take no layer out any more: the viewer closes."""
        stop_timers(self._soon)

    def _shut(self, image: Image) -> None:
        """Hide the objects of an image, and remember which layers the user had hidden."""
        for each in self._objects[image].layers:
            self._eyes.setdefault(each, each.visible or not image.visible)
            each.visible = False

    def _is_annotated(self, image: Image) -> bool:
        """Say whether an image is in the document; one from a file or a sample gets there."""
        known = self._bridge.document.find_image(image.name)
        is_awaited = known is not None and self._bridge.layer_of(known.id) is None
        comes_from_file = image.source.path or image.source.sample or PATH in image.metadata
        if image not in self._objects and comes_from_file and not is_awaited:
            self._bridge.attempt(lambda: self._bridge.adopt(image))
        return image in self._objects

    def _let_collect(self) -> None:
        """Let what the user removes be collected."""
        if not self.is_moving:
            collect_all()

    def _inserted(self, event: Any) -> None:
        layer, shown = event.value, self._bridge.image
        self._watch(layer)
        is_hidden = isinstance(layer, Image) and not layer.visible and not self.is_moving
        is_other = is_hidden and shown is not None and not _is_channel(layer, shown)
        if is_other and self._bridge.tools.is_open:
            self._put_away(layer, shown)

    def _watch(self, layer: Layer) -> None:
        if isinstance(layer, Image):
            layer.events.visible.connect(self._eye_changed)
            for signal in (layer.events.blending, layer.events.opacity):
                signal.connect(self._bridge.update_plane)

    def _active_changed(self, event: Any) -> None:
        if isinstance(event.value, Image) and event.value.visible:
            self._follow(event.value)

    def _eye_changed(self, event: Any) -> None:
        if self.is_moving:
            return
        if event.source.visible:
            self._follow(event.source)
        self._bridge.update_plane()  # there is none to prompt in while its image is hidden

    def _follow(self, layer: Image) -> None:
        bridge = self._bridge
        is_other = layer is not bridge.image and layer in bridge.viewer.layers
        is_channel = bridge.image is not None and _is_channel(layer, bridge.image)
        if bridge.tools.is_open and is_other and not is_channel and not self.is_moving:
            bridge.attempt(lambda: bridge.select_image(layer))

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        before, self.is_moving = self.is_moving, True
        try:
            yield
        finally:
            self.is_moving = before


def _is_channel(layer: Image, of: Layer) -> bool:
    """Return True for a layer that is shown together with another one, as its channel."""
    return layer.blending == "additive" and _place(layer) == _place(of)


def _place(layer: Layer) -> tuple[Any, ...]:
    return tuple(layer.extent.world.ravel().tolist())


def _overlap(one: Layer, other: Layer) -> bool:
    (low, high), (begin, end) = (each.extent.world[:, -2:] for each in (one, other))
    return bool((np.maximum(low, begin) < np.minimum(high, end)).all())
