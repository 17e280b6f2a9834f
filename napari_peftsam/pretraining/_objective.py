"""One pretraining step's loss: prompted masks in two rounds, and the dense head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_peftsam.models import SamModel, encode_tensor
from napari_peftsam.models.preprocess import standardise
from napari_peftsam.pretraining._data import Batch
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training.losses import promptable_loss
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
    dense_loss = _dense_loss(head, features, batch.dense)
    objects = batch.masks.shape[1]
    repeated = features.repeat_interleave(objects, dim=0)
    masks = batch.masks.flatten(0, 1)
    foreground = (batch.dense[:, 0] > 0).repeat_interleave(objects, dim=0)
    offset = _random_offset(model, features.shape[-1], generator)
    patch = model.architecture.patch_size
    corner = (float(offset[1] * patch), float(offset[0] * patch))
    user = PromptSimulator(generator, Grid.at(corner))
    prompts, meant = user.first_with_surroundings(masks, foreground)
    target = meant[:, None]
    first, corrected = _round(model, repeated, prompts, offset, target, user)
    second, _ = _round(model, repeated, corrected, offset, target, user)
    loss = first + second + dense_loss
    parts = {"first": first.item(), "second": second.item(), "dense": dense_loss.item()}
    return loss, parts


def _random_offset(model: SamModel, grid: int, generator: torch.Generator) -> tuple[int, int]:
    free = model.architecture.grid - grid + 1
    row, col = torch.randint(free, (2,), generator=generator).tolist()
    return row, col


def _round(
    model: SamModel,
    features: Tensor,
    prompts: PromptTensors,
    offset: tuple[int, int],
    target: Tensor,
    user: PromptSimulator,
) -> tuple[Tensor, PromptTensors]:
    """Return the loss of one round of prompts, and the prompts of the next one."""
    low, scores = decode(model.sam, features, prompts, offset)
    logits = functional.interpolate(low.float(), target.shape[-2:], mode="bilinear")
    best = scores.argmax(1)
    rows = torch.arange(len(best), device=best.device)
    answer, fed_back = logits.detach()[rows, best], low[rows, best][:, None]
    following = user.correct(prompts, answer, fed_back, target[:, 0])
    return promptable_loss(logits, scores, target), following


def _dense_loss(head: nn.Module, features: Tensor, dense: Tensor) -> Tensor:
    logits = functional.interpolate(head(features).float(), dense.shape[-2:], mode="bilinear")
    foreground = functional.binary_cross_entropy_with_logits(logits[:, 0], dense[:, 0])
    distance = functional.l1_loss(logits[:, 1].sigmoid(), dense[:, 1])
    boundary = functional.binary_cross_entropy_with_logits(logits[:, 2], dense[:, 2])
    return foreground + distance + boundary
