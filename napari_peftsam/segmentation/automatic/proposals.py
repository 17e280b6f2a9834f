"""Masks that the decoder proposes for the hypotheses, and what is measured of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from napari_peftsam.embeddings import Embedding
from napari_peftsam.segmentation.automatic.hypotheses import Hypotheses, box_ious
from napari_peftsam.segmentation.automatic.maps import DenseMaps, steps_of
from napari_peftsam.segmentation.crops import Crop
from napari_peftsam.segmentation.predictor import Predictor
from napari_peftsam.segmentation.region_labels import object_part
from napari_peftsam.types import BoolArray, FloatArray, Frame, LabelArray, Prompts, Window

__all__ = ["FEATURES", "Proposal", "best_ious", "features_of", "propose"]

FEATURES = (
    "predicted_iou", "stability", "relative_area", "occupancy", "foreground_mean",
    "foreground_deviation", "foreground_share", "foreground_around", "depth_mean", "depth_highest",
    "boundary_rim", "boundary_inside", "box_agreement", "region_agreement", "support", "roughness",
    "at_border",
)  # fmt: skip
"""What `Proposal.features` holds, in this order.

Brightness and contrast are none of them: a prior that knows them fails on kinds of images that it
did not see. The area is the logarithm of its share of the median of all masks.
"""

_BATCH = 64
_STABLE = 1.0  # logits; the mask is to change little between these thresholds
_AROUND = 3  # pixels of the maps
_AGREE = 0.5  # IoU from which on two masks support each other
_CLOSE = 0.4  # IoU of their boxes; less cannot agree by that much


@dataclass(frozen=True, eq=False)
class Proposal:
    """One object that may be there.

    Attributes
    ----------
    prompts
        In pixels of the image; with them a person goes on correcting it.
    logits
        ``(h, w)`` in pixels of the decoder's logits, the part where any is above zero.
    place
        Of `logits` in the whole of the decoder's logits.
    frame
        Of the image.
    side
        Of the whole of the decoder's logits.
    features
        As `FEATURES` names them.
    corner
        Row and column in the plane of the first pixel of what was embedded.
    """

    prompts: Prompts
    logits: npt.NDArray[np.float16] = field(repr=False)
    place: Window
    frame: Frame
    side: int
    features: FloatArray = field(repr=False)
    corner: tuple[int, int] = (0, 0)

    @cached_property
    def drawn(self) -> tuple[BoolArray, Window]:
        """The mask ``(h, w)`` in pixels, and where it is in the plane; perhaps empty."""
        mask, window = mask_of(self.logits, self.place, self.side, self.frame)
        row, col = self.corner
        return mask, replace(window, row=window.row + row, col=window.col + col)

    def moved(self, corner: tuple[int, int]) -> Proposal:
        """Return the proposal in the pixels of a plane of which `corner` begins the tile."""
        row, col = corner
        window = Window(-row, -col, row + self.frame.height, col + self.frame.width)
        return replace(self, prompts=self.prompts.within(window), corner=corner)


def features_of(proposals: Sequence[Proposal]) -> FloatArray:
    """Return the features of all proposals, ``(N, F)``."""
    rows = [one.features for one in proposals]
    return np.array(rows, np.float32).reshape(-1, len(FEATURES))


def best_ious(proposals: Sequence[Proposal], labels: LabelArray) -> npt.NDArray[np.float64]:
    """Return the IoU of each proposal with the object ``(H, W)`` that it agrees with most."""
    areas = dict(
        zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True)
    )
    found = np.zeros(len(proposals))
    for index, one in enumerate(proposals):
        mask, window = one.drawn
        area = np.count_nonzero(mask)
        under, shared = np.unique(labels[window.slices][mask], return_counts=True)
        for label, both in zip(under.tolist(), shared.tolist(), strict=True):
            if label > 0:
                found[index] = max(found[index], both / (area + areas[label] - both))
    return found


def mask_of(
    logits: npt.NDArray[np.float16], place: Window, side: int, frame: Frame
) -> tuple[BoolArray, Window]:
    """Return the mask of a part of the decoder's logits in the pixels of a frame."""
    whole = torch.full((side, side), -10.0)
    whole[place.slices] = torch.from_numpy(logits.astype(np.float32))
    values, window = object_part(whole, frame)
    mask = _largest_part(values.numpy() > 0)
    inner = Window.around(mask)
    found = Window(window.row + inner.row, window.col + inner.col, inner.height, inner.width)
    return mask[inner.slices], found


def _largest_part(mask: BoolArray) -> BoolArray:
    """Return the largest of a mask's parts; pixels that share a corner hang together."""
    parts, count = ndimage.label(mask, np.ones((3, 3), bool))
    if count < 2:
        return mask
    found: BoolArray = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return found


@dataclass(frozen=True, eq=False)
class DecodedMask:
    """The part of a mask's logits that is near zero or above, and where it is of all, `side`².

    `number` is the index of its prompts, `score` the predicted IoU.
    """

    number: int
    logits: npt.NDArray[np.float16]
    place: Window
    side: int
    score: float
    stability: float

    def drawn(self, frame: Frame) -> tuple[BoolArray, Window]:
        """Return the mask in the pixels of a frame; see `mask_of`."""
        return mask_of(self.logits, self.place, self.side, frame)


