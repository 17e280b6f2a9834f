"""Export formats, and the context of the labels that they store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.metadata import ImageMetadata
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["ExportContext", "ExportFormat"]

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
    label_sets
        Further labels of the same shape by class: those objects may overlap with the others, and
        have numbers of their own.
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
    label_sets: Mapping[str, LabelArray] = field(default_factory=dict)
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

    def every(self, labels: LabelArray) -> tuple[LabelArray, ...]:
        """Return the labels and those of all further label sets, also without objects."""
        return labels, *self.label_sets.values()

    def sets(self, labels: LabelArray) -> dict[str, LabelArray]:
        """Return label sets with objects by class, `labels` by an empty name; one at least."""
        found = {"": labels, **self.label_sets}
        return {name: each for name, each in found.items() if each.any()} or {"": labels}

    def apart(self, labels: LabelArray) -> list[tuple[LabelArray, ExportContext]]:
        """Return each of `sets` with a context of its own, under a name that no other has."""
        found, taken = [], set[str]()
        for category, each in self.sets(labels).items():
            own = plain_name(category or self.name)
            name = next(
                n for n in chain((own,), (f"{own}_{k}" for k in count(2))) if n not in taken
            )
            taken.add(name)
            present = set(np.unique(each).tolist())
            records = [record for record in self.records if record["label"] in present]
            found.append((each, replace(self, name=name, label_sets={}, records=records)))
        return found

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
    is_raster
        True for formats in which a pixel belongs to one object.
    per_plane
        True for formats that hold one plane.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    write: Callable[[Path, LabelArray, ExportContext], None]
    write_all: Callable[[Path, Iterable[Labelled]], None] | None = None
    is_raster: bool = False
    per_plane: bool = False


def do_overlap(sets: Iterable[LabelArray]) -> bool:
    """Say whether objects of different label sets share a pixel."""
    shared = np.zeros((), np.uint8)
    for each in sets:
        shared = shared + (each > 0)
    return bool((shared > 1).any())


def plain_name(name: str) -> str:
    """Return a name of letters, digits, - and _, which every file system takes."""
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "objects"


def smallest_unsigned(labels: LabelArray) -> LabelArray:
    """Return `labels`, none negative, in the smallest unsigned type that holds them."""
    # By name: numpy has two 64-bit types, and zarr knows only one of them.
    return labels.astype(np.min_scalar_type(int(labels.max())).name)
