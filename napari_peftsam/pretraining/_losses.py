"""Losses of the pretraining: masks, alternatives of an ambiguous click, scores, dense head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.training.losses import mask_iou
from napari_peftsam.training.prompts import dilated

__all__ = ["compact_mask_loss", "dense_loss", "prompted_loss"]

_FAR = 6  # pixels: foreground farther from the object is an island
_DEEP = 3  # pixels: background deeper inside the object is a hole
_LEAST_AREA = 64.0  # pixels: islands of an object this small, or of none, count as if it were so
_COMPACTNESS = 0.5
_SCORES = 2.0
_RIM = 2  # pixels: nearer to a boundary, the foreground counts `_RIM_WEIGHT` times
_RIM_WEIGHT = 5.0


def prompted_loss(
    logits: Tensor, scores: Tensor, target: Tensor, levels: Tensor | None = None
) -> Tensor:
    """Return the loss of all four outputs, averaged over objects.

    Output 0 is always trained on the target. Of the three alternatives the best one is, so
    that they stay different; where the click is ambiguous, each is trained on its level
    instead: part, whole, group.

    Parameters
    ----------
    logits
        ``(B, 4, H, W)`` from `napari_peftsam.segmentation.decode`.
    scores
        ``(B, 4)`` predicted IoU.
    target
        ``(B, 1, H, W)`` boolean.
    levels
        ``(B, 3, H, W)`` boolean: masks that the prompt may mean, all False for a level that
        it cannot mean. Default: no prompt is ambiguous.
    """
    losses = compact_mask_loss(logits, target)
    alternatives = losses[:, 1:].amin(1)
    if levels is not None:
        possible = levels.flatten(2).any(2)
        # One level alone is no ambiguity: the best output may answer it.
        several = possible.sum(1) > 1
        by_level = alternatives.new_zeros(len(logits), 3)
        by_level[several] = _of_levels(logits[several, 1:], levels[several])
        mean = (by_level * possible).sum(1) / possible.sum(1).clamp(min=1)
        alternatives = torch.where(several, mean, alternatives)
    true_iou = mask_iou(logits.detach(), target)
    return (losses[:, 0] + alternatives + _SCORES * _score_loss(scores.float(), true_iou)).mean()


def _of_levels(logits: Tensor, levels: Tensor) -> Tensor:
    """Return the loss ``(B, 3)`` of each alternative ``(B, 3, H, W)`` against its own level."""
    pairs = logits.flatten(0, 1)[:, None], levels.flatten(0, 1)[:, None]
    return compact_mask_loss(*pairs).view(-1, levels.shape[1])


def _score_loss(scores: Tensor, true_iou: Tensor) -> Tensor:
    """Return the squared error of the scores, and of their differences within an object.

    The candidate shown first is chosen by these differences, which are small beside those
    between easy and hard objects.
    """
    error = scores - true_iou
    within = error[:, 1:] - error[:, 1:].mean(1, keepdim=True)
    return error.square().mean(1) + 2 * within.square().mean(1)


def compact_mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return Dice + cross-entropy + what islands and holes are worth, one value per mask.

    Parameters
    ----------
    logits
        ``(B, N, H, W)``.
    target
        ``(B, 1, H, W)`` boolean.
    """
    far, deep = ~dilated(target, _FAR), ~dilated(~target, _DEEP)
    # Half precision would round areas to the nearest hundred pixels.
    with torch.autocast(logits.device.type, enabled=False):
        # One product with these masks gives all sums over pixels.
        masks = torch.cat([target, far, deep], dim=1).flatten(2).float().mT
        area, _, core = masks.sum(1)[:, None].unbind(2)
        flat = logits.float().flatten(2)
        probability = flat.sigmoid()
        overlap, islands, filled = (probability @ masks).unbind(2)
        dice = 1 - (2 * overlap + 1) / (probability.sum(2) + area + 1)
        said = (flat @ masks[..., :1]).squeeze(2)
        cross_entropy = (functional.softplus(flat).sum(2) - said) / flat.shape[2]
        worth = (islands + core - filled) / area.clamp(min=_LEAST_AREA)
        return dice + cross_entropy + _COMPACTNESS * worth / (1 + worth)


def dense_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of the dense head.

    Parameters
    ----------
    logits
        ``(B, 3, H, W)``, see `napari_peftsam.models.DenseHead`.
    target
        ``(B, 3, H, W)``: foreground, depth, boundary.
    """
    foreground, depth, boundary = target.unbind(1)
    rim = dilated(boundary > 0, _RIM)
    weight = 1 + (_RIM_WEIGHT - 1) * rim
    pixelwise = functional.binary_cross_entropy_with_logits(
        logits[:, 0], foreground, reduction="none"
    )
    return (
        (pixelwise * weight).sum() / weight.sum()
        + functional.l1_loss(logits[:, 1].sigmoid(), depth)
        + functional.binary_cross_entropy_with_logits(logits[:, 2], boundary)
    )
