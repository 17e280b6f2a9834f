"""Annotated planes and tiles, and their objects: training and held out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from napari_peftsam.embeddings import Tile, TiledImage, is_large, tiled_image
from napari_peftsam.errors import LabelError, TrainingError
from napari_peftsam.models import SamModel
from napari_peftsam.normalisation import Limits
from napari_peftsam.types import LabelArray, PixelArray, Prompts, Window

__all__ = [
    "AnnotatedPlane",
    "AnnotatedTile",
    "Split",
    "TrainedObjects",
    "TrainingObject",
    "cut_into_tiles",
    "objects_of",
    "split_objects",
    "tiles_with_objects",
]

MIN_AREA = 9
"""Objects of fewer pixels are neither trained nor validated: mere specks of the brush."""
_MIN_OBJECTS = 3


@dataclass(frozen=True, eq=False)
class AnnotatedPlane:
    """One image plane with its accepted objects.

    Attributes
    ----------
    name
        Unique among the planes of a run.
    image
        What it is a plane of: planes of one stack are never split between training and
        validation.
    pixels
        ``(H, W)`` or ``(H, W, 3)``.
    labels
        ``(H, W)`` integer; 0 is unlabelled, which does not mean background.
    prompts
        The user's own prompts by label, where there were any.
    limits
        Those of the whole image where the plane is a tile of a large one, by which it is
        normalised in use as well.
    """

    name: str
    image: str
    pixels: PixelArray
    labels: LabelArray
    prompts: Mapping[int, Prompts] = field(default_factory=dict)
    limits: Limits | None = None

    def __post_init__(self) -> None:
        if self.labels.dtype.kind not in "iu":
            raise LabelError(f"labels of {self.name!r} must be integers, got {self.labels.dtype}")
        if self.labels.shape != self.pixels.shape[:2]:
            raise LabelError(
                f"image {self.name!r} has {self.pixels.shape[:2]} pixels but its labels have "
                f"{self.labels.shape}: they must match"
            )


@dataclass(frozen=True)
class TrainingObject:
    """An object by its plane's index and label; `bbox` is half-open (row0, col0, row1, col1)."""

    plane: int
    label: int
    bbox: tuple[int, int, int, int]


@dataclass(frozen=True)
class Split:
    """Objects to train on and objects held out; `by` says how they were set apart."""

    training: tuple[TrainingObject, ...]
    held_out: tuple[TrainingObject, ...]
    by: str


TrainedObjects = Mapping[str, Collection[int]]
"""Labels by the name of their plane."""


def split_objects(
    planes: Sequence[AnnotatedPlane],
    share: float,
    seed: int,
    trained: TrainedObjects = MappingProxyType({}),
) -> Split:
    """Set a share of the objects apart: whole images if there are several, else a region.

    The region is one end of the single image, along the axis in which the objects
    spread further, so that held-out objects are not interleaved with trained ones.

    Parameters
    ----------
    planes
        What there is to learn from.
    share
        Of the images, or of the objects of a single one; at least one is set apart.
    seed
        Chooses the images.
    trained
        Objects that the adapter to go on from was trained on. They are not held out as
        long as there are others, since they would flatter it.

    Raises
    ------
    TrainingError
        If there are fewer than three objects.
    """
    objects = [o for index, plane in enumerate(planes) for o in objects_of(index, plane)]
    if len(objects) < _MIN_OBJECTS:
        raise TrainingError(
            f"finetuning needs at least {_MIN_OBJECTS} accepted objects, found {len(objects)}: "
            "accept more objects first"
        )
    if len({planes[o.plane].image for o in objects}) > 1:
        return _split_by_image(planes, objects, share, seed, trained)
    is_new = [o.label not in trained.get(planes[o.plane].name, ()) for o in objects]
    return _split_by_region(objects, share, is_new)


def objects_of(index: int, plane: AnnotatedPlane) -> list[TrainingObject]:
    """Return the objects of a plane, without mere specks."""
    numbers = np.union1d([0], plane.labels)  # 0 first, even where no pixel is unlabelled
    dense = np.searchsorted(numbers, plane.labels)  # labels may be huge and sparse
    areas = np.bincount(dense.ravel(), minlength=numbers.size)
    found = []
    for position, slices in enumerate(ndimage.find_objects(dense), start=1):
        label = int(numbers[position]) if position < numbers.size else 0
        if slices is None or label <= 0 or areas[position] < MIN_AREA:
            continue
        rows, cols = slices
        found.append(TrainingObject(index, label, (rows.start, cols.start, rows.stop, cols.stop)))
    return found


