"""Losses on mask logits, shared by pretraining and finetuning."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return Dice + binary cross-entropy, one value per mask.

    Parameters
    ----------
    logits
        ``(..., H, W)``.
    target
        ``(..., H, W)`` in [0, 1], broadcastable to the logits.
    """
    logits, target = torch.broadcast_tensors(logits.float(), target.float())
    probability = logits.sigmoid()
    pixelwise = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    overlap = (probability * target).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)
    return dice + pixelwise.mean((-2, -1))


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Return the IoU of the thresholded logits with the target, one value per mask."""
    predicted, truth = torch.broadcast_tensors(logits > 0, target > 0.5)
    overlap = (predicted & truth).sum((-2, -1)).float()
    iou: Tensor = overlap / (predicted | truth).sum((-2, -1)).clamp(min=1)
    return iou


def promptable_loss(logits: Tensor, scores: Tensor, target: Tensor) -> Tensor:
    """Return SAM's loss of all four outputs, averaged over objects.

    Of the three alternatives only the best one is trained (the minimum over their mask
    losses), so that they stay different; output 0 is always trained; every predicted IoU
    is regressed on the true one.

    Parameters
    ----------
    logits
        ``(B, 4, H, W)`` from `napari_peftsam.segmentation.decode`.
    scores
        ``(B, 4)`` predicted IoU.
    target
        ``(B, 1, H, W)``, see `mask_loss`.
    """
    losses = mask_loss(logits, target)
    true_iou = mask_iou(logits.detach(), target)
    score_loss = functional.mse_loss(scores.float(), true_iou, reduction="none").mean(1)
    return (losses[:, 0] + losses[:, 1:].amin(1) + score_loss).mean()


def dice_loss(logits: Tensor, scores: Tensor, target: Tensor) -> Tensor:
    """Return the loss of PEFT-SAM's trainer, averaged over objects.

    It is the Dice loss of the best mask, and the squared error of each predicted IoU. Source:
    Teuber et al. 2025 and `SamTrainer` of micro-sam, whose Dice has squares in the denominator.

    Parameters
    ----------
    logits
        ``(B, K, H, W)``: the three alternatives, or one mask.
    scores
        ``(B, K)`` predicted IoU.
    target
        ``(B, 1, H, W)``, see `mask_loss`.
    """
    target = target.float()
    probability = logits.float().sigmoid()
    overlap = (probability * target).sum((-2, -1))
    sizes = probability.square().sum((-2, -1)) + target.square().sum((-2, -1))
    dice = 1 - 2 * overlap / sizes.clamp(min=1e-7)
    score_loss = functional.mse_loss(scores.float(), mask_iou(logits.detach(), target))
    return dice.amin(1).mean() + score_loss
