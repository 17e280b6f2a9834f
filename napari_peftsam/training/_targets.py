"""What answers are compared with: each object on a grid of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from napari_peftsam.training._samples import Sample
from napari_peftsam.training.prompts import Grid

__all__ = ["Targets"]

# Side of the grid on which an object and its surroundings are compared with the truth.
# It follows the object, so that small ones count as much as large ones, at a fixed cost.
_GRID = 96


@dataclass(frozen=True, eq=False)
class Targets:
    """The objects of a sample, each sampled on a fixed grid in its window.

    Losses and corrections are computed here: nothing is known outside of the windows, and
    the cost depends neither on the model's input nor on the size of the objects.

    Attributes
    ----------
    shapes
        ``(B, 1, G, G)`` in [0, 1], on the sample's device: how much the object is there.
    windows
        ``(B, 4)`` on the same device, in pixel edges of the sample.
    truth
        ``(B, G, G)`` boolean, on the CPU, where prompts are simulated: every object has at
        least one pixel.
    boxes
        ``(B, 4)`` tight boxes in pixels of the model's frame, on the CPU.
    grid
        Where the pixels of `truth` lie in the model's frame.
    """

    shapes: Tensor
    windows: Tensor
    truth: Tensor
    boxes: Tensor
    grid: Grid

    @classmethod
    def of(cls, sample: Sample) -> Targets:
        """Sample the objects' true masks."""
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
    """Return the grid's pixels that a mask ``(S, S)`` touches, however little.

    A hair of an object in a large window can lie between all points of the grid.
    """
    x0, y0, x1, y1 = (int(edge) for edge in window.tolist())
    part = mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].float()
    return functional.adaptive_max_pool2d(part[None], _GRID)[0]