def _split_by_image(
    planes: Sequence[AnnotatedPlane],
    objects: list[TrainingObject],
    share: float,
    seed: int,
    trained: TrainedObjects,
) -> Split:
    images = sorted({planes[o.plane].image for o in objects})
    known = {plane.image for plane in planes if trained.get(plane.name)}
    shuffled = np.random.default_rng(seed).permutation(np.asarray(images, object)).tolist()
    count = min(max(1, round(share * len(images))), len(images) - 1)
    held = set([image for image in shuffled if image not in known][:count] or shuffled[:count])
    training = tuple(o for o in objects if planes[o.plane].image not in held)
    held_out = tuple(o for o in objects if planes[o.plane].image in held)
    return Split(training, held_out, "image")


def _split_by_region(objects: list[TrainingObject], share: float, is_new: list[bool]) -> Split:
    # Planes of one stack count as a further axis: its end is held out before a part of a plane.
    centres = np.array(
        [(o.plane * 1e6, (o.bbox[0] + o.bbox[2]) / 2, (o.bbox[1] + o.bbox[3]) / 2) for o in objects]
    )
    axis = int(np.ptp(centres, axis=0).argmax())
    order = np.argsort(centres[:, axis], kind="stable")
    count = min(max(1, round(share * len(objects))), len(objects) - 1)
    held = [i for i in order[::-1] if is_new[i]][:count] or order[::-1][:count].tolist()
    apart = set(held)
    training = tuple(objects[i] for i in order if i not in apart)
    return Split(training, tuple(objects[i] for i in reversed(held)), "region")


# --- large planes -------------------------------------------------------------------


def cut_into_tiles(planes: Sequence[AnnotatedPlane], model: SamModel) -> tuple[AnnotatedPlane, ...]:
    """Return planes of which large ones were replaced by their tiles with objects; reads them.

    See `napari_peftsam.embeddings.is_large` for what is large, and `tiles_with_objects`.
    """
    return tuple(part for plane in planes for part in _parts(plane, model))


def _parts(plane: AnnotatedPlane, model: SamModel) -> Iterator[AnnotatedPlane]:
    if not is_large(plane.pixels.shape, model):
        yield plane
        return
    image = tiled_image(plane.name, plane.pixels, model)
    places = {
        o.label: Window.from_slices(slice(o.bbox[0], o.bbox[2]), slice(o.bbox[1], o.bbox[3]))
        for o in objects_of(0, plane)
    }
    for tile in tiles_with_objects(image, plane.labels, places, plane.prompts):
        yield tile.read(plane.name, plane.image)


@dataclass(frozen=True, eq=False)
class AnnotatedTile:
    """A tile of a large plane and its objects as they were when it was cut.

    Attributes
    ----------
    source
        The plane; its pixels are not read yet.
    tile
        Which part of it.
    place
        The part of the plane in which the tile's own objects lie.
    labels
        ``(H, W)`` integer: the labels there; a copy.
    prompts
        By label, the prompts of the objects that belong to this tile, in its pixels.
    """

    source: TiledImage
    tile: Tile
    place: Window
    labels: LabelArray
    prompts: Mapping[int, Prompts]

    def read(self, name: str, image: str) -> AnnotatedPlane:
        """Return it as a plane of its own, whose plane is called `name`; slow.

        Raises
        ------
        ImageError
            If its pixels cannot be read.
        """
        kept = np.zeros(self.tile.window.shape, self.labels.dtype)
        inside = self.place.seen_from(self.tile.window)
        kept[inside.slices] = np.where(np.isin(self.labels, [*self.prompts]), self.labels, 0)
        return AnnotatedPlane(
            f"{name} [{self.tile.row}, {self.tile.col}]", image, self.source.read(self.tile), kept,
            {label: one for label, one in self.prompts.items() if one}, self.source.limits,
        )  # fmt: skip


def tiles_with_objects(
    image: TiledImage,
    labels: LabelArray,
    places: Mapping[int, Window],
    prompts: Mapping[int, Prompts],
) -> Iterator[AnnotatedTile]:
    """Yield the tiles of a large plane that hold the middle of an object.

    Each object is in one tile only, lest it be trained on in one and held out in another;
    in that tile's halo the others count as unlabelled. What reaches beyond the tile is cut.

    Parameters
    ----------
    image
        The plane.
    labels
        ``(H, W)`` integers; sliced, so they may lie on disk.
    places
        Where each object lies: a window that holds it.
    prompts
        The user's own prompts by label.
    """
    owners: dict[Tile, list[int]] = {}
    for label, place in places.items():
        middle = (place.row + place.stop[0]) / 2, (place.col + place.stop[1]) / 2
        owners.setdefault(image.grid.tile_at(*middle), []).append(label)
    for tile, own in sorted(owners.items(), key=lambda item: (item[0].row, item[0].col)):
        place = reduce(or_, (places[label] for label in own)) & tile.window & image.grid.window
        given = {n: prompts.get(n, Prompts()).within(tile.window) for n in own}
        yield AnnotatedTile(image, tile, place, np.array(labels[place.slices]), given)
