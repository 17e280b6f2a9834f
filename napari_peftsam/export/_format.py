"""Export formats, and the context of the labels that they store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.metadata import ImageMetadata
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["AXES", "ExportContext", "ExportFormat", "Labelled", "Record", "smallest_unsigned"]

Record = Mapping[str, Any]
AXES = "tzyx"
"""Names of the axes of labels; fewer axes drop the first names."""


@dataclass(frozen=True, eq=False)
class ExportContext:
    """Image name, pixels and records of labels; a format stores the ones it can.

    Attributes
    ----------
    name
        Name of the labels; also the class of objects that have none.
    image_name
        File name of the image they were drawn on.
    pixels
        That image, ``(..., H, W)`` or ``(..., H, W, 3)``, to be stored along with them.
    records
        The provenance of objects: JSON types only, `label` says which object it is.
        Records of objects that the labels do not hold are left out.
    classes
        All classes of the project, which are numbered in this order in each of its files.
    complete
        Parts of the image in which all objects are annotated, as JSON types: the plane (`index`,
        None for all), and a `box` or an `outline`, neither for the whole plane.
    background
        ``(..., H, W)``: 1 where no object is known to be; None if that is not known of any.
    scale
        Size of a pixel along each axis of the labels; 1 if not given.
    units
        Unit of each size, as `napari_peftsam.metadata.plain_unit` returns it.
    axes
        One letter per axis of the labels, like ``"zyx"``; by default the last of ``"tzyx"``.
    """

    name: str = "objects"
    image_name: str = "image"
    pixels: PixelArray | None = None
    records: Sequence[Record] = ()
    classes: Sequence[str] = ()
    complete: Sequence[Record] = ()
    background: LabelArray | None = None
    scale: Sequence[float] | None = None
    units: Sequence[str] = ()
    axes: str = ""

    @classmethod
    def of(cls, metadata: ImageMetadata, **given: Any) -> ExportContext:
        """Return a context with the pixel sizes of an image, as far as they are known."""
        if not metadata.axes:
            return cls(**given)
        return cls(scale=metadata.scale, units=metadata.units, axes=metadata.names, **given)

    @property
    def categories(self) -> dict[int, str]:
        """The classes of objects by label; objects without one are not in it."""
        return {r["label"]: str(r["category"]) for r in self.records if r.get("category")}

    def calibration(self, ndim: int) -> ImageMetadata:
        """Return names, sizes and units of the axes of labels of `ndim` axes.

        Names are unique: what the image does not name is called by its position.
        """
        names = self.axes if len(self.axes) == ndim else ""
        if not set(names) <= set(AXES) or len(set(names)) < ndim:
            names = AXES[-ndim:]
        return ImageMetadata.of(self.scale or (1.0,) * ndim, self.units, names)


Labelled = tuple[LabelArray, ExportContext]
"""Labels of an image with their context."""


@dataclass(frozen=True)
class ExportFormat:
    """An export format for labels.

    Attributes
    ----------
    name
        Key in `FORMATS`.
    title
        For menus and messages.
    suffixes
        The first one is appended to names without a suffix.
    write
        Writes checked labels ``(..., H, W)`` to a path that does not exist yet.
    write_all
        Writes the labels of several images into one data set; None where each image has a
        file of its own.
    per_plane
        True for formats that hold one plane.
    holds
        What it holds beside the labels or outlines, for the documentation.
    library
        The packages that write it.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    write: Callable[[Path, LabelArray, ExportContext], None]
    write_all: Callable[[Path, Iterable[Labelled]], None] | None = None
    per_plane: bool = False
    holds: str = ""
    library: str = ""


def smallest_unsigned(labels: LabelArray) -> LabelArray:
    """Return `labels`, none negative, in the smallest unsigned type that holds them."""
    # By name: numpy has two 64-bit types, and zarr knows only one of them.
    return labels.astype(np.min_scalar_type(int(labels.max())).name)