def decoded_masks(
    predictor: Predictor,
    embedding: Embedding,
    prompts: Sequence[Prompts],
    crop: Crop | None = None,
) -> list[DecodedMask]:
    """Ask the decoder for one mask per prompts, and return those that are not empty."""
    side, found = 4 * embedding.features.shape[-1], list[DecodedMask]()
    for start in range(0, len(prompts), _BATCH):
        asked = prompts[start : start + _BATCH]
        answers = predictor.decode_many(embedding, asked, keep=1, crop=crop)
        for number, answer in enumerate(answers, start=start):
            logits = answer.logits[0].float().cpu().numpy()
            place = Window.around(logits > -_STABLE)
            part = logits[place.slices]
            if not np.count_nonzero(part > 0):
                continue
            stability = np.count_nonzero(part > _STABLE) / np.count_nonzero(part > -_STABLE)
            half, score = part.astype(np.float16), float(answer.scores[0])
            found.append(DecodedMask(number, half, place, side, score, stability))
    return found


def propose(
    predictor: Predictor,
    embedding: Embedding,
    maps: DenseMaps,
    hypotheses: Hypotheses,
) -> list[Proposal]:
    """Ask the decoder for every hypothesis, and measure the masks that are not empty."""
    frame, work = embedding.frame, maps.frame
    prompts = hypotheses.prompts(steps_of(frame, work))
    parts = decoded_masks(predictor, embedding, prompts, Crop())
    masks = [each.drawn(work) for each in parts]
    kept = [i for i, (mask, _) in enumerate(masks) if mask.size]
    numbers = [parts[i].number for i in kept]
    measured = _features(
        maps,
        [masks[i] for i in kept],
        np.array([(parts[i].score, parts[i].stability) for i in kept]).reshape(-1, 2),
        hypotheses.boxes[numbers],
        [hypotheses.regions[n] for n in numbers],
    )
    return [
        Proposal(
            prompts[parts[i].number], parts[i].logits, parts[i].place, frame, parts[i].side, row
        )
        for i, row in zip(kept, measured, strict=True)
    ]


def _features(
    maps: DenseMaps,
    masks: Sequence[tuple[BoolArray, Window]],
    scores: npt.NDArray[np.float64],
    boxes: npt.NDArray[np.int64],
    regions: Sequence[BoolArray],
) -> FloatArray:
    if not masks:
        return np.zeros((0, len(FEATURES)), np.float32)
    measured = [
        _measured(maps, *mask, box, region)
        for mask, box, region in zip(masks, boxes, regions, strict=True)
    ]
    areas = np.array([np.count_nonzero(mask) for mask, _ in masks])
    table = dict(zip(("predicted_iou", "stability"), scores.T, strict=True))
    table["relative_area"] = np.log(areas / np.median(areas))
    table["support"] = np.log1p(_support(masks, areas))
    table |= {name: np.array([row[name] for row in measured]) for name in measured[0]}
    return np.stack([table[name] for name in FEATURES], axis=1).astype(np.float32)


def _measured(
    maps: DenseMaps,
    mask: BoolArray,
    window: Window,
    box: npt.NDArray[np.int64],
    region: BoolArray,
) -> dict[str, float]:
    area = np.count_nonzero(mask)
    height, width = maps.frame.height, maps.frame.width
    around = Window(
        window.row - _AROUND,
        window.col - _AROUND,
        window.height + 2 * _AROUND,
        window.width + 2 * _AROUND,
    ) & Window(0, 0, height, width)
    wide = np.zeros(around.shape, bool)
    wide[window.seen_from(around).slices] = mask
    inner = ndimage.binary_erosion(wide)
    rim, ring = wide & ~inner, ndimage.binary_dilation(wide, iterations=_AROUND) & ~wide
    foreground, depth, boundary = (
        one[around.slices] for one in (maps.foreground, maps.depth, maps.boundary)
    )
    inside = foreground[wide]
    row0, col0, row1, col1 = box.tolist()
    source = Window(row0, col0, row1 - row0, col1 - col0)
    overlap = _overlap((mask, window), (region, source))
    bottom, right = window.stop
    own = np.array([[window.row, window.col, *window.stop]])
    return {
        "occupancy": area / mask.size,
        "foreground_mean": float(inside.mean()),
        "foreground_deviation": float(inside.std()),
        "foreground_share": float((inside > 0.5).mean()),
        "foreground_around": float(foreground[ring].mean()) if ring.any() else 0.0,
        "depth_mean": float(depth[wide].mean()),
        "depth_highest": float(depth[wide].max()),
        "boundary_rim": float(boundary[rim].mean()),
        "boundary_inside": float(boundary[inner].mean()) if inner.any() else 1.0,
        "box_agreement": float(box_ious(own, box[None])[0, 0]),
        "region_agreement": overlap / (area + np.count_nonzero(region) - overlap),
        "roughness": float(np.count_nonzero(rim) ** 2 / area),
        "at_border": float(0 in (window.row, window.col) or height == bottom or width == right),
    }


def _support(
    masks: Sequence[tuple[BoolArray, Window]], areas: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return how many of the masks, itself included, agree with each."""
    from scipy.spatial import cKDTree

    found = np.ones(len(masks))
    boxes = np.array([[w.row, w.col, *w.stop] for _, w in masks])
    middles, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    # Boxes of masks that agree overlap by half, so their middles are nearer than their size.
    near = cKDTree(middles).query_ball_point(middles, sizes / 2 + 1)
    for i, nearby in enumerate(near):
        others = np.array([j for j in nearby if j > i], int)
        close = box_ious(boxes[i : i + 1], boxes[others])[0] > _CLOSE
        for j in others[close].tolist():
            overlap = _overlap(masks[i], masks[j])
            if overlap > _AGREE * (areas[i] + areas[j] - overlap):
                found[i] += 1
                found[j] += 1
    return found


def _overlap(first: tuple[BoolArray, Window], second: tuple[BoolArray, Window]) -> int:
    """Return the pixels that two masks share."""
    both = first[1] & second[1]
    if not both:
        return 0
    one, two = (mask[both.seen_from(window).slices] for mask, window in (first, second))
    return int(np.count_nonzero(one & two))
