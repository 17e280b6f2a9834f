"""The head for automatic segmentation, trained beside the prompts' masks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import find_boundaries
from torch import Tensor
from torch.nn import functional

from napari_peftsam.models import DenseHead
from napari_peftsam.models.orientations import turned
from napari_peftsam.training.dataset import TrainingObject
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.prompts import dilated
from napari_peftsam.training.samples import ModelPlane, TrainingCrop
from napari_peftsam.types import BoolArray, FloatArray, LabelArray

LEAST_OBJECTS = 5
"""Objects below which no head is trained."""
HEAD_RATE = 1e-3
DENSE_WEIGHT = 1.0
"""Of the head's loss beside that of the prompted masks."""

_RIM, _RIM_WEIGHT = 2, 5.0
_REACH = 8  # pixels of the model; background is known no further from an object
_RIM_SURENESS = 0.5  # of a rim: it is known where the base sees no object, else unknown
_UNKNOWN = 2.0  # weight of the agreement with what was said before where nothing is known


def dense_target(labels: LabelArray) -> FloatArray:
    """Return ``(3, H, W)``: foreground, depth and boundary as `DenseHead` predicts them."""
    boundary = find_boundaries(labels, mode="inner")
    inside = (labels > 0) & ~boundary
    # An object that fills all has no border but that of the image.
    margin = int(inside.all())
    distance = ndimage.distance_transform_edt(np.pad(inside, margin))
    distance = distance[margin : distance.shape[0] - margin, margin : distance.shape[1] - margin]
    largest = ndimage.maximum(distance, labels, np.arange(labels.max() + 1))
    scale = np.maximum(np.asarray(largest, np.float32), 1)[labels]
    return np.stack([labels > 0, distance / scale, boundary]).astype(np.float32)


def dense_loss(logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
    """Return the loss of a dense head.

    The foreground counts five times at a border, where it decides what is one object.

    Parameters
    ----------
    logits, target
        ``(B, 3, H, W)``: foreground, depth, boundary.
    known
        ``(B, H, W)`` in [0, 1]: how sure the target is; default: everywhere.
    """
    foreground, depth, boundary = target.unbind(1)
    sure = torch.ones_like(foreground) if known is None else known
    weight = sure * (1 + (_RIM_WEIGHT - 1) * dilated(boundary > 0, _RIM))
    found, shore = (
        functional.binary_cross_entropy_with_logits(logits[:, n], wanted, reduction="none")
        for n, wanted in ((0, foreground), (2, boundary))
    )
    deep = (logits[:, 1].sigmoid() - depth).abs()
    total = sure.sum().clamp(min=1)
    return (
        (found * weight).sum() / weight.sum().clamp(min=1)
        + (deep * sure).sum() / total
        + (shore * sure).sum() / total
    )


@dataclass(frozen=True, eq=False)
class DenseTraining:
    """A head that learns, and what it is to say.

    Attributes
    ----------
    head
        A copy of the model's own, or a new one.
    targets
        By plane: ``(1, 4, S, S)`` in model pixels, `dense_target` and how sure it is: 1 known, 0.5
        at the rim of an object, 0 unknown.
    before
        By plane: logits ``(1, 3, h, w)`` of the present head before the training, to which head
        and encoder are held where nothing is known; empty if there is none.
    is_learning
        Whether the head changes; else only the encoder is held to what the head understands.
    """

    head: DenseHead
    targets: Mapping[int, Tensor] = field(repr=False)
    before: Mapping[int, Tensor] = field(repr=False)
    is_learning: bool = True

    @classmethod
    def of(
        cls,
        encoder: PlaneEncoder,
        own: DenseHead | None,
        objects: Sequence[TrainingObject],
        complete: bool,
        is_learning: bool = True,
    ) -> DenseTraining:
        """Begin with a copy of the present head, or a new one.

        Parameters
        ----------
        encoder
            The encoder before the training, on the planes of the objects.
        own
            The present head.
        objects
            What is learned; other objects of the planes are unknown.
        complete
            Whether what is not labelled is background. Else it is unknown beyond a rim around
            the objects.
        is_learning
            Whether the head is to learn; else nothing is known.
        """
        model, learned = encoder.model, dict[int, list[int]]()
        if own is None:
            head = DenseHead(model.architecture.embedding_width).to(model.device)
        else:
            head = copy.deepcopy(own)
        for each in objects:
            learned.setdefault(each.plane, []).append(each.label)
        targets = {i: _target(encoder.planes[i], labels, complete) for i, labels in learned.items()}
        if not is_learning:
            for target in targets.values():
                target[:, 3] = 0
        before: dict[int, Tensor] = {}
        with torch.no_grad(), model.autocast():
            for index in learned if own is not None else ():
                # Half of the precision and a fraction of the pixels: there may be many planes.
                before[index] = head(encoder.features(index)).half().cpu()
        return cls(head.requires_grad_(is_learning), targets, before, is_learning)

    def state(self) -> dict[str, Tensor]:
        """Return a copy of the head's state on the CPU."""
        found = self.head.state_dict().items()
        return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in found}

    def loss(
        self, features: Tensor, plane: int, turn: int = 0, crop: TrainingCrop | None = None
    ) -> Tensor:
        """Return the loss of one view, whose embedding is ``(1, C, h, w)``."""
        target = turned(self.targets[plane].to(features.device), turn)
        if crop is not None:
            target = crop.resample(target)
        logits = _resized(self.head(features), target.shape[-1])
        sureness = target[:, 3]
        if not self.before:
            return dense_loss(logits, target[:, :3], (sureness >= _RIM_SURENESS / 2).float())
        whole = _resized(self.before[plane].to(features.device), self.targets[plane].shape[-1])
        before = turned(whole, turn)
        if crop is not None:
            before = crop.resample(before)
        # In confluent tissue the rim is the neighbour, which the base sees.
        is_rim = (sureness >= _RIM_SURENESS / 2) & (before[:, 0] < 0)
        known = ((sureness > (1 + _RIM_SURENESS) / 2) | is_rim).float()
        kept = functional.binary_cross_entropy_with_logits(
            logits, before.sigmoid(), reduction="none"
        )
        free = (1 - known)[:, None]
        agreement = (kept * free).sum() / (3 * free.sum()).clamp(min=1)
        return dense_loss(logits, target[:, :3], known) + _UNKNOWN * agreement


