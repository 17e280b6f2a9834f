"""Annotated planes and tiles, and their objects: training and held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from napari_peftsam.embeddings import Tile, TiledImage, tile_grid, tiled_image
from napari_peftsam.errors import LabelError, TrainingError
from napari_peftsam.geometry import check_labels
from napari_peftsam.models import SamModel
from napari_peftsam.normalisation import Limits
from napari_peftsam.peft import Adapter
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.types import BoolArray, LabelArray, PixelArray, Prompts, Window

__all__ = [
    "AnnotatedPlane",
    "Split",
    "TrainingObject",
    "check_images_given",
    "cut_into_tiles",
    "split_objects",
    "tiles_with_objects",
    "trained_objects",
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
        Name of its image, which is held out as a whole where there are several, or at one end.
    pixels
        ``(H, W)`` or ``(H, W, 3)``.
    labels
        ``(H, W)`` integer; 0 is unlabelled, which does not mean background.
    prompts
        The user's own prompts by label.
    limits
        Intensity range of the whole image if the plane is a tile, None otherwise.
    channels
        The channels of the file that the pixels show, as of `napari_peftsam.metadata.ReadOptions`;
        empty if the file has no others.
    background
        ``(H, W)``: where it is known that no object is; None if nowhere.
    others
        ``(H, W)``: where objects lie that another plane has, a tile or one of another class; None
        if nowhere.
    """

    name: str
    image: str
    pixels: PixelArray
    labels: LabelArray
    prompts: Mapping[int, Prompts] = field(default_factory=dict)
    limits: Limits | None = None
    channels: str = ""
    background: BoolArray | None = None
    others: BoolArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", check_labels(self.labels, self.name))
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
    """Objects to train on and objects held out, by ``"image"`` or ``"region"``."""

    training: tuple[TrainingObject, ...]
    held_out: tuple[TrainingObject, ...]
    by: str


TrainedObjects = Mapping[str, Collection[int]]
"""Labels by the name of their plane; none of one that was held out as a whole."""


def trained_objects(adapters: Iterable[Adapter]) -> dict[str, set[int]]:
    """Return the labels that any of the adapters was trained on, by the name of their plane.

    Planes that were held out as a whole have none.
    """
    found: dict[str, set[int]] = {}
    for adapter in adapters:
        listed = adapter.provenance.get("trained_on")
        for name, labels in listed.items() if isinstance(listed, Mapping) else ():
            found.setdefault(name, set()).update(labels)
        checked = adapter.provenance.get("checked_on")
        for name in checked if isinstance(checked, list) else ():
            found.setdefault(str(name), set())
    return found


def split_objects(
    planes: Sequence[AnnotatedPlane],
    share: float,
    seed: int,
    trained: TrainedObjects = MappingProxyType({}),
    check_on: Collection[str] = (),
) -> Split:
    """Hold out a share of the objects: whole images if there are several, else a region.

    The region is one end of the single image, along the axis in which the objects
    spread further, so that held-out objects are not interleaved with trained ones. It is an end of
    the one image that is new, if that has much more than the share: it is to be learned from,
    too. Where all images were trained on, it is the last of the objects that were not.

    Parameters
    ----------
    share
        Of the objects: in whole images, taken at random while they bring it closer, or of a single
        one; at least one is held out.
    seed
        Chooses the images.
    trained
        Objects that earlier adapters were trained on. They are held out only if there are no
        others, or few in known images, since their figures would be too good.
    check_on
        The images to hold out; empty: a share.

    Raises
    ------
    TrainingError
        If there are fewer than three objects, or images are chosen to be held out and none of
        them, or none of the others, has an object.
    """
    objects = [o for index, plane in enumerate(planes) for o in objects_of(index, plane)]
    if len(objects) < _MIN_OBJECTS:
        raise TrainingError(
            f"finetuning needs at least {_MIN_OBJECTS} annotated objects, found {len(objects)}: "
            "annotate more objects first"
        )
    if check_on:
        _check_chosen(sorted({planes[o.plane].image for o in objects}), check_on)
        held, by = [o for o in objects if planes[o.plane].image in check_on], "image"
    else:
        held, by = _draw(objects, planes, share, seed, trained)
    out = {*held}
    return Split(tuple(o for o in objects if o not in out), tuple(held), by)


def _draw(
    objects: Sequence[TrainingObject],
    planes: Sequence[AnnotatedPlane],
    share: float,
    seed: int,
    trained: TrainedObjects,
) -> tuple[list[TrainingObject], str]:
    """Return the objects to hold out, and whether they are whole images or a region."""
    count = max(1, round(share * len(objects)))
    counts = Counter(planes[o.plane].image for o in objects)
    shuffled = np.random.default_rng(seed).permutation(np.asarray(sorted(counts), object)).tolist()
    known = {plane.image for plane in planes if trained.get(plane.name)}
    new = [image for image in shuffled if image not in known]
    checked = {plane.image for plane in planes if plane.name in trained}
    untrained = [o for o in objects if o.label not in trained.get(planes[o.plane].name, ())]
    among: Sequence[TrainingObject] = ()
    if len(counts) == 1:
        among = untrained or objects
    elif len(new) == 1 and new[0] not in checked and counts[new[0]] > 1.5 * count:
        among = [o for o in objects if planes[o.plane].image == new[0]]
    elif not new and len(untrained) >= count:
        among = untrained
    if among:
        last = {*_from_the_end(among)[: min(count, len(objects) - 1)]}
        return [o for o in objects if o in last], "region"
    whole = _held_images(counts, new or shuffled, share)
    return [o for o in objects if planes[o.plane].image in whole], "image"


