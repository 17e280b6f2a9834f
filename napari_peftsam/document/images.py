"""An image of a document: its pixels, labels, objects and background."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from functools import reduce
from typing import Any
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from napari_peftsam import geometry
from napari_peftsam.document.objects import ImageId, ObjectRecord, PlaneKey
from napari_peftsam.document.proposals import ProposalRecord
from napari_peftsam.document.records import (
    BACKGROUND,
    OBJECTS,
    PROPOSALS,
    ImageInfo,
    Index,
    label_set_of,
)
from napari_peftsam.document.regions import (
    Integers,
    LabelIndex,
    Region,
    Snapshot,
    regions_of,
    union,
)
from napari_peftsam.document.store import Store
from napari_peftsam.document.tables import put_tile
from napari_peftsam.errors import ImageError, LabelError
from napari_peftsam.planes import plane_of
from napari_peftsam.types import BoolArray, Box, LabelArray, Plane, Window

__all__ = ["DocumentImage"]


class DocumentImage:
    """One image of a document; read it, but change it through actions only.

    Labels and records are read from the project when they are first asked for.

    Parameters
    ----------
    image
        Its id.
    info
        Name, shape and other stored properties.
    pixels
        ``(..., H, W)`` or, if `ImageInfo.rgb`, ``(..., H, W, 3|4)``; any array that can be
        sliced, perhaps on disk. None while its file is not there.
    labels
        ``(..., H, W)`` integers, possibly shared with the caller; 0 is unlabelled. None: what
        `store` holds.
    store
        Holds labels and records; None for an image without any.
    """

    def __init__(
        self,
        image: ImageId,
        info: ImageInfo,
        pixels: Any = None,
        labels: LabelArray | None = None,
        store: Store | None = None,
    ) -> None:
        self.id = image
        self.info = info
        self.pixels = pixels
        self._labels = labels
        self._others: dict[str, npt.NDArray[Any]] = {}  # further label sets
        self._index, self._places = LabelIndex(info.shape), LabelIndex(info.shape)
        self._records: dict[int, ObjectRecord] | None = None if store else {}
        self._proposals: dict[int, ProposalRecord] | None = None if store else {}
        self.store = store
        self._reading = threading.RLock()  # whoever comes second gets the same array
        self._snapshots: WeakSet[Snapshot] = WeakSet()

    @property
    def labels(self) -> LabelArray:
        """The objects without a class, ``(..., H, W)``."""
        if self._labels is None:
            with self._reading:
                if self._labels is None:
                    self._labels = self._read_labels()
        return self._labels

    def _read_labels(self) -> LabelArray:
        # Kept once all of it is read: nothing may be written over what could not be read.
        labels = empty_labels(self.name, self.shape, self.info.label_type)
        arrays: dict[str, npt.NDArray[Any]] = {OBJECTS: labels}
        for key, data in () if self.store is None else self.store.tiles(self.id):
            if key.label_set not in arrays:
                arrays[key.label_set] = self._empty(key.label_set)
            put_tile(arrays[key.label_set], key, data)
        self._index, self._places = LabelIndex(self.shape), LabelIndex(self.shape)
        for label_set, array in arrays.items():
            inside = np.flatnonzero(() if label_set == BACKGROUND else array)
            if len(inside):
                self._index_of(label_set).update(inside, 0, np.take(array, inside))
        del arrays[OBJECTS]
        self._others = arrays
        return labels

    def _empty(self, label_set: str) -> npt.NDArray[Any]:
        kinds = {BACKGROUND: "uint8", PROPOSALS: "int32"}
        return empty_labels(self.name, self.shape, kinds.get(label_set, self.info.label_type))

    def _index_of(self, label_set: str) -> LabelIndex:
        return self._places if label_set == PROPOSALS else self._index

    @property
    def background(self) -> npt.NDArray[Any] | None:
        """``(..., H, W)`` uint8: 1 where strokes declare background; None without strokes."""
        self.read()
        return self._others.get(BACKGROUND)

    @property
    def label_sets(self) -> tuple[str, ...]:
        """The label sets with objects: of those without a class, then one for each class.

        Objects of one set do not overlap, those of different sets may.
        """
        found = {record.label_set for record in self.records.values()}
        return (OBJECTS, *sorted(found - {OBJECTS}))

    @property
    def places(self) -> tuple[tuple[Index, str], ...]:
        """The planes and label sets in which objects have pixels."""
        records = self.records.values()
        return tuple(sorted({(p.index, r.label_set) for r in records for p in r.planes}))

    def set_of(self, label: int) -> str:
        """Return the label set that holds an object."""
        record = self.records.get(label)
        return OBJECTS if record is None else record.label_set

    def read(self) -> None:
        """Read labels and records, unless that was done."""
        _ = self.labels, self.records, self.proposals

    @property
    def index(self) -> LabelIndex:
        """Regions and pixel counts of the labels of all sets: no two have a label in common."""
        self.read()
        return self._index

    @property
    def records(self) -> dict[int, ObjectRecord]:
        """One record per label that has pixels."""
        if self._records is None:
            assert self.store is not None
            with self._reading:
                if self._records is None:
                    self._records = self.store.objects(self.id)
        return self._records

    @property
    def proposals(self) -> dict[int, ProposalRecord]:
        """The proposals by number, and those that were judged."""
        if self._proposals is None:
            assert self.store is not None
            with self._reading:
                if self._proposals is None:
                    self._proposals = self.store.proposals(self.id)
        return self._proposals

    def open_proposals(self, plane: PlaneKey) -> dict[int, ProposalRecord]:
        """Return the proposals of a plane that nobody has judged yet."""
        found = self.proposals.items()
        return {n: each for n, each in found if each.is_open and each.index == plane.index}

    def check_proposals(self, plane: PlaneKey, numbers: tuple[int, ...]) -> tuple[int, ...]:
        """Return numbers once each; `LabelError` unless all are open proposals of a plane."""
        known = self.open_proposals(plane)
        missing = [number for number in numbers if number not in known]
        if missing:
            raise LabelError(
                f"{self.name} has no proposal {missing[0]} in this plane: choose one of the "
                f"{len(known)} that are shown"
            )
        return tuple(dict.fromkeys(numbers))

    def proposal_window(self, number: int) -> Window:
        """Return a window that holds an open proposal."""
        self.read()
        return Window.from_slices(*self._places.region(number)[-2:])

    def proposal_area(self, number: int) -> int:
        """Return the number of pixels of an open proposal."""
        self.read()
        return self._places.area(number)

    def proposal_mask(self, number: int) -> tuple[BoolArray, tuple[int, int]]:
        """Return the pixels ``(h, w)`` of an open proposal, and row and column of the first."""
        window = self.proposal_window(number)
        plane = PlaneKey(self.id, self.proposals[number].index)
        mask: BoolArray = self.plane_labels(plane, PROPOSALS)[window.slices] == number
        return mask, (window.row, window.col)

    @property
    def name(self) -> str:
        """Its name, a label for people."""
        return self.info.name

    @property
    def rgb(self) -> bool:
        """True if the last axis of the pixels holds colours."""
        return self.info.rgb

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape ``(..., H, W)``."""
        return self.info.shape

    @property
    def next_label(self) -> int:
        """The label that the next object gets."""
        return self.info.next_label

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Height and width of every plane in pixels."""
        return self.shape[-2], self.shape[-1]

    @property
    def window(self) -> Window:
        """All of a plane."""
        return Window(0, 0, *self.plane_shape)

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

    def check_objects(self, labels: Mapping[int, Any] | tuple[int, ...]) -> None:
        """Raise `LabelError` unless all are labels of objects in this image."""
        missing = [label for label in labels if label not in self.records]
        if missing:
            known = sorted(self.records)
            shown = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
            raise LabelError(
                f"the image {self.name!r} has no object {missing[0]}: choose one of its "
                f"{len(known)} objects ({shown or 'none yet, accept one first'})"
            )

    def check_label_range(self, highest: int) -> None:
        """Raise `LabelError` if the label array cannot hold the label `highest`."""
        limit = int(np.iinfo(self.labels.dtype).max)
        if highest > limit:
            raise LabelError(
                f"the labels of {self.name!r} are {self.labels.dtype} and cannot hold label "
                f"{highest}, the limit is {limit}: convert the label array to int32"
            )

    def attach_pixels(self, pixels: Any, rgb: bool | None = None) -> None:
        """Give the image its pixels; an `ImageError` if they do not fit its objects.

        `rgb` says whether their last axis holds colours; None: as `ImageInfo.rgb`.
        """
        array, shape = spatial(self.name, pixels, self.rgb if rgb is None else rgb)
        if shape != self.shape:
            raise ImageError(
                f"the new pixels of {self.name!r} have the spatial shape {shape}, its objects "
                f"{self.shape}: give pixels of that shape, or add them as another image"
            )
        self.pixels = array

    def plane_pixels(self, plane: PlaneKey) -> Plane:
        """Return ``(H, W)`` or ``(H, W, 3|4)``: a view, of which nothing is read yet."""
        self.check_plane(plane)
        if self.pixels is None:
            raise ImageError(f"the file of the image {self.name!r} is not there: locate it first")
        return plane_of(self.pixels, plane.index)

    def plane_labels(self, plane: PlaneKey, label_set: str = OBJECTS) -> LabelArray:
        """Return ``(H, W)``, a view."""
        self.check_plane(plane)
        view: LabelArray = self.array(label_set)[plane.index]
        return view

    def mask(self, plane: PlaneKey, label: int, window: Window) -> BoolArray:
        """Return the pixels of an object in a window of a plane."""
        mask: BoolArray = self.plane_labels(plane, self.set_of(label))[window.slices] == label
        return mask

    def object_at(self, plane: PlaneKey, row: int, col: int, category: str = "") -> int:
        """Return the smallest object at a pixel, or that of a class; 0 where there is none."""
        self.read()
        others = (name for name in self._others if name not in (BACKGROUND, PROPOSALS))
        every = (OBJECTS, *others)
        sets = (label_set_of(category),) if category else every  # of which some may be empty
        found = {int(self.plane_labels(plane, each)[row, col]) for each in sets} - {0}
        return min(found, key=self.area, default=0)

    def first_position(self, plane: PlaneKey) -> int:
        """Return the flat position of a plane's first pixel in the label array."""
        return int(np.ravel_multi_index((*plane.index, 0, 0), self.shape))

    def positions(
        self, plane: PlaneKey, mask: BoolArray, offset: tuple[int, int] = (0, 0)
    ) -> Integers:
        """Return the flat positions, ascending, of a mask ``(h, w)`` that begins at `offset`."""
        inside, width = np.flatnonzero(mask), self.plane_shape[1]
        beside = width - mask.shape[1]
        if beside:  # a third of the time of a division of each position
            rows = np.count_nonzero(mask, axis=1)
            inside += np.repeat(np.arange(0, len(rows) * beside, beside), rows)
        return inside + (self.first_position(plane) + offset[0] * width + offset[1])

    def region(self, label: int) -> Region:
        """Return a region that holds all pixels of `label` (an empty one if it has none)."""
        return self.index.region(label)

    def where(self, label: int) -> Integers:
        """Return the flat positions of an object's pixels, searched in its region only."""
        region = self.region(label)
        inside = np.nonzero(self.array(self.set_of(label))[region] == label)
        shifted = tuple(c + s.start for c, s in zip(inside, region, strict=True))
        where: Integers = np.ravel_multi_index(shifted, self.shape)
        return where

    def box(self, plane: PlaneKey, label: int) -> Box | None:
        """Return the box around an object in one plane, None if it has no pixels there."""
        window = Window.from_slices(*self.region(label)[-2:])
        inside = Window.around(self.mask(plane, label, window))
        if not inside:
            return None
        row, col = window.row + inside.row, window.col + inside.col
        return Box(row, col, row + inside.height, col + inside.width)

    def area(self, label: int) -> int:
        """Return the number of pixels of an object, 0 if there is none."""
        return self.index.area(label)

    def array(self, label_set: str) -> npt.NDArray[Any]:
        """Return the array of a label set, made on first use."""
        if label_set == OBJECTS:
            return self.labels
        self.read()
        if label_set not in self._others:
            self._others[label_set] = self._empty(label_set)
        return self._others[label_set]

    def snapshot(self) -> Snapshot:
        """Return objects and background as they are now, to be read in any thread; no copies."""
        labels = {label_set: self.array(label_set) for label_set in self.label_sets}
        if self.background is not None:
            labels[BACKGROUND] = self.background
        taken = Snapshot(labels, self.index.regions())
        self._snapshots.add(taken)
        return taken

    def put(self, label_set: str, where: Integers, old: Any, new: Any) -> Region:
        """Write labels at N >= 1 flat positions and return the region they lie in."""
        array = self.array(label_set)
        for snapshot in self._snapshots:
            snapshot.note(label_set, where, old)
        if array.flags.c_contiguous:
            array.reshape(-1)[where] = new
        else:
            array[np.unravel_index(where, self.shape)] = new
        if label_set == BACKGROUND:
            return reduce(union, regions_of(where, new, self.shape).values())
        self.read()
        return self._index_of(label_set).update(where, old, new)


