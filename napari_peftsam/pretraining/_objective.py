"""One pretraining step's loss: prompted masks in two rounds, and the dense head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.models import SamModel, encode_tensor
from napari_peftsam.models.preprocess import standardise
from napari_peftsam.pretraining._data import Batch
from napari_peftsam.pretraining._losses import dense_loss, prompted_loss
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training.prompts import Grid, PromptSimulator

__all__ = ["pretraining_loss"]


def pretraining_loss(
    model: SamModel, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch and what it consists of.

    Parameters
    ----------
    model
        On the device of the batch.
    batch
        Crops and their objects.
    generator
        Of the prompts, on the CPU.
    """
    sam, head = model.sam, model.dense_head
    assert head is not None
    features = encode_tensor(sam, standardise(batch.images, model))
    logits = functional.interpolate(head(features).float(), batch.dense.shape[-2:], mode="bilinear")
    dense = dense_loss(logits, batch.dense)
    objects = batch.masks.shape[1]
    repeated = features.repeat_interleave(objects, dim=0)
    offset = _random_offset(model, features.shape[-1], generator)
    patch = model.architecture.patch_size
    corner = (float(offset[1] * patch), float(offset[0] * patch))
    user = PromptSimulator(generator, Grid.at(corner))
    prompts, meant = _first_prompts(user, batch, generator)
    target = meant[:, None]
    levels = _possible(batch.levels.flatten(0, 1), prompts, corner, meant)
    answers = _answer(model, repeated, prompts, offset, target)
    first = prompted_loss(answers.logits, answers.scores, target, levels)
    corrected = user.correct(prompts, *answers.shown(), meant)
    answers = _answer(model, repeated, corrected, offset, target)
    second = prompted_loss(answers.logits, answers.scores, target)
    loss = first + second + dense
    return loss, {"first": first.item(), "second": second.item(), "dense": dense.item()}


def _first_prompts(
    user: PromptSimulator, batch: Batch, generator: torch.Generator
) -> tuple[PromptTensors, Tensor]:
    """Return first prompts and the masks ``(B K, side, side)`` they mean.

    In a crop without an object they point at the background, and mean an empty mask.
    """
    objects = batch.masks.shape[1]
    masks = batch.masks.flatten(0, 1)
    foreground = (batch.dense[:, 0] > 0).repeat_interleave(objects, dim=0)
    present = masks.flatten(1).any(1)[:, None, None]
    if not present.all():
        masks = torch.where(present, masks, _discs(masks, generator))
    prompts, meant = user.first_with_surroundings(masks, foreground)
    return prompts, meant & present


def _discs(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random disc for each mask, of the sizes that objects have."""
    count, side = len(masks), masks.shape[-1]
    middle = torch.rand(2, count, 1, 1, generator=generator) * side
    radius = 3 + torch.rand(count, 1, 1, generator=generator) ** 2 * side / 6
    axis = torch.arange(side)
    # The pixel at the middle belongs to it wherever the disc is cut off.
    y, x = (axis.view(shape) - middle[n].floor() for n, shape in enumerate(((-1, 1), (1, -1))))
    return (y**2 + x**2 <= radius**2).to(masks.device)


def _possible(
    levels: Tensor, prompts: PromptTensors, corner: tuple[float, float], meant: Tensor
) -> Tensor | None:
    """Return the levels ``(B, 3, H, W)`` that each first prompt may mean; None if none is open.

    Only one click alone is ambiguous, and only between levels that contain it.
    """
    if prompts.boxes is not None or prompts.points is None or prompts.points.shape[1] != 1:
        return None
    if not levels.any():
        return None
    at = (prompts.points[:, 0] - prompts.points.new_tensor(corner)).round().long()
    column, row = at.clamp(0, levels.shape[-1] - 1).unbind(1)
    hit = levels[torch.arange(len(levels), device=levels.device), :, row, column]
    hit = hit & meant.flatten(1).any(1)[:, None]
    return levels & hit[:, :, None, None]


def _random_offset(model: SamModel, grid: int, generator: torch.Generator) -> tuple[int, int]:
    free = model.architecture.grid - grid + 1
    row, col = torch.randint(free, (2,), generator=generator).tolist()
    return row, col


@dataclass(frozen=True, eq=False)
class _Answers:
    """The decoder's outputs for one round of prompts.

    Attributes
    ----------
    low
        ``(B, 4, 4 h, 4 w)`` logits as the decoder gives them.
    logits
        ``(B, 4, H, W)`` the same at the size of the target.
    scores
        ``(B, 4)`` predicted IoU.
    """

    low: Tensor
    logits: Tensor
    scores: Tensor

    def shown(self) -> tuple[Tensor, Tensor]:
        """Return the best mask ``(B, H, W)``, and ``(B, 1, 4 h, 4 w)`` as the decoder gave it."""
        best = self.scores.argmax(1)
        rows = torch.arange(len(best), device=best.device)
        return self.logits.detach()[rows, best], self.low[rows, best][:, None]


def _answer(
    model: SamModel,
    features: Tensor,
    prompts: PromptTensors,
    offset: tuple[int, int],
    target: Tensor,
) -> _Answers:
    low, scores = decode(model.sam, features, prompts, offset)
    logits = functional.interpolate(low.float(), target.shape[-2:], mode="bilinear")
    return _Answers(low, logits, scores)
