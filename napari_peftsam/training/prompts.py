"""Simulated prompts, as in SAM's training: first a click or a box, then corrections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.segmentation.decode import PromptTensors

__all__ = ["PromptSimulator", "bounding_boxes"]

_BOX_NOISE = 0.04  # standard deviation of a box side, as a share of the box's size
_CLICKS_FIRST = 0.6  # how often the first prompt is a click, which is harder than a box
_FEEDBACK = 0.5  # how often the previous mask is a prompt too


@dataclass(frozen=True)
class PromptSimulator:
    """A user who prompts objects given by their true masks.

    Masks are tensors ``(B, H, W)`` in model pixels, prompts are in model pixels too, in
    SAM's order ``(x, y)``.

    Attributes
    ----------
    generator
        Source of all random choices.
    corner
        ``(x, y)`` of the masks' first pixel in the model's frame, for crops.
    """

    generator: torch.Generator
    corner: tuple[float, float] = (0.0, 0.0)

    def clicks(self, region: Tensor) -> Tensor:
        """Return a random pixel ``(B, 2)`` of each region, off its very border if it can be."""
        weights = _core(region).flatten(1).float() + 1e-9
        index = torch.multinomial(weights.cpu(), 1, generator=self.generator)[:, 0]
        width = region.shape[-1]
        points = torch.stack([index % width, index // width], dim=1).float()
        return (points + torch.tensor(self.corner)).to(region.device)

    def boxes(self, masks: Tensor) -> Tensor:
        """Return bounding boxes ``(B, 4)`` as a hand draws them: each side a little off."""
        boxes = bounding_boxes(masks)
        size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        noise = torch.randn(boxes.shape, generator=self.generator).clamp(-2, 2)
        shift = torch.tensor(self.corner).repeat(2) - 0.5
        return boxes + noise.to(masks.device) * _BOX_NOISE * size + shift.to(masks.device)

    def first(self, masks: Tensor) -> PromptTensors:
        """Give every object of the batch a click, or every one a box.

        The kind is drawn per batch: SAM's prompt encoder takes one layout at a time.
        """
        if torch.rand((), generator=self.generator) < _CLICKS_FIRST:
            points = self.clicks(masks)[:, None]
            return PromptTensors(points=points, labels=torch.ones_like(points[..., 0]))
        return PromptTensors(boxes=self.boxes(masks))

    def correct(
        self,
        prompts: PromptTensors,
        answer: Tensor,
        low_resolution: Tensor,
        masks: Tensor,
        known: Tensor | None = None,
    ) -> PromptTensors:
        """Add a click on each object's larger kind of error; sometimes feed the answer back.

        Parameters
        ----------
        prompts
            What was said so far.
        answer
            ``(B, H, W)`` logits of the mask that the user sees.
        low_resolution
            ``(B, 1, 4 h, 4 w)`` the same as the decoder gave it.
        masks
            ``(B, H, W)`` the truth.
        known
            ``(B, H, W)`` boolean; errors elsewhere are nobody's to judge. Default: all.
        """
        missed, excess = masks & (answer <= 0), ~masks & (answer > 0)
        if known is not None:
            excess = excess & known
        positive = missed.flatten(1).sum(1) >= excess.flatten(1).sum(1)
        region = torch.where(positive[:, None, None], missed, excess)
        perfect = ~region.flatten(1).any(1)
        region = torch.where(perfect[:, None, None], masks, region)
        points = self.clicks(region)[:, None]
        labels = (positive | perfect).float()[:, None]
        if prompts.points is not None and prompts.labels is not None:
            points = torch.cat([prompts.points, points], dim=1)
            labels = torch.cat([prompts.labels, labels], dim=1)
        fed_back = None
        if torch.rand((), generator=self.generator) < _FEEDBACK:
            fed_back = low_resolution.detach().float().clamp(-32, 32)
        return PromptTensors(points, labels, prompts.boxes, fed_back)


def bounding_boxes(masks: Tensor) -> Tensor:
    """Return half-open boxes ``(B, 4)``, ``(x0, y0, x1, y1)`` in pixel edges."""
    columns, rows = masks.any(1), masks.any(2)
    x0, y0 = columns.float().argmax(1), rows.float().argmax(1)
    x1 = columns.shape[1] - columns.flip(1).float().argmax(1)
    y1 = rows.shape[1] - rows.flip(1).float().argmax(1)
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def _core(masks: Tensor) -> Tensor:
    """Erode by one pixel wherever something remains."""
    outside = functional.pad((~masks).float(), (1, 1, 1, 1), value=1.0)
    eroded = masks & (functional.max_pool2d(outside, 3, stride=1) == 0)
    empty = ~eroded.flatten(1).any(1)
    return torch.where(empty[:, None, None], masks, eroded)
