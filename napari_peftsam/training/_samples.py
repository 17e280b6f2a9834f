"""Planes in model pixels, rotated and cropped, and the targets of their objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from napari_peftsam.models import SamModel, frame_of, to_model_input
from napari_peftsam.segmentation.decode import PromptTensors
from napari_peftsam.training.dataset import AnnotatedPlane, TrainingObject
from napari_peftsam.training.prompts import Grid, bounding_boxes
from napari_peftsam.types import Frame, Prompts

__all__ = [
    "TURNS",
    "Crop",
    "ModelPlane",
    "Sample",
    "Targets",
    "prepare_planes",
    "prompt_tensors",
]

TURNS = 8  # the dihedral group of the square model frame
_MARGIN = 1.0  # an object's surroundings: its own size on each side ...
_LEAST_MARGIN = 12.0  # ... and at least this many model pixels
# Side of the grid on which an object and its surroundings are compared with the truth.
# It follows the object, so that small ones count as much as large ones, at a fixed cost.
_GRID = 96


@dataclass(frozen=True)
class Crop:
    """A square part of a frame, perhaps magnified.

    Attributes
    ----------
    left, top, window
        The part, in pixels of the frame.
    side
        Side after resampling, in model pixels.
    corner
        ``(x, y)`` of the result's first pixel in the frame.
    """

    left: int
    top: int
    window: int
    side: int
    corner: tuple[int, int]

    def of_image(self, image: Tensor) -> Tensor:
        """Return the part of ``(1, 3, S, S)``."""
        part = self._part(image)
        if self.window == self.side:
            return part
        size = (self.side, self.side)
        return functional.interpolate(part, size, mode="bilinear", antialias=True)

    def of_masks(self, masks: Tensor) -> Tensor:
        """Return the part of ``(B, S, S)`` boolean."""
        part = self._part(masks)
        if self.window == self.side:
            return part
        # As the image is: "nearest" would shift the masks by up to half a pixel.
        size = (self.side, self.side)
        soft = functional.interpolate(part[None].float(), size, mode="bilinear", antialias=True)
        return soft[0] >= 0.5

    def _part(self, x: Tensor) -> Tensor:
        rows = slice(self.top, self.top + self.window)
        return x[..., rows, self.left : self.left + self.window]


@dataclass(frozen=True, eq=False)
class Sample:
    """Objects of one rotated and flipped plane, in the frame or a crop of it.

    Attributes
    ----------
    masks
        ``(B, s, s)`` boolean.
    windows
        ``(B, 4)`` surroundings ``(x0, y0, x1, y1)`` in pixel edges of the crop. Pixels inside
        that are not the object are background; those outside are unknown.
    boxes
        ``(B, 4)`` tight boxes, likewise.
    real
        The user's own prompts per object, None without any.
    crop
        The part of the frame; None for the whole.
    """

    masks: Tensor
    windows: Tensor
    boxes: Tensor
    real: tuple[Prompts | None, ...]
    crop: Crop | None = None

    @classmethod
    def of(
        cls, masks: Tensor, real: tuple[Prompts | None, ...], crop: Crop | None = None
    ) -> Sample:
        """Return the sample of these masks, none of them empty."""
        boxes = bounding_boxes(masks)
        margin = ((boxes[:, 2:] - boxes[:, :2]) * _MARGIN).clamp(min=_LEAST_MARGIN)
        windows = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1)
        return cls(masks, windows.clamp(0, masks.shape[-1]), boxes, real, crop)

    @property
    def side(self) -> int:
        """Side of the model input in pixels."""
        return self.masks.shape[-1]

    @property
    def corner(self) -> tuple[int, int]:
        """``(x, y)`` of the first pixel in the model's frame."""
        return self.crop.corner if self.crop else (0, 0)

    def cropped(self, side: int, step: int, zoom: float = 1.0) -> Sample:
        """Return the part around all objects as a crop of `side` model pixels.

        Parameters
        ----------
        step
            Size of a token: the crop's corner in the frame is a multiple of it.
        zoom
            Magnification of the crop. The user's own prompts do not follow it.
        """
        size = self.side
        if side >= size:
            return self
        window = min(size, round(side / zoom))
        middle = (self.boxes[:, :2].amin(0) + self.boxes[:, 2:].amax(0)) / 2
        left, top = (_aligned(float(c) - window / 2, size - window, step) for c in middle)
        crop = Crop(left, top, window, side, (min(left, size - side), min(top, size - side)))
        masks = crop.of_masks(self.masks)
        kept = masks.flatten(1).any(1)
        if not kept.any():  # a few objects far apart: no crop holds them
            return self
        real = tuple(r for r, keep in zip(self.real, kept.tolist(), strict=True) if keep)
        return Sample.of(masks[kept], real, crop)


