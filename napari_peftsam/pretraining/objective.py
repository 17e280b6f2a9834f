"""The loss of a step: masks and scores after prompts and corrections, and the dense head."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.models import SamModel, encode_tensor, standardise
from napari_peftsam.pretraining.data import Batch
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training.dense import dense_loss
from napari_peftsam.training.losses import mask_iou
from napari_peftsam.training.prompts import PromptSimulator, dilated

_FAR = 6  # pixels: foreground farther from the object is an island
_DEEP = 3  # pixels: background deeper inside the object is a hole
_LEAST_AREA = 64.0  # pixels: islands of an object this small, or of none, count as if it were so
_COMPACTNESS = 0.5
_SCORES = 2.0
_ROUNDS = (1, 1, 2, 3, 5, 8)  # of corrections, one of these at random
_CLICKS = (1, 1, 1, 5)  # at most in a correction, one of these at random: people click once
_CORRECTED = 0.05  # worth of what a correction was meant to change


def pretraining_loss(
    model: SamModel, batch: Batch, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch and its terms; `generator`, on the CPU, draws the prompts."""
    sam, head = model.sam, model.dense_head
    assert head is not None
    features = encode_tensor(sam, standardise(batch.images, model))
    logits = functional.interpolate(head(features).float(), batch.dense.shape[-2:], mode="bilinear")
    dense = dense_loss(logits, batch.dense)
    objects = batch.masks.shape[1]
    repeated = features.repeat_interleave(objects, dim=0)
    free = model.architecture.grid - features.shape[-1] + 1
    row, col = torch.randint(free, (2,), generator=generator).tolist()
    offset, patch = (row, col), model.architecture.patch_size
    corner = (float(col * patch), float(row * patch))
    most = _CLICKS[int(torch.randint(len(_CLICKS), (), generator=generator))]
    user = PromptSimulator(generator, torch.tensor([corner]), most=most)
    prompts, meant = first_prompts(user, batch, generator)
    target = meant[:, None]
    levels = possible_levels(batch.levels.flatten(0, 1), prompts, corner, meant)
    low, scores = decode(sam, repeated, prompts, offset)
    logits = functional.interpolate(low.float(), target.shape[-2:], mode="bilinear")
    first = prompted_loss(logits, scores, target, levels)
    rounds = _ROUNDS[int(torch.randint(len(_ROUNDS), (), generator=generator))]
    corrected: list[tuple[Tensor, Tensor]] = []
    for number in range(1, rounds + 1):
        best = _best(scores)
        answer = logits.detach()[best]
        prompts = user.correct(prompts, answer, low[best][:, None], meant)
        # Of corrections in between only the answers are needed, but they cost a refiner little.
        learned = number == rounds or not features.requires_grad
        with torch.set_grad_enabled(learned):
            low, scores = decode(sam, repeated, prompts, offset)
            logits = functional.interpolate(low.float(), target.shape[-2:], mode="bilinear")
        if learned:
            shown = logits[:, 0], logits[_best(scores)]
            changed = torch.stack([correction_loss(each, answer, meant) for each in shown]).sum()
            corrected.append((prompted_loss(logits, scores, target), _CORRECTED * changed))
    second, honoured = (torch.stack(terms).mean() for terms in zip(*corrected, strict=True))
    loss = first + second + honoured + dense
    parts = {"first": first, "second": second, "honoured": honoured, "dense": dense}
    return loss, {name: part.item() for name, part in parts.items()}


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index of each object's output of the highest score."""
    return torch.arange(len(scores), device=scores.device), scores.argmax(1)


def correction_loss(logits: Tensor, before: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy where the mask before a correction was wrong.

    A correction of a small part changes a mask little, and its Dice hardly: here all corrections
    count the same. Wrong seams along a boundary, less than three pixels wide, do not count.

    Parameters
    ----------
    logits, before
        ``(B, H, W)``, after and before the correction.
    target
        ``(B, H, W)`` boolean.
    """
    wrong = (before > 0) != target
    wrong = dilated(~dilated(~wrong, 1), 1) & wrong
    each = functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    area = wrong.flatten(1).sum(1)
    mean = (each * wrong).flatten(1).sum(1) / area.clamp(min=1)
    return mean.sum() / (area > 0).sum().clamp(min=1)


def first_prompts(
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


def possible_levels(
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


def prompted_loss(
    logits: Tensor, scores: Tensor, target: Tensor, levels: Tensor | None = None
) -> Tensor:
    """Return the loss of all four outputs, averaged over objects.

    Output 0 is always trained on the target. Of the three alternatives the best one is, so
    that they stay different; where the click is ambiguous, each is trained on its level
    instead: part, whole, group.

    Parameters
    ----------
    logits, scores
        ``(B, 4, H, W)`` and predicted IoU ``(B, 4)`` from `napari_peftsam.segmentation.decode`.
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
        pairs = logits[several, 1:].flatten(0, 1)[:, None], levels[several].flatten(0, 1)[:, None]
        by_level = alternatives.new_zeros(len(logits), 3)
        by_level[several] = compact_mask_loss(*pairs).view(-1, 3)
        mean = (by_level * possible).sum(1) / possible.sum(1).clamp(min=1)
        alternatives = torch.where(several, mean, alternatives)
    true_iou = mask_iou(logits.detach(), target)
    return (losses[:, 0] + alternatives + _SCORES * _score_loss(scores.float(), true_iou)).mean()


def _score_loss(scores: Tensor, true_iou: Tensor) -> Tensor:
    """Return the squared error of the scores, and of their differences within an object.

    The candidate shown first is chosen by these differences, which are small beside those
    between easy and hard objects.
    """
    error = scores - true_iou
    within = error[:, 1:] - error[:, 1:].mean(1, keepdim=True)
    return error.square().mean(1) + 2 * within.square().mean(1)


def compact_mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return Dice + cross-entropy + the cost of islands and holes, one value per mask.

    The logits are ``(B, N, H, W)``, the boolean target is ``(B, 1, H, W)``.
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
