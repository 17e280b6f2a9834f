"""An image with its label array and the records of its objects."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_peftsam.annotation._regions import Region, Runs, find_runs, union
from napari_peftsam.annotation.records import ObjectRecord, PlaneKey
from napari_peftsam.errors import ImageError, LabelError
from napari_peftsam.planes import plane_of
from napari_peftsam.types import BoolArray, LabelArray, Plane

__all__ = ["AnnotatedImage", "Indices", "annotated_image", "spatial"]

Indices = npt.NDArray[np.integer[Any]]
"""Flat (C order) positions of pixels in a label array."""


@dataclass(eq=False)
class AnnotatedImage:
    """One image of a session; read it, but change it through the session only.

    Attributes
    ----------
    name
        Its name in the session.
    pixels
        ``(..., H, W)`` or, if `rgb`, ``(..., H, W, 3|4)``; any array that can be sliced,
        which may lie on disk.
    rgb
        Whether the last axis holds colours.
    labels
        ``(..., H, W)`` integers, possibly shared with the caller; 0 is unlabelled.
    records
        One record per label present in `labels`.
    next_label
        The label that the next accepted object gets.
    """

    name: str
    pixels: Any
    rgb: bool
    labels: LabelArray
    records: dict[int, ObjectRecord] = field(default_factory=dict)
    next_label: int = 1
    _regions: dict[int, Region] = field(default_factory=dict)  # may be too large, never too small

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape ``(..., H, W)``."""
        return self.labels.shape

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Height and width of every plane in pixels."""
        return self.labels.shape[-2], self.labels.shape[-1]

    def check_plane(self, plane: PlaneKey) -> None:
        """Raise `ImageError` unless `plane.index` addresses one plane of this image."""
        leading = self.shape[:-2]
        fits = len(plane.index) == len(leading) and all(
            0 <= i < n for i, n in zip(plane.index, leading, strict=True)
        )
        if not fits:
            raise ImageError(
                f"{plane.index} is no plane of the image {self.name!r}: give {len(leading)} "
                f"indices below {leading} for its shape {self.shape}"
            )

    def plane_pixels(self, plane: PlaneKey) -> Plane:
        """Return ``(H, W)`` or ``(H, W, 3|4)``: a view, of which nothing is read yet."""
        self.check_plane(plane)
        return plane_of(self.pixels, plane.index)

    def plane_labels(self, plane: PlaneKey) -> LabelArray:
        """Return ``(H, W)``, a view."""
        self.check_plane(plane)
        view: LabelArray = self.labels[plane.index]
        return view

    def take(self, where: Indices) -> LabelArray:
        """Return the labels ``(N,)`` at flat positions."""
        return np.take(self.labels, where)

    def flat(self, coordinates: tuple[Indices, ...]) -> Indices:
        """Return flat positions, in 32 bits where these suffice."""
        return self.compact(np.ravel_multi_index(coordinates, self.shape))

    def compact(self, where: Indices) -> Indices:
        """Return flat positions in 32 bits where these suffice, for the history."""
        return where.astype(np.int32 if self.labels.size < 2**31 else np.int64, copy=False)

    def region(self, label: int) -> Region:
        """Return a region that holds all pixels of `label` (an empty one if it has none)."""
        return self._regions.get(label, tuple(slice(0, 0) for _ in self.shape))

    def where(self, label: int) -> Indices:
        """Return the flat positions of an object's pixels, searched in its region only."""
        region = self.region(label)
        inside = np.nonzero(self.labels[region] == label)
        shifted = tuple(c + s.start for c, s in zip(inside, region, strict=True))
        return self.flat(shifted)

    def area(self, label: int) -> int:
        """Return the number of pixels of an object, 0 if there is none."""
        return int(np.count_nonzero(self.labels[self.region(label)] == label))

    def mask(self, label: int, plane: PlaneKey) -> BoolArray:
        """Return ``(H, W)``: the pixels of an object in one plane."""
        result = np.zeros(self.plane_shape, np.bool_)
        rows = self.region(label)[-2:]
        result[rows] = self.plane_labels(plane)[rows] == label
        return result

    def plane_of(self, label: int) -> PlaneKey:
        """Return the first plane in which `label` has pixels."""
        leading = self.shape[:-2]
        if not leading:
            return PlaneKey(self.name)
        first = np.unravel_index(self.where(label)[0], self.shape)
        return PlaneKey(self.name, tuple(int(i) for i in first[: len(leading)]))

    def put(self, where: Indices, values: int | LabelArray) -> Region:
        """Write labels at N >= 1 flat positions and return the region they lie in."""
        if self.labels.flags.c_contiguous:
            self.labels.reshape(-1)[where] = values
        else:
            self.labels[np.unravel_index(where, self.shape)] = values
        runs = find_runs(where, values, self.shape)
        self._grow(runs)
        return runs.region()

    def _grow(self, runs: Runs) -> None:
        for label, region in runs.regions().items():
            known = self._regions.get(label)
            self._regions[label] = region if known is None else union(known, region)

    def find_objects(self) -> tuple[int, ...]:
        """Search the whole label array once and return the labels in it."""
        inside = self.compact(np.flatnonzero(self.labels))
        self._grow(find_runs(inside, self.take(inside), self.shape))
        return tuple(self._regions)

    def put_record(self, label: int, record: ObjectRecord | None) -> None:
        """Set the record of an object, or forget an object without pixels."""
        if record is None:
            self.records.pop(label, None)
            self._regions.pop(label, None)
        else:
            self.records[label] = record

    def check_label_range(self, highest: int) -> None:
        """Raise `LabelError` if the label array cannot hold the label `highest`."""
        limit = int(np.iinfo(self.labels.dtype).max)
        if highest > limit:
            raise LabelError(
                f"the labels of {self.name!r} are {self.labels.dtype} and cannot hold label "
                f"{highest}, the limit is {limit}: convert the label array to int32"
            )


