"""From annotated images to training samples; held-out objects are set apart here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from napari_peftsam.errors import LabelError, TrainingError
from napari_peftsam.types import LabelArray, PixelArray, Prompts

__all__ = ["AnnotatedPlane", "Split", "TrainingObject", "split_objects"]

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
    """

    name: str
    image: str
    pixels: PixelArray
    labels: LabelArray
    prompts: Mapping[int, Prompts] = field(default_factory=dict)

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


def split_objects(planes: Sequence[AnnotatedPlane], share: float, seed: int) -> Split:
    """Set a share of the objects apart: whole images if there are several, else a region.

    The region is one end of the single image, along the axis in which the objects
    spread further, so that held-out objects are not interleaved with trained ones.

    Raises
    ------
    TrainingError
        If there are fewer than three objects.
    """
    objects = [o for index, plane in enumerate(planes) for o in _objects(index, plane)]
    if len(objects) < _MIN_OBJECTS:
        raise TrainingError(
            f"finetuning needs at least {_MIN_OBJECTS} accepted objects, found {len(objects)}: "
            "accept more objects first"
        )
    images = sorted({planes[o.plane].image for o in objects})
    if len(images) > 1:
        return _split_by_image(planes, objects, images, share, seed)
    return _split_by_region(objects, share)


def _objects(index: int, plane: AnnotatedPlane) -> list[TrainingObject]:
    numbers = np.unique(plane.labels)
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
    images: list[str],
    share: float,
    seed: int,
) -> Split:
    shuffled = np.random.default_rng(seed).permutation(np.asarray(images, object))
    count = min(max(1, round(share * len(images))), len(images) - 1)
    held = set(shuffled[:count])
    training = tuple(o for o in objects if planes[o.plane].image not in held)
    held_out = tuple(o for o in objects if planes[o.plane].image in held)
    return Split(training, held_out, "image")


def _split_by_region(objects: list[TrainingObject], share: float) -> Split:
    # Planes of one stack count as a further axis: its end is held out before a part of a plane.
    centres = np.array(
        [(o.plane * 1e6, (o.bbox[0] + o.bbox[2]) / 2, (o.bbox[1] + o.bbox[3]) / 2) for o in objects]
    )
    axis = int(np.ptp(centres, axis=0).argmax())
    order = np.argsort(centres[:, axis], kind="stable")
    count = min(max(1, round(share * len(objects))), len(objects) - 1)
    ordered = [objects[i] for i in order]
    return Split(tuple(ordered[:-count]), tuple(ordered[-count:]), "region")
