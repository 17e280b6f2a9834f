"""A napari image layer as the planes of an image in the document."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from napari.layers import Image

from napari_peftsam.document import ImageId, PlaneKey
from napari_peftsam.files import image_name
from napari_peftsam.geometry import sizes
from napari_peftsam.metadata import ImageMetadata
from napari_peftsam.planes import LazyImage, plane_of
from napari_peftsam.types import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import napari

    from napari_peftsam.document import DocumentImage
    from napari_peftsam.files import ImageFile
    from napari_peftsam.types import PixelArray

METADATA = "napari-peftsam metadata"
"""Key of a layer's metadata: the `ImageMetadata` of its file."""
PATH = "napari-peftsam path"
"""Key in a layer's metadata under which our own readers note the file."""
_NAMED = 4  # axes that have a name by their order
_SQUARES = 8  # along each axis, by which an image is recognised ...
_SIDE = 256  # ... of so many pixels: of planes up to 2048 pixels all of it


class ImageView:
    """One image layer: its pixels, and where its planes lie in the viewer's world.

    Attributes
    ----------
    layer
        The napari layer; it may be renamed and moved.
    image
        Its id in the document.
    shape
        The spatial shape ``(..., H, W)`` of the annotated pixels.
    """

    def __init__(self, layer: Image) -> None:
        self.layer = layer
        self.image = ImageId("")
        self.shape = self._present_shape()

    @property
    def pixels(self) -> Any:
        """``(..., H, W[, 3|4])``; of a multiscale image the finest level."""
        return self.layer.data[0] if self.layer.multiscale else self.layer.data

    @property
    def metadata(self) -> ImageMetadata:
        """Pixel size, units and names of the axes as the layer has them now.

        Channels, and how the file was read, are those that the layer was opened with.
        """
        layer, count = self.layer, len(self.shape)
        names = [str(name).lower() for name in layer.axis_labels]
        # napari calls axes without a name by their distance from the last one.
        named = [name if name.isalpha() else "" for name in names]
        letters = "tzyx"[-count:] if not any(named) and count <= _NAMED else ""
        found = ImageMetadata.of(
            [abs(float(s)) for s in layer.scale],  # negative: mirrored
            [str(unit) for unit in layer.units],
            named if any(named) else letters or [""] * count,
        )
        given = layer.metadata.get(METADATA)
        if isinstance(given, ImageMetadata):
            return replace(found, channels=given.channels, read_with=given.read_with)
        return found

    def sample(self) -> PixelArray:
        """Return ``(N, h, w[, 3|4])``: squares spread over the middle plane to its corners.

        Edges alone would not tell images apart: those of scans are mostly empty, as are
        the first planes of stacks.
        """
        return _sample(self.pixels, self.shape)

    @property
    def visible(self) -> Window:
        """The part of the plane that the canvas shows."""
        corners = np.asarray(self.layer.corner_pixels, float)[:, : len(self.shape)]
        if self.layer.multiscale:
            factors = self.layer.downsample_factors[self.layer.data_level]
            corners = corners * np.asarray(factors)[: len(self.shape)]
        (top, left), (bottom, right) = corners[:, -2:].astype(int).tolist()
        return Window(top, left, bottom - top + 1, right - left + 1)

    @property
    def fits(self) -> bool:
        """True while the layer's pixels have the shape of what was annotated."""
        return self._present_shape() == self.shape

    def _present_shape(self) -> tuple[int, ...]:
        shape = tuple(int(n) for n in self.pixels.shape)
        return shape[:-1] if self.layer.rgb else shape

    def shown_plane(self, dims: napari.components.Dims) -> PlaneKey | None:
        """Return the plane that the viewer shows; None if it shows none of this image."""
        if self.why_not(dims):
            return None
        position = np.asarray(self.layer.world_to_data(dims.point), dtype=float)
        index = tuple(int(i) for i in np.round(position[:-2]))
        inside = all(0 <= i < n for i, n in zip(index, self.shape, strict=False))
        return PlaneKey(self.image, index) if inside else None

    def why_not(self, dims: napari.components.Dims) -> str:
        """Return why prompts cannot be given in the present view, empty if they can."""
        if not self.layer.visible:
            return f"{self.layer.name} is hidden: click its eye in the layer list to go on"
        if not self.fits:
            now, then = map(sizes, (self._present_shape(), self.shape))
            return (
                f"{self.layer.name} was {then} pixels when it was annotated and is {now} now: "
                "put the old pixels back, or add the new ones as another layer"
            )
        if dims.ndisplay != 2:
            return "Prompts are given in 2D: switch the 3D view off (Ctrl-Y)"
        if tuple(dims.displayed) != (dims.ndim - 2, dims.ndim - 1):
            return "Prompts are given in planes of the last two axes: undo the axis rolling"
        return ""

    def position(self, plane: PlaneKey, world: Sequence[float]) -> tuple[float, float]:
        """Return row and column (pixel centres) in `plane` of a position in the world."""
        at = np.asarray(self.layer.world_to_data(world), dtype=float)
        return float(at[-2]), float(at[-1])

    def contains(self, row: float, col: float) -> bool:
        """Return whether a pixel-centre position lies in a plane of the image."""
        height, width = self.shape[-2:]
        return -0.5 <= row <= height - 0.5 and -0.5 <= col <= width - 0.5

    def to_world(self, plane: PlaneKey, row: float, col: float) -> tuple[float, ...]:
        """Return where a position in a plane lies in the world."""
        return tuple(float(x) for x in self.layer.data_to_world((*plane.index, row, col)))

    def plane_affine(self, plane: PlaneKey) -> npt.NDArray[np.float64]:
        """Return ``(3, 3)``: what maps rows and columns of a plane to the last two axes."""
        origin, down, right = (
            np.asarray(self.to_world(plane, *at))[-2:] for at in ((0, 0), (1, 0), (0, 1))
        )
        matrix = np.eye(3)
        matrix[:2, 0], matrix[:2, 1], matrix[:2, 2] = down - origin, right - origin, origin
        return matrix