def annotated_image(
    name: str, pixels: Any, rgb: bool | None, labels: LabelArray | None
) -> AnnotatedImage:
    """Check `pixels` and `labels` and put them together; the labels are not copied."""
    if rgb is None:
        given = np.shape(pixels)
        same = getattr(labels, "shape", None) == given
        rgb = not same and len(given) >= 3 and given[-1] in (3, 4)
    array, shape = spatial(name, pixels, rgb)
    if labels is None:
        return AnnotatedImage(name, array, rgb, _empty_labels(name, shape))
    check_labels(name, labels, shape)
    if not labels.flags.writeable:
        raise LabelError(f"the labels of {name!r} are read-only: pass a writable copy")
    return AnnotatedImage(name, array, rgb, labels)


def _empty_labels(name: str, shape: tuple[int, ...]) -> LabelArray:
    try:
        return np.zeros(shape, np.int32)  # takes memory where objects are written, not before
    except (MemoryError, ValueError) as error:
        size = 4 * math.prod(shape) / 1e9
        raise ImageError(
            f"the labels of {name!r} would take {size:.0f} GB of memory, its shape is {shape}: "
            "annotate a part of it, or segment it from a file of prompts (napari-peftsam segment)"
        ) from error


def spatial(name: str, pixels: Any, rgb: bool) -> tuple[Any, tuple[int, ...]]:
    """Return the pixels as something with a shape, and their spatial shape ``(..., H, W)``."""
    array = pixels if hasattr(pixels, "shape") else np.asarray(pixels)
    shape = tuple(int(n) for n in (array.shape[:-1] if rgb else array.shape))
    if len(shape) < 2 or 0 in shape:
        raise ImageError(
            f"the image {name!r} has shape {tuple(array.shape)} (rgb={rgb}), which holds no "
            "planes of height x width: give an array of at least two non-empty spatial axes"
        )
    return array, shape


def check_labels(name: str, labels: LabelArray, shape: tuple[int, ...]) -> None:
    """Raise `LabelError` unless `labels` are non-negative integers of this shape."""
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        kind = getattr(labels, "dtype", type(labels).__name__)
        raise LabelError(f"the labels of {name!r} are {kind}: pass a numpy array of integers")
    if labels.shape != shape:
        raise LabelError(
            f"the labels of {name!r} have shape {labels.shape}, its spatial shape is {shape}: "
            "pass labels of the same height and width (and leading axes)"
        )
    if np.issubdtype(labels.dtype, np.signedinteger) and labels.min() < 0:
        raise LabelError(
            f"the labels of {name!r} go down to {labels.min()}: labels start at 0 (unlabelled)"
        )
