"""Export formats, and the context of the labels that they store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["AXES", "ExportContext", "ExportFormat", "Record", "smallest_unsigned"]

Record = Mapping[str, Any]
AXES = "tzyx"
"""Names of the axes of labels; fewer axes drop the first names."""


@dataclass(frozen=True, eq=False)
class ExportContext:
    """Image name, pixels and records of labels; a format stores the ones it can.

    Attributes
    ----------
    name
        Name of the labels; in COCO also the category of the objects.
    image_name
        File name of the image they were drawn on.
    pixels
        That image, ``(..., H, W)`` or ``(..., H, W, 3)``, to be stored along with them.
    records
        The provenance of objects: JSON types only, `label` says which object it is.
        Records of objects that the labels do not hold are left out.
    scale
        Size of a pixel along each axis of the labels, in one unit; 1 if not given.
    """

    name: str = "objects"
    image_name: str = "image"
    pixels: PixelArray | None = None
    records: Sequence[Record] = ()
    scale: Sequence[float] | None = None


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
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    write: Callable[[Path, LabelArray, ExportContext], None]


def smallest_unsigned(labels: LabelArray) -> LabelArray:
    """Return `labels`, none negative, in the smallest unsigned type that holds them."""
    # By name: numpy has two 64-bit types, and zarr knows only one of them.
    return labels.astype(np.min_scalar_type(int(labels.max())).name)