def _aligned(start: float, most: int, step: int) -> int:
    """Return the multiple of `step` nearest to `start`, in [0, most]."""
    return min(max(round(start / step), 0), most // step) * step


@dataclass(frozen=True, eq=False)
class ModelPlane:
    """One plane with its labels in model pixels, ``(1, 3, S, S)`` and ``(S, S)``.

    Image and labels stay on the CPU; views of them are moved to `device`, where the model is.
    """

    source: AnnotatedPlane
    frame: Frame
    image: Tensor
    labels: Tensor
    device: torch.device

    def sample(self, objects: Sequence[TrainingObject], turn: int = 0) -> Sample:
        """Return these objects with the plane rotated and flipped (0 to 7)."""
        labels = _turned(self.labels.to(self.device), turn)
        numbers = torch.tensor([o.label for o in objects], dtype=labels.dtype, device=self.device)
        real = tuple(self.source.prompts.get(o.label) for o in objects)
        return Sample.of(labels[None] == numbers[:, None, None], real)

    def picture(self, turn: int = 0, crop: Crop | None = None) -> Tensor:
        """Return the model input ``(1, 3, s, s)`` of the rotated plane, or of a crop of it."""
        image = _turned(self.image.to(self.device), turn)
        return crop.of_image(image) if crop else image


def prepare_planes(
    planes: Sequence[AnnotatedPlane], objects: Sequence[TrainingObject], model: SamModel
) -> Mapping[int, ModelPlane]:
    """Bring the planes that hold any of these objects into the model's frame."""
    return {i: _prepare(planes[i], model) for i in sorted({o.plane for o in objects})}


def _prepare(plane: AnnotatedPlane, model: SamModel) -> ModelPlane:
    frame = frame_of(plane.pixels, model)
    rows, cols = frame.inner
    row_index = ((np.arange(rows) + 0.5) * (frame.height / rows)).astype(int)
    col_index = ((np.arange(cols) + 0.5) * (frame.width / cols)).astype(int)
    inner = plane.labels[np.ix_(row_index, col_index)].astype(np.int64)
    small = np.abs(inner).max() <= np.iinfo(np.int32).max
    labels = functional.pad(
        torch.from_numpy(inner.astype(np.int32) if small else inner),
        (0, frame.size - cols, 0, frame.size - rows),
    )
    image = to_model_input(plane.pixels, model, plane.limits)
    return ModelPlane(plane, frame, image.cpu(), labels, model.device)


def _turned(x: Tensor, turn: int) -> Tensor:
    x = torch.rot90(x, turn % 4, (-2, -1))
    return x.flip(-1) if turn >= 4 else x


def prompt_tensors(prompts: Prompts, plane: ModelPlane) -> PromptTensors:
    """Return one object's own prompts, unrotated, as a batch of one on the CPU."""
    frame = plane.frame
    points = labels = boxes = None
    if prompts.points:
        points = torch.from_numpy(frame.points_to_model(prompts.points))[None]
        labels = torch.tensor([[float(p.positive) for p in prompts.points]])
    if prompts.box is not None:
        boxes = torch.from_numpy(frame.box_to_model(prompts.box))[None]
    return PromptTensors(points, labels, boxes)


@dataclass(frozen=True, eq=False)
class Targets:
    """The objects of a sample, each sampled on a fixed grid in its window.

    Losses and corrections are computed on the grids: nothing is known outside of the windows,
    and the cost depends neither on the model's input nor on the size of the objects.

    Attributes
    ----------
    shapes
        ``(B, 1, G, G)`` coverage of the grid by the object, in [0, 1]; on the sample's device.
    windows
        ``(B, 4)`` on the same device, in pixel edges of the sample.
    truth
        ``(B, G, G)`` boolean, at least one pixel per object; on the CPU, for simulated prompts.
    boxes
        ``(B, 4)`` tight boxes in pixels of the model's frame, on the CPU.
    grid
        Positions of the pixels of `truth` in the model's frame.
    """

    shapes: Tensor
    windows: Tensor
    truth: Tensor
    boxes: Tensor
    grid: Grid

    @classmethod
    def of(cls, sample: Sample) -> Targets:
        """Return the targets of a sample."""
        shapes = _resample(sample.masks[:, None].float(), sample.windows, 1.0)
        lost = ~(shapes >= 0.5).flatten(1).any(1)
        for index in lost.nonzero().flatten().tolist():
            shapes[index, 0] = _touched(sample.masks[index], sample.windows[index])
        left, top = (float(c) for c in sample.corner)
        boxes = sample.boxes.cpu() - 0.5 + torch.tensor([left, top, left, top])
        grid = Grid.within(sample.windows.cpu(), _GRID, (left, top))
        truth = shapes[:, 0].cpu() >= 0.5
        return cls(shapes, sample.windows, truth, boxes, grid)

    def __len__(self) -> int:
        return len(self.shapes)

    def view(self, logits: Tensor, scale: float, objects: slice) -> Tensor:
        """Sample logits ``(B, K, h, w)`` of some of the objects on their grids.

        `scale` is the size of a pixel of the sample in those of the logits.
        """
        return _resample(logits.float(), self.windows[objects], scale)


def _resample(x: Tensor, windows: Tensor, scale: float) -> Tensor:
    """Sample ``(B, K, h, w)`` on a fixed grid in each object's own window."""
    index = torch.arange(len(windows), device=windows.device, dtype=windows.dtype)[:, None]
    boxes = torch.cat([index, windows], dim=1)
    grid: Tensor = roi_align(x, boxes, _GRID, spatial_scale=scale, sampling_ratio=1, aligned=True)
    return grid


def _touched(mask: Tensor, window: Tensor) -> Tensor:
    """Return the pixels of the grid that a mask ``(S, S)`` touches.

    A thin object in a large window can lie between all points of the grid.
    """
    x0, y0, x1, y1 = (int(edge) for edge in window.tolist())
    part = mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].float()
    return functional.adaptive_max_pool2d(part[None], _GRID)[0]
