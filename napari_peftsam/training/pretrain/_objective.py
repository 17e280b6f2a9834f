"""One pretraining step's loss: prompted masks in two rounds, and the dense head."""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from napari_peftsam.models import SamModel
from napari_peftsam.models.preprocess import standardise
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training.losses import promptable_loss
from napari_peftsam.training.pretrain._data import Batch
from napari_peftsam.training.prompts import PromptSimulator

__all__ = ["encode_crops", "pretraining_loss"]

# Corrections between two rounds: several, so that few rounds show the decoder many clicks.
_CLICKS_AT_ONCE = 4


def encode_crops(encoder: ImageEncoderViT, x: Tensor) -> Tensor:
    """Encode crops as parts of the full frame.

    SAM's attention *interpolates* relative positions when the grid is not the one it
    was built for. A crop must use the central ones instead: a distance of one token
    stays one token.
    """
    tokens = x.shape[-1] // (encoder.img_size // _full_grid(encoder))
    sliced = {}
    for name, parameter in encoder.named_parameters():
        if ".rel_pos_" in name and encoder.blocks[int(name.split(".")[1])].window_size == 0:
            centre = parameter.shape[0] // 2
            sliced[name] = parameter[centre - tokens + 1 : centre + tokens]
    embedding: Tensor = functional_call(encoder, sliced, (x,))
    return embedding


def _full_grid(encoder: ImageEncoderViT) -> int:
    block = next(b for b in encoder.blocks if b.window_size == 0)
    return (int(block.attn.rel_pos_h.shape[0]) + 1) // 2


def pretraining_loss(
    model: SamModel, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch and what it consists of."""
    sam, head = model.sam, model.dense_head
    assert head is not None
    features = encode_crops(sam.image_encoder, standardise(batch.images, model))
    dense_loss = _dense_loss(head, features, batch.dense)
    objects = batch.masks.shape[1]
    repeated = features.repeat_interleave(objects, dim=0)
    target = batch.masks.flatten(0, 1)[:, None]
    offset = _random_offset(model, features.shape[-1], generator)
    patch = model.architecture.patch_size
    user = PromptSimulator(generator, (float(offset[1] * patch), float(offset[0] * patch)))
    prompts = user.first(target[:, 0])
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
    rows = torch.arange(len(best))
    answer, fed_back = logits.detach()[rows, best], low[rows, best][:, None]
    following = prompts
    for _ in range(int(torch.randint(1, _CLICKS_AT_ONCE + 1, (), generator=user.generator))):
        following = user.correct(following, answer, fed_back, target[:, 0])
    return promptable_loss(logits, scores, target), following


def _dense_loss(head: nn.Module, features: Tensor, dense: Tensor) -> Tensor:
    logits = functional.interpolate(head(features).float(), dense.shape[-2:], mode="bilinear")
    foreground = functional.binary_cross_entropy_with_logits(logits[:, 0], dense[:, 0])
    distance = functional.l1_loss(logits[:, 1].sigmoid(), dense[:, 1])
    boundary = functional.binary_cross_entropy_with_logits(logits[:, 2], dense[:, 2])
    return foreground + distance + boundary
