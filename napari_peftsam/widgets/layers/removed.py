"""Images that the user took out of the viewer, and how they are known again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from napari_peftsam.document import DocumentImage, ImageId
    from napari_peftsam.types import PixelArray
    from napari_peftsam.widgets.layers.objects import ObjectsLayer
    from napari_peftsam.widgets.layers.view import ImageView

__all__ = ["RemovedImages"]


class RemovedImages:
    """Removed images, whose objects stay with the user.

    A sample of their pixels tells them from others of the same name and shape.
    """

    def __init__(self) -> None:
        self._images: dict[ImageId, tuple[ObjectsLayer, PixelArray | None]] = {}

    def keep(self, objects: ObjectsLayer) -> None:
        """Remember an image while its pixels are still there."""
        sample = objects.view.sample() if objects.image.records else None
        self._images[objects.image.id] = objects, sample

    def find(self, view: ImageView) -> DocumentImage | None:
        """Return the removed image that a layer shows again, None if there is none."""
        for objects, sample in self._images.values():
            image = objects.image
            known = image.name == view.layer.name and image.shape == view.shape
            if known and sample is not None and np.array_equal(sample, view.sample()):
                return image
        return None

    def pop(self, image: ImageId) -> ObjectsLayer | None:
        """Forget an image and return the layer of its objects, None if it is not known."""
        return self._images.pop(image, (None, None))[0]

    def clear(self) -> None:
        """Forget all of them."""
        self._images.clear()
