"""Places of possible objects without a head: what a coarse grid of clicks answers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from napari_peftsam.embeddings import Embedding
from napari_peftsam.segmentation.automatic.hypotheses import Hypotheses, hypotheses_of
from napari_peftsam.segmentation.automatic.maps import DenseMaps, steps_of, working_frame
from napari_peftsam.segmentation.automatic.proposals import decoded_masks
from napari_peftsam.segmentation.predictor import Predictor
from napari_peftsam.types import BoolArray, Frame, Point, Prompts

__all__ = ["NO_HEAD", "click_grid", "look_coarsely"]

NO_HEAD = (
    "the model has no head for automatic segmentation, so a coarse grid of clicks was looked at: "
    "finetune it on five objects or more to find the rest"
)
CLICKS = 16
"""Clicks along the longer side of a frame; 256 take seconds, more would take minutes on a CPU."""
_PREDICTED, _STABLE = 0.7, 0.8  # below these, a click hit no object
_LARGEST = 0.25  # of the frame; larger masks are background
_OVERLAP = 0.5  # share of a mask that better ones may have


def click_grid(frame: Frame) -> list[Point]:
    """Return the clicks, evenly spread, at most `CLICKS` along each side."""
    longer = max(frame.height, frame.width)
    rows, cols = (
        (np.arange(count) + 0.5) * n / count - 0.5
        for n in (frame.height, frame.width)
        for count in (max(1, round(CLICKS * n / longer)),)
    )
    return [Point(float(row), float(col)) for row in rows for col in cols]


def look_coarsely(
    predictor: Predictor, embedding: Embedding, taken: BoolArray | None = None
) -> tuple[DenseMaps, Hypotheses]:
    """Click on a coarse grid, and take the masks that are plausible for what a head would say.

    `taken` ``(H, W)`` are pixels of the maps that belong to known objects.
    """
    work = working_frame(embedding.frame)
    labels = np.zeros((work.height, work.width), np.int32)
    if taken is not None:
        labels[taken] = -1
    prompts = [Prompts((point,)) for point in click_grid(embedding.frame) if _is_free(
        point, labels, steps_of(embedding.frame, work))]  # fmt: skip
    masks = decoded_masks(predictor, embedding, prompts)
    drawn = [(each.score * each.stability, *each.drawn(work)) for each in masks
             if each.score >= _PREDICTED and each.stability >= _STABLE]  # fmt: skip
    for number, (_, mask, window) in enumerate(sorted(drawn, key=lambda each: -each[0]), start=1):
        here = labels[window.slices]
        free, area = mask & (here == 0), np.count_nonzero(mask)
        if area <= _LARGEST * labels.size and np.count_nonzero(free) > (1 - _OVERLAP) * area:
            here[free] = number
    labels[labels < 0] = 0
    return _maps(labels, work), hypotheses_of(labels)


def _is_free(point: Point, labels: npt.NDArray[np.int32], steps: tuple[float, float]) -> bool:
    row, col = (
        min(int((at + 0.5) / step), n - 1)
        for at, step, n in zip((point.row, point.col), steps, labels.shape, strict=True)
    )
    return bool(labels[row, col] == 0)


def _maps(labels: npt.NDArray[np.int32], frame: Frame) -> DenseMaps:
    """Return the maps of which these instances would be found."""
    maps = np.zeros((3, *labels.shape), np.float32)
    foreground, depth, boundary = maps
    foreground[labels > 0] = 1
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is None:
            continue
        inside = labels[window] == number
        distance = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        depth[window][inside] = (distance / distance.max())[inside]
        boundary[window][inside & (distance <= 1)] = 1
    return DenseMaps.smoothed(maps, frame)
