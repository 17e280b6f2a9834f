"""Edits of objects, built from an image as it is; the session applies them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_peftsam.annotation._regions import bounding_box, distinct
from napari_peftsam.annotation.edits import ChangeRecords, PatchLabels, patch
from napari_peftsam.annotation.images import AnnotatedImage
from napari_peftsam.annotation.records import IMPORTED, MANUAL, ObjectRecord, PlaneKey
from napari_peftsam.errors import LabelError, PromptError
from napari_peftsam.types import BoolArray, Box, LabelArray, Prompts

__all__ = [
    "NewObject",
    "Overlap",
    "PaintAtom",
    "check_objects",
    "import_patch",
    "imported",
    "manual",
    "mask_patch",
    "merged",
    "paint_patch",
    "records_after",
]

Overlap = Literal["keep", "overwrite"]
"""What a new object does to the pixels of existing ones."""


class NewObject(NamedTuple):
    """An object to accept: its prompts, mask and predicted IoU.

    The mask is ``(H, W)`` of the whole plane, or of the part of it that begins at `offset`.
    """

    prompts: Prompts
    mask: BoolArray
    score: float | None = None
    offset: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class PaintAtom:
    """Pixels painted at once, as napari's ``Labels.events.paint`` reports them.

    Attributes
    ----------
    indices
        One array (or number) of positions per axis of the label array.
    old, new
        The labels before and after: one for all pixels or one each.
    """

    indices: tuple[npt.ArrayLike, ...]
    old: npt.ArrayLike
    new: npt.ArrayLike

    @classmethod
    def from_region(
        cls,
        region: tuple[slice | int, ...],
        mask: BoolArray | None,
        old: npt.ArrayLike,
        new: npt.ArrayLike,
    ) -> PaintAtom:
        """Return the atom for the pixels of `mask` (None: all) in a region.

        Parameters
        ----------
        region
            A slice with start and stop, or a number, per axis of the label array.
        mask
            Boolean, of the shape that ``labels[region]`` has.
        old, new
            Labels before and after: one, one per pixel of the mask, or, without a
            mask, of the region's shape.
        """
        slices = [slice(r, r + 1) if isinstance(r, int) else r for r in region]
        sizes = tuple(int(s.stop) - int(s.start) for s in slices)
        inside = np.nonzero(np.ones(sizes, np.bool_) if mask is None else mask.reshape(sizes))
        indices = tuple(c + s.start for c, s in zip(inside, slices, strict=True))
        return cls(indices, np.ravel(np.asarray(old)), np.ravel(np.asarray(new)))


def check_objects(image: AnnotatedImage, labels: Iterable[int]) -> None:
    """Raise `LabelError` unless all are labels of objects in this image."""
    missing = [label for label in labels if label not in image.records]
    if missing:
        known = sorted(image.records)
        shown = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
        raise LabelError(
            f"the image {image.name!r} has no object {missing[0]}: choose one of its "
            f"{len(known)} objects ({shown or 'none yet, accept one first'})"
        )


def mask_patch(
    image: AnnotatedImage, plane: PlaneKey, new: NewObject, overlap: Overlap
) -> PatchLabels | None:
    """Return the edit that writes a mask as the next object, None if nothing is left of it.

    With ``overlap="keep"`` only unlabelled pixels are taken.
    """
    mask = new.mask
    _check_place(image, mask, new.offset)
    box = bounding_box(mask[np.newaxis])
    wanted = mask[box]
    top, left = new.offset or (0, 0)
    box = (
        slice(box[0].start + top, box[0].stop + top),
        slice(box[1].start + left, box[1].stop + left),
    )
    if overlap == "keep":
        wanted = wanted & (image.plane_labels(plane)[box] == 0)
    rows, columns = np.nonzero(wanted)
    if not len(rows):
        return None
    image.check_label_range(image.next_label)
    leading = tuple(np.full(len(rows), i) for i in plane.index)
    where = image.flat((*leading, rows + box[0].start, columns + box[1].start))
    return patch(image, where, image.next_label)


def _check_place(image: AnnotatedImage, mask: BoolArray, offset: tuple[int, int] | None) -> None:
    row, col = offset or (0, 0)
    height, width = image.plane_shape
    inside = 0 <= row <= height - mask.shape[0] and 0 <= col <= width - mask.shape[1]
    if not inside or (offset is None and mask.shape != image.plane_shape):
        at = "" if offset is None else f" at {offset}"
        raise PromptError(
            f"the mask has shape {mask.shape}{at}, the image {image.name!r} has planes of "
            f"{image.plane_shape}: predict it from this image"
        )


def paint_patch(image: AnnotatedImage, atoms: Sequence[PaintAtom]) -> PatchLabels | None:
    """Return the edit that the atoms, in order, make together; None if they change nothing."""
    pieces = [_flat_atom(image, atom) for atom in atoms]
    if not pieces:
        return None
    where, old, new = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    # A stroke passes a pixel more than once: the oldest "old" and newest "new" count.
    pixels, first = np.unique(where, return_index=True)
    _, from_end = np.unique(where[::-1], return_index=True)
    before, after = old[first], new[::-1][from_end]
    changed = before != after
    if not changed.any():
        return None
    return patch(image, pixels[changed], after[changed], old=before[changed])


def _flat_atom(image: AnnotatedImage, atom: PaintAtom) -> tuple[npt.NDArray[Any], ...]:
    if len(atom.indices) != len(image.shape):
        raise LabelError(
            f"painted pixels have {len(atom.indices)} indices, the labels of {image.name!r} "
            f"have the shape {image.shape}: give one index array per axis"
        )
    axes = np.broadcast_arrays(*(np.asarray(i, np.intp) for i in atom.indices))
    try:
        where = image.flat(tuple(axis.reshape(-1) for axis in axes))
    except ValueError as error:
        raise LabelError(
            f"painted pixels lie outside the labels of {image.name!r}, shape {image.shape}: "
            "record them for the image they were painted in"
        ) from error
    sides = []
    for side in (atom.old, atom.new):
        values = np.broadcast_to(np.ravel(np.asarray(side)), where.shape)
        if values.size and values.min() < 0:
            raise LabelError(f"label {values.min()} was painted: labels start at 0 (unlabelled)")
        sides.append(values.astype(image.labels.dtype))
    return where, *sides


def import_patch(image: AnnotatedImage, labels: LabelArray) -> PatchLabels | None:
    """Return the edit that makes the label array equal to `labels` (same shape)."""
    image.check_label_range(int(labels.max()))
    where = np.flatnonzero(image.labels != labels)
    if not len(where):
        return None
    new = np.take(labels, where).astype(image.labels.dtype)
    return patch(image, image.compact(where), new)


def labels_in(edit: PatchLabels) -> set[int]:
    """Return the labels that lost or gained pixels."""
    return distinct(edit.old) | distinct(edit.new)


def records_after(
    image: AnnotatedImage,
    edit: PatchLabels,
    update: Callable[[ObjectRecord], ObjectRecord],
    create: Callable[[int], ObjectRecord],
) -> ChangeRecords:
    """Return the change of records due after the label edit `edit` was applied.

    Objects without pixels lose their record, touched ones are updated, labels without
    a record get one.
    """
    before: dict[int, ObjectRecord | None] = {}
    after: dict[int, ObjectRecord | None] = {}
    for label in sorted(labels_in(edit)):
        known = before[label] = image.records.get(label)
        if not image.area(label):
            after[label] = None
        else:
            after[label] = create(label) if known is None else update(known)
    highest = max((label for label, record in after.items() if record is not None), default=0)
    next_labels = (image.next_label, max(image.next_label, highest + 1))
    return ChangeRecords(image.name, before, after, next_labels)


def merged(first: ObjectRecord, others: Sequence[ObjectRecord], now: str) -> ObjectRecord:
    """Return the record of an object that took over `others` (prompts of the same plane)."""
    together = [first, *(r for r in others if r.plane == first.plane)]
    boxes = [r.prompts.box for r in together if r.prompts.box is not None]
    box = None
    if len(boxes) == len(together):  # the union means something only if each has a box
        box = Box(
            min(b.row0 for b in boxes),
            min(b.col0 for b in boxes),
            max(b.row1 for b in boxes),
            max(b.col1 for b in boxes),
        )
    # A negative point of one may lie in another, where it would now be wrong.
    points = tuple(p for r in together for p in r.prompts.points if p.positive)
    prompts = Prompts(points, box)
    return replace(first, prompts=prompts, score=None, corrected=True, modified=now)


def manual(label: int, plane: PlaneKey, now: str) -> ObjectRecord:
    """Return the record of an object painted by hand."""
    return ObjectRecord(label, plane, Prompts(), MANUAL, "", None, 0, False, now, now)


def imported(label: int, plane: PlaneKey, now: str) -> ObjectRecord:
    """Return the record of an object that came in with a label array."""
    return ObjectRecord(label, plane, Prompts(), IMPORTED, "", None, 0, False, now, now)
