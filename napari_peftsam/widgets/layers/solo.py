"""One image on the screen, the annotated one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Layer

if TYPE_CHECKING:
    from napari_peftsam.widgets.layers.bridge import LayerBridge
    from napari_peftsam.widgets.layers.objects import ObjectsLayer

__all__ = ["Solo"]


class Solo:
    """Annotates the image that the user looks at, and hides the others.

    It follows the active layer and the eyes of the layers. Images that are blended by addition
    onto one of the same shape are its channels: they stay as they are.

    Parameters
    ----------
    bridge
        Has the annotated image.
    objects
        The layers with the objects of images.
    """

    def __init__(self, bridge: LayerBridge, objects: Mapping[Layer, ObjectsLayer]) -> None:
        self._bridge, self._objects = bridge, objects
        self._are_ours = False  # changes of visibility
        layers = bridge.viewer.layers
        layers.events.inserted.connect(self._inserted)
        layers.selection.events.active.connect(self._active_changed)
        for layer in layers:
            self._watch(layer)

    def show(self, layer: Layer) -> None:
        """Show an image with its objects, and hide the others; fit it unless it lies the same."""
        before = [each for each in self._bridge.image_layers if each.visible]
        with self._quietly():
            for image in self._bridge.image_layers:
                is_channel = image.visible and _is_channel(image, layer)
                image.visible = image is layer or is_channel
                if image in self._objects:
                    self._objects[image].layer.visible = image is layer
        places = {_place(each) for each in before}
        if places and places != {_place(layer)}:
            self._bridge.viewer.fit_to_view(layers=[layer])

    def _inserted(self, event: Any) -> None:
        self._watch(event.value)

    def _watch(self, layer: Layer) -> None:
        if isinstance(layer, Image):
            layer.events.visible.connect(self._eye_changed)

    def _active_changed(self, event: Any) -> None:
        if isinstance(event.value, Image) and event.value.visible:
            self._follow(event.value)

    def _eye_changed(self, event: Any) -> None:
        if self._are_ours:
            return
        if event.source.visible:
            self._follow(event.source)
        self._bridge.update_plane()  # there is none to prompt in while its image is hidden

    def _follow(self, layer: Image) -> None:
        bridge = self._bridge
        is_other = layer is not bridge.image and layer in bridge.viewer.layers
        is_channel = bridge.image is not None and _is_channel(layer, bridge.image)
        if bridge.tools.is_open and is_other and not is_channel and not self._are_ours:
            bridge.attempt(lambda: bridge.select_image(layer))

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        before, self._are_ours = self._are_ours, True
        try:
            yield
        finally:
            self._are_ours = before


def _is_channel(layer: Image, of: Layer) -> bool:
    """Return True for a layer that is shown together with another one, as its channel."""
    return layer.blending == "additive" and _place(layer) == _place(of)


def _place(layer: Layer) -> tuple[Any, ...]:
    return tuple(layer.extent.world.ravel().tolist())