def describe_image(
    name: str, pixels: Any, rgb: bool | None, labels: LabelArray | None
) -> tuple[ImageInfo, Any]:
    """Check an image and its labels; return its stored properties and its pixels.

    Takes the arguments and raises the errors of `Document.add_image`.
    """
    if rgb is None:
        given = np.shape(pixels)
        same = getattr(labels, "shape", None) == given
        rgb = not same and len(given) >= 3 and given[-1] in (3, 4)
    array, shape = spatial(name, pixels, rgb)
    if labels is None:
        return ImageInfo(name, shape, rgb), array
    check_labels(name, labels, shape)
    if not labels.flags.writeable:
        raise LabelError(f"the labels of {name!r} are read-only: pass a writable copy")
    return ImageInfo(name, shape, rgb, str(labels.dtype)), array


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


def empty_labels(name: str, shape: tuple[int, ...], kind: str = "int32") -> LabelArray:
    """Return labels without objects; memory is used only where objects are written."""
    try:
        return np.zeros(shape, np.dtype(kind))
    except (MemoryError, ValueError) as error:
        size = 4 * math.prod(shape) / 1e9
        raise ImageError(
            f"the labels of {name!r} would take {size:.0f} GB of memory, its shape is {shape}: "
            "annotate a part of it, or segment it from a file of prompts (napari-peftsam segment)"
        ) from error


def check_labels(name: str, labels: LabelArray, shape: tuple[int, ...]) -> None:
    """Raise `LabelError` unless `labels` are non-negative integers of this shape."""
    if not isinstance(labels, np.ndarray) or labels.dtype == np.bool_:
        kind = getattr(labels, "dtype", type(labels).__name__)
        raise LabelError(f"the labels of {name!r} are {kind}: pass a numpy array of integers")
    geometry.check_labels(labels, name)
    if labels.shape != shape:
        raise LabelError(
            f"the labels of {name!r} have shape {labels.shape}, its spatial shape is {shape}: "
            "pass labels of the same height and width (and leading axes)"
        )