def _from_the_end(objects: Sequence[TrainingObject]) -> list[TrainingObject]:
    """Return objects, those first of the last plane and of the end of the axis of most spread."""
    places = np.array([(o.plane, o.bbox[0] + o.bbox[2], o.bbox[1] + o.bbox[3]) for o in objects])
    axis = 1 + int(np.ptp(places[:, 1:], axis=0).argmax())
    return [objects[i] for i in np.lexsort((places[:, axis], places[:, 0]))][::-1]


def check_images_given(names: Collection[str], config: TrainingConfig) -> None:
    """Raise `TrainingError` if an image to check on, or to leave out, has none of the names."""
    for chosen, use in ((config.check_on, "check on"), (config.leave_out, "leave out")):
        missing = sorted({*chosen} - {*names})
        if missing:
            known = ", ".join(map(repr, sorted(names)))
            raise TrainingError(f"there is no image {missing[0]!r} to {use}: choose one of {known}")


def _check_chosen(images: Sequence[str], check_on: Collection[str]) -> None:
    """Raise `TrainingError` unless chosen images have objects, and so have others."""
    missing = sorted({*check_on} - {*images})
    if missing:
        known = ", ".join(map(repr, images))
        raise TrainingError(
            f"the image {missing[0]!r} to check on has no object: choose one of {known}"
        )
    if {*images} <= {*check_on}:
        raise TrainingError("all images are to be checked on: leave one to learn from")


def _held_images(counts: Mapping[str, int], among: Sequence[str], share: float) -> set[str]:
    """Return images, in their order, while they bring the held-out objects closer to a share.

    The share is of the objects of all that there are to choose from. If all are too large, the
    smallest one; of several never all. `counts` are the objects of each image.
    """
    left, chosen = share * sum(counts[image] for image in among), set[str]()
    for image in among:
        if abs(left - counts[image]) < abs(left) and len(chosen) < len(among) - 1:
            chosen.add(image)
            left -= counts[image]
    return chosen or {min(among, key=lambda image: counts[image])}


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


# --- large planes -------------------------------------------------------------------


def cut_into_tiles(planes: Sequence[AnnotatedPlane], model: SamModel) -> tuple[AnnotatedPlane, ...]:
    """Replace large planes by their tiles with objects, see `tiles_with_objects`; slow."""
    return tuple(part for plane in planes for part in _parts(plane, model))


def _parts(plane: AnnotatedPlane, model: SamModel) -> Iterator[AnnotatedPlane]:
    if len(tile_grid(plane.pixels.shape, model)) == 1:
        yield plane
        return
    image = tiled_image(plane.name, plane.pixels, model)
    places = {
        o.label: Window.from_slices(slice(o.bbox[0], o.bbox[2]), slice(o.bbox[1], o.bbox[3]))
        for o in objects_of(0, plane)
    }

    def labels(window: Window) -> LabelArray:
        return plane.labels[window.slices]

    def background(window: Window) -> BoolArray | None:
        return None if plane.background is None else plane.background[window.slices]

    for tile in tiles_with_objects(image, labels, places, plane.prompts, background):
        name = f"{plane.name} {tile.name}"
        yield replace(tile, name=name, image=plane.image, channels=plane.channels)


def tiles_with_objects(
    image: TiledImage,
    labels: Callable[[Window], LabelArray],
    places: Mapping[int, Window],
    prompts: Mapping[int, Prompts],
    background: Callable[[Window], BoolArray | None],
    elsewhere: Callable[[Window], BoolArray | None] = lambda _: None,
) -> Iterator[AnnotatedPlane]:
    """Read each tile of a large plane that holds the middle of an object; slow.

    A tile is a plane of its own, named by its place. Each object is in one tile only, so that
    none is trained on in one tile and held out in another. The other objects of a tile count
    as unlabelled. Objects are cut at its border.

    Parameters
    ----------
    labels
        Returns the labels ``(h, w)`` in a window of the plane.
    places, prompts
        By label: a window that holds the object, and the user's own prompts.
    background, elsewhere
        Return the known background, and the objects of other classes, in a window of the plane.
    """
    owners: dict[Tile, list[int]] = {}
    for label, place in places.items():
        middle = (place.row + place.stop[0]) / 2, (place.col + place.stop[1]) / 2
        owners.setdefault(image.grid.tile_at(*middle), []).append(label)
    for tile, own in sorted(owners.items(), key=lambda item: (item[0].row, item[0].col)):
        place = reduce(or_, (places[label] for label in own)) & tile.window & image.grid.window
        found = labels(place)
        kept = np.zeros(tile.window.shape, found.dtype)
        kept[place.seen_from(tile.window).slices] = np.where(np.isin(found, own), found, 0)
        inside = tile.window & image.grid.window
        others = np.zeros(tile.window.shape, np.bool_)
        others[inside.seen_from(tile.window).slices] = labels(inside) > 0
        apart = elsewhere(inside)
        if apart is not None:
            others[inside.seen_from(tile.window).slices] |= apart
        others &= kept == 0
        empty = background(inside)
        if empty is not None:
            empty = np.pad(
                empty, [(0, n - m) for n, m in zip(kept.shape, empty.shape, strict=True)]
            )
        given = {n: prompts[n].within(tile.window) for n in own if n in prompts}
        yield AnnotatedPlane(
            f"[{tile.row}, {tile.col}]", image.name, image.read(tile), kept,
            {label: one for label, one in given.items() if one}, image.intensity_range,
            others=others, background=empty,
        )  # fmt: skip