def layer_options(metadata: ImageMetadata) -> dict[str, Any]:
    """Return the options of `napari.Viewer.add_image` that show what is known of an image."""
    options: dict[str, Any] = {"metadata": {METADATA: metadata}}
    if metadata.axes:
        options["scale"] = metadata.scale
        options["units"] = [axis.unit or "pixel" for axis in metadata.axes]
        if all(axis.name for axis in metadata.axes):
            options["axis_labels"] = [axis.name for axis in metadata.axes]
    return options


def file_layer(path: Path, file: ImageFile) -> Image:
    """Return a layer of an image with what its file says of it; of a large one all resolutions."""
    shown = layer_options(file.metadata)
    shown["metadata"] |= {PATH: str(path.absolute())}
    is_pyramid = bool(file.levels) and isinstance(file.pixels, LazyImage)
    return Image(
        [file.pixels, *file.levels] if is_pyramid else file.pixels,
        multiscale=is_pyramid,
        name=image_name(path),
        rgb=file.rgb,
        **shown,
    )


def is_same_image(view: ImageView, image: DocumentImage) -> bool:
    """Say whether a layer shows the pixels of an image, as far as samples tell."""
    same_shape = view.shape == image.shape and view.pixels.shape == image.pixels.shape
    return same_shape and np.array_equal(view.sample(), _sample(image.pixels, image.shape))


def _sample(pixels: Any, shape: tuple[int, ...]) -> PixelArray:
    plane = plane_of(pixels, tuple(n // 2 for n in shape[:-2]))
    rows, cols = (_spread(n) for n in shape[-2:])
    return np.stack([np.asarray(plane[row, col]) for row, col in product(rows, cols)])


def _spread(length: int) -> list[slice]:
    """Return the parts of an axis that are looked at, from its begin to its end."""
    count = min(_SQUARES, -(-length // _SIDE))
    last = max(0, length - _SIDE)
    starts = [last * i // max(1, count - 1) for i in range(count)]
    return [slice(start, start + _SIDE) for start in starts]
