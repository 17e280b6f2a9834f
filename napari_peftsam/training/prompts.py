"""Simulated prompts, as in SAM's training: first a click or a box, then corrections."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.segmentation.decode import PromptTensors

_BOX_NOISE = 0.04  # standard deviation of a box side, as a share of the box's size
_CLICKS_FIRST = 0.6  # how often the first prompt is a click, which is harder than a box
_DENYING_FIRST = 0.15  # how often it comes with a negative click next to the object
_BESIDE_SHARE = 0.15  # how many lone clicks hit the background beside the object
_FEEDBACK = 0.7  # how often the previous mask is a prompt too
_MOST_CORRECTIONS = 5  # between two rounds: few rounds show the decoder many clicks
# How often a click goes to the middle of its region, where most people (and the usual
# simulated annotator) put it. Pixels are drawn by the cube of their depth.
_CENTRAL = 0.5
_CENTRALITY = 3
_DEEPEST = 8  # pixels: deeper ones count as equally central
_BESIDE = 8  # pixels: how far beside an object its surroundings reach
_GAP = 2  # pixels: nearer to an object, a click on the background may be meant for it


@dataclass(frozen=True, eq=False)
class PromptSimulator:
    """A user who prompts objects given by their true masks.

    Masks are tensors ``(B, H, W)``; prompts are in model pixels, in SAM's order ``(x, y)``.

    Attributes
    ----------
    generator
        Source of all random choices.
    origin, spacing
        ``(B, 2)``, or ``(1, 2)`` for all objects: ``(x, y)`` of the centre of a mask's first
        pixel in the model's frame, and of the distance between pixels.
    most
        The most clicks of one correction.
    """

    generator: torch.Generator
    origin: Tensor = field(default_factory=lambda: torch.zeros(1, 2))
    spacing: Tensor = field(default_factory=lambda: torch.ones(1, 2))
    most: int = _MOST_CORRECTIONS

    def clicks(self, region: Tensor, count: int = 1) -> Tensor:
        """Return random pixels ``(B, count, 2)`` of each region, off its border if they can be."""
        central = float(torch.rand((), generator=self.generator)) < _CENTRAL
        deep = depth(region, _DEEPEST if central else 2)
        deeper = (deep - 1).clamp(min=0) ** _CENTRALITY
        weights = torch.where(deeper.amax((1, 2), keepdim=True) > 0, deeper, deep)
        return self._drawn(weights, count)

    def _drawn(self, weights: Tensor, count: int = 1) -> Tensor:
        """Return points ``(B, count, 2)`` drawn by the weight of pixels ``(B, H, W)``."""
        index = torch.multinomial(
            weights.flatten(1).cpu(), count, replacement=True, generator=self.generator
        )
        width = weights.shape[-1]
        return self._points(index % width, index // width).to(weights.device)

    def _points(self, columns: Tensor, rows: Tensor) -> Tensor:
        """Return points ``(B, N, 2)`` in model pixels of indices ``(B, N)``."""
        index = torch.stack([columns, rows], dim=-1)
        return self.origin[:, None] + index * self.spacing[:, None]

    def boxes(self, tight: Tensor) -> Tensor:
        """Move each side of tight boxes ``(B, 4)`` in model pixels a little, as a hand does."""
        size = (tight[:, 2:] - tight[:, :2]).repeat(1, 2)
        noise = torch.randn(tight.shape, generator=self.generator).clamp(-2, 2)
        return tight + noise.to(tight.device) * _BOX_NOISE * size

    def first(self, masks: Tensor, tight: Tensor | None = None) -> PromptTensors:
        """Give every object of the batch a click, or every one a box.

        The kind is drawn per batch: SAM's prompt encoder takes one layout at a time. `tight` are
        bounding boxes ``(B, 4)`` in model pixels; default: those of the masks.
        """
        if torch.rand((), generator=self.generator) < _CLICKS_FIRST:
            points = self.clicks(masks)
            return PromptTensors(points=points, labels=torch.ones_like(points[..., 0]))
        return PromptTensors(boxes=self.boxes(self._tight(masks) if tight is None else tight))

    def first_with_surroundings(
        self, masks: Tensor, foreground: Tensor
    ) -> tuple[PromptTensors, Tensor]:
        """Return first prompts as `first`, some of which deny, and the masks they mean.

        Besides clicks and boxes there are clicks with a second, negative one next to the
        object, on what touches it if anything does; and some clicks hit the background
        beside an object, where an empty mask is right. `foreground` ``(B, H, W)`` holds all
        objects of each mask's image.
        """
        kind = float(torch.rand((), generator=self.generator))
        if kind < _DENYING_FIRST:
            return self._deny(masks, foreground), masks
        prompts = self.first(masks)
        if prompts.points is None:
            return prompts, masks
        empty = dilated(masks, _BESIDE) & ~dilated(foreground, _GAP)
        drawn = torch.rand(len(masks), generator=self.generator).to(masks.device)
        beside = (drawn < _BESIDE_SHARE) & empty.flatten(1).any(1)
        region = torch.where(beside[:, None, None], empty, masks)
        points = torch.where(beside[:, None, None], self.clicks(region), prompts.points)
        return PromptTensors(points, prompts.labels), masks & ~beside[:, None, None]

    def _tight(self, masks: Tensor) -> Tensor:
        """Return the bounding boxes ``(B, 4)`` of the masks in model pixels."""
        edges = bounding_boxes(masks).cpu().unflatten(1, (2, 2)) - 0.5
        return self._points(edges[..., 0], edges[..., 1]).flatten(1).to(masks.device)

    def _deny(self, masks: Tensor, foreground: Tensor) -> PromptTensors:
        """Give every object a click, and one beside it where there is something beside it."""
        near = dilated(masks, _BESIDE) & ~masks
        others = near & foreground
        touching = others.flatten(1).any(1)[:, None, None]
        region = torch.where(touching, others, near & ~dilated(masks, _GAP))
        alone = ~region.flatten(1).any(1)
        region = torch.where(alone[:, None, None], masks, region)
        points = torch.cat([self.clicks(masks), self.clicks(region)], dim=1)
        labels = torch.ones_like(points[..., 0])
        labels[:, 1] = alone.float()
        return PromptTensors(points, labels)

    def correct(
        self, prompts: PromptTensors, answer: Tensor, low_resolution: Tensor, masks: Tensor
    ) -> PromptTensors:
        """Add clicks on each object's larger kind of error; often feed the answer back.

        All objects get the same number of clicks, from one to `most`.

        Parameters
        ----------
        prompts
            Prompts so far.
        answer
            ``(B, H, W)`` logits of the mask that the user sees.
        low_resolution
            ``(B, 1, 4 h, 4 w)`` the same as the decoder gave it; it may be on another device.
        masks
            ``(B, H, W)`` true masks.
        """
        missed, excess = masks & (answer <= 0), ~masks & (answer > 0)
        positive = missed.flatten(1).sum(1) >= excess.flatten(1).sum(1)
        region = torch.where(positive[:, None, None], missed, excess)
        perfect = ~region.flatten(1).any(1)
        empty = ~masks.flatten(1).any(1)  # there is nothing: all that can be said is "not here"
        right = torch.where(empty[:, None, None], ~masks, masks)
        region = torch.where(perfect[:, None, None], right, region)
        positive = torch.where(perfect, ~empty, positive)
        count = int(torch.randint(1, self.most + 1, (), generator=self.generator))
        points = self.clicks(region, count)
        labels = positive.float()[:, None].expand(-1, count)
        return self._added(prompts, points, labels, low_resolution, _FEEDBACK)

    def _added(
        self,
        prompts: PromptTensors,
        points: Tensor,
        labels: Tensor,
        low_resolution: Tensor,
        feedback: float,
    ) -> PromptTensors:
        """Add points to the prompts, and with a probability the mask that was the answer."""
        if prompts.points is not None and prompts.labels is not None:
            points = torch.cat([prompts.points, points], dim=1)
            labels = torch.cat([prompts.labels, labels], dim=1)
        fed_back = None
        if torch.rand((), generator=self.generator) < feedback:
            fed_back = low_resolution.detach().float().clamp(-32, 32)
        return PromptTensors(points, labels, prompts.boxes, fed_back)


_TRAINER_BOX = 0.025  # of a box's size, at most: how far PEFT-SAM's trainer moves a side outwards
_TRAINER_FEEDBACK = 0.5
_TRAINER_BESIDE = 3  # pixels: where it denies if nothing is too much


@dataclass(frozen=True, eq=False)
class PeftSamSimulator(PromptSimulator):
    """The user of PEFT-SAM's training (Teuber et al. 2025; micro-sam's `SamTrainer`).

    Attributes
    ----------
    box_first
        Whether the first prompt is a box: in every other step of the training.
    """

    box_first: bool = False

    def clicks(self, region: Tensor, count: int = 1) -> Tensor:
        """Return random pixels ``(B, count, 2)`` of each region, all alike."""
        return self._drawn(region.float(), count)

    def boxes(self, tight: Tensor) -> Tensor:
        """Move each side of tight boxes ``(B, 4)`` in model pixels outwards a little."""
        size = (tight[:, 2:] - tight[:, :2]).repeat(1, 2)
        share = torch.rand(tight.shape, generator=self.generator).to(tight.device) * _TRAINER_BOX
        return tight + share * size * tight.new_tensor([-1, -1, 1, 1])

    def first(self, masks: Tensor, tight: Tensor | None = None) -> PromptTensors:
        """Give every object a click, or every one a box, as `box_first` says."""
        if self.box_first:
            return PromptTensors(boxes=self.boxes(self._tight(masks) if tight is None else tight))
        points = self.clicks(masks)
        return PromptTensors(points=points, labels=torch.ones_like(points[..., 0]))

    def correct(
        self, prompts: PromptTensors, answer: Tensor, low_resolution: Tensor, masks: Tensor
    ) -> PromptTensors:
        """Add a click on what is missing and one on what is too much, see `PromptSimulator`.

        Where nothing is missing the first goes anywhere on the object, where nothing is too much
        the second goes beside it.
        """
        missed, excess = masks & (answer <= 0), ~masks & (answer > 0)
        wanted = _first_with_pixels(missed, masks)
        denied = _first_with_pixels(excess, _beside(masks), ~masks, masks)
        points = torch.cat([self.clicks(wanted), self.clicks(denied)], dim=1)
        labels = torch.ones_like(points[..., 0])
        labels[:, 1] = (denied & masks).flatten(1).any(1).float()  # an object without a background
        return self._added(prompts, points, labels, low_resolution, _TRAINER_FEEDBACK)


def _beside(masks: Tensor) -> Tensor:
    """Return the box around each of the masks ``(B, H, W)``, a little larger, without the mask."""
    x0, y0, x1, y1 = (edges[:, None] for edges in bounding_boxes(masks).unbind(1))
    rows, columns = (torch.arange(size, device=masks.device) for size in masks.shape[1:])
    high = (rows >= y0 - _TRAINER_BESIDE) & (rows < y1 + _TRAINER_BESIDE)
    wide = (columns >= x0 - _TRAINER_BESIDE) & (columns < x1 + _TRAINER_BESIDE)
    return high[:, :, None] & wide[:, None, :] & ~masks


def _first_with_pixels(*regions: Tensor) -> Tensor:
    """Return of each object the first of its regions ``(B, H, W)`` that is not empty."""
    *earlier, found = regions
    for region in reversed(earlier):
        found = torch.where(region.flatten(1).any(1)[:, None, None], region, found)
    return found


def bounding_boxes(masks: Tensor) -> Tensor:
    """Return half-open boxes ``(B, 4)``, ``(x0, y0, x1, y1)`` in pixel edges."""
    columns, rows = masks.any(1), masks.any(2)
    x0, y0 = columns.float().argmax(1), rows.float().argmax(1)
    x1 = columns.shape[1] - columns.flip(1).float().argmax(1)
    y1 = rows.shape[1] - rows.flip(1).float().argmax(1)
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def dilated(masks: Tensor, radius: int) -> Tensor:
    """Return the pixels within `radius` of each mask along both axes, ``(..., H, W)`` boolean."""
    # Pooling of floats would give the same, ten times slower on a CPU.
    grown = functional.pad(masks.bool(), (radius, radius, radius, radius))
    for axis in (-2, -1):
        size, whole = 1, 2 * radius + 1
        while size < whole:  # the union of two windows is a window of up to twice the size
            step = min(size, whole - size)
            length = grown.shape[axis] - step
            grown = grown.narrow(axis, 0, length) | grown.narrow(axis, step, length)
            size += step
    return grown


def depth(masks: Tensor, deepest: int) -> Tensor:
    """Return how many erosions each pixel survives, plus one; 0 outside of the masks.

    Pixels beyond the edge of masks ``(..., H, W)`` count as background; values end at `deepest`.
    """
    inside = masks.bool()
    found = inside.float()
    for _ in range(deepest - 1):
        inside = ~dilated(~functional.pad(inside, (1, 1, 1, 1)), 1)[..., 1:-1, 1:-1]
        if not inside.any():
            break
        found = found + inside
    return found