def _resized(logits: Tensor, side: int) -> Tensor:
    return functional.interpolate(logits.float(), (side, side), mode="bilinear")


def _target(plane: ModelPlane, learned: Sequence[int], complete: bool) -> Tensor:
    labels = plane.labels.numpy()
    rows, cols = plane.frame.inner
    numbers = np.union1d([0], learned)  # labels may be huge and sparse
    place = np.searchsorted(numbers, labels).clip(max=len(numbers) - 1)
    compact = np.where(numbers[place] == labels, place, 0)
    source = plane.source
    others = (labels > 0) & (compact == 0) | _in_model(plane, source.others)
    inside = np.zeros(labels.shape, bool)
    inside[:rows, :cols] = True
    known = np.ones(labels.shape, np.float32)
    if not complete:
        known = np.where(_near(compact), _RIM_SURENESS, 0).astype(np.float32)
        known[(compact > 0) | _in_model(plane, source.background)] = 1
    known[~inside | others] = 0
    return torch.from_numpy(np.concatenate([dense_target(compact), known[None]]))[None]


def _in_model(plane: ModelPlane, mask: BoolArray | None) -> BoolArray:
    """Return a mask of the plane in model pixels; nothing for None."""
    frame = plane.frame
    found = np.zeros((frame.size, frame.size), np.bool_)
    if mask is not None:
        rows, cols = frame.inner
        row, col = (
            ((np.arange(n) + 0.5) * (m / n)).astype(int)
            for n, m in zip((rows, cols), mask.shape, strict=True)
        )
        found[:rows, :cols] = mask[np.ix_(row, col)]
    return found


def _near(labels: LabelArray) -> BoolArray:
    """Return the objects and a rim around each, half its radius wide and `_REACH` at most."""
    known = labels > 0
    away, nearest = ndimage.distance_transform_edt(~known, return_indices=True)
    radius = np.sqrt(np.bincount(labels.ravel()) / np.pi)
    reach = np.minimum(_REACH, radius / 2)[labels[tuple(nearest)]]
    found: BoolArray = away <= reach
    return found
