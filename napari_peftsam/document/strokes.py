"""Strokes of a brush as actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_peftsam.document.actions import Paint
from napari_peftsam.document.images import DocumentImage
from napari_peftsam.document.records import OBJECTS
from napari_peftsam.document.regions import Integers
from napari_peftsam.errors import LabelError
from napari_peftsam.types import BoolArray, LabelArray

__all__ = ["PaintAtom", "paint"]


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


def paint(
    image: DocumentImage, atoms: Sequence[PaintAtom], label_set: str = OBJECTS
) -> Paint | None:
    """Return the action that the atoms, in order, make together; None if there are none.

    The action writes the new labels once more, so it does not matter whether a viewer
    reports a stroke before or after it paints (napari does the one or the other).
    """
    pieces = [_flat(image, atom) for atom in atoms]
    if not pieces:
        return None
    where, old, new = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    # A stroke passes a pixel more than once: the oldest "old" and newest "new" count.
    pixels, first = np.unique(where, return_index=True)
    _, from_end = np.unique(where[::-1], return_index=True)
    return Paint(image.id, pixels, new[::-1][from_end], old[first], label_set=label_set)


def _flat(image: DocumentImage, atom: PaintAtom) -> tuple[Integers, LabelArray, LabelArray]:
    if len(atom.indices) != len(image.shape):
        raise LabelError(
            f"painted pixels have {len(atom.indices)} indices, the labels of {image.name!r} "
            f"have the shape {image.shape}: give one index array per axis"
        )
    axes = np.broadcast_arrays(*(np.asarray(i, np.intp) for i in atom.indices))
    try:
        where = np.ravel_multi_index(tuple(axis.reshape(-1) for axis in axes), image.shape)
    except ValueError as error:
        raise outside_error(image) from error
    old, new = (np.broadcast_to(np.ravel(np.asarray(s)), where.shape) for s in (atom.old, atom.new))
    check_painted(old, new)
    kind = image.labels.dtype
    return where, old.astype(kind), new.astype(kind)


def outside_error(image: DocumentImage) -> LabelError:
    """Return the error for painted pixels that an image does not have."""
    return LabelError(
        f"painted pixels lie outside the labels of {image.name!r}, shape {image.shape}: "
        "record them for the image they were painted in"
    )


def check_painted(*labels: LabelArray) -> None:
    """Raise `LabelError` if labels are negative."""
    for values in labels:
        if values.size and values.min() < 0:
            raise LabelError(f"label {values.min()} was painted: labels start at 0 (unlabelled)")
