"""Images that the user took out of the viewer, and how they are known again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from napari_peftsam.document import RemoveImage
from napari_peftsam.widgets._parts import stop_timers, timer

if TYPE_CHECKING:
    from napari_peftsam.document import DocumentImage, ImageId
    from napari_peftsam.types import PixelArray
    from napari_peftsam.widgets.layers.bridge import LayerBridge
    from napari_peftsam.widgets.layers.objects import ImageObjects
    from napari_peftsam.widgets.layers.view import ImageView


class RemovedImages:
    """Removed images, whose objects stay with the user.

    A sample of their pixels tells them from others of the same name and shape. They leave the
    document with the next turn of the event loop: where the viewer closes, napari removes all
    layers, and that is not meant.
    """

    def __init__(self, bridge: LayerBridge) -> None:
        self._bridge = bridge
        self._images: dict[ImageId, tuple[ImageObjects, PixelArray | None]] = {}
        self._waiting: list[ImageId] = []
        self._soon = timer(None, 0)
        self._soon.timeout.connect(self.remove)

    def keep(self, objects: ImageObjects) -> None:
        """Remember an image while its pixels are still there, and remove it soon."""
        sample = objects.view.sample() if objects.image.records else None
        self._images[objects.image.id] = objects, sample
        self._waiting.append(objects.image.id)
        self._soon.start()

    def remove(self) -> None:
        """Remove the images from the document that wait for it."""
        self._soon.stop()
        waiting, self._waiting = self._waiting, []
        document = self._bridge.document
        for image in waiting:
            if image in document.images:
                self._bridge.attempt(partial(document.do, RemoveImage(image)))

    def stop(self) -> None:
        """Remove nothing any more: the viewer closes."""
        self._waiting.clear()
        stop_timers(self._soon)

    def find(self, view: ImageView) -> DocumentImage | None:
        """Return the removed image that a layer shows again, None if there is none."""
        for objects, sample in self._images.values():
            image = objects.image
            known = image.name == view.layer.name and image.shape == view.shape
            if known and sample is not None and np.array_equal(sample, view.sample()):
                return image
        return None

    def drop(self, image: ImageId) -> ImageObjects | None:
        """Forget an image, and take the layers out in which its objects stayed."""
        objects = self._images.pop(image, (None, None))[0]
        if objects is not None:
            self._bridge.take_out(*objects.layers)
        return objects

    def clear(self) -> None:
        """Forget all of them."""
        self._images.clear()
