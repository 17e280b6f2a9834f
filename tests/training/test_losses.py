"""The losses, against what they must be in simple cases."""

from __future__ import annotations

import pytest
import torch

from napari_peftsam.training.losses import dice_loss, mask_iou, mask_loss, promptable_loss

SURE = 40.0


def _square(start: int, stop: int) -> torch.Tensor:
    mask = torch.zeros(16, 16)
    mask[start:stop, start:stop] = 1
    return mask


def test_a_perfect_mask_costs_nothing() -> None:
    target = _square(4, 12)
    assert mask_loss((target - 0.5) * 2 * SURE, target).item() == pytest.approx(0, abs=1e-4)


def test_an_inverted_mask_costs_dice_one_and_its_cross_entropy() -> None:
    target = _square(4, 12)
    loss = mask_loss((0.5 - target) * 2 * SURE, target).item()
    assert loss == pytest.approx(1 + SURE, rel=0.01)


@pytest.mark.parametrize(
    ("predicted", "truth", "iou"),
    [
        ((0, 8), (0, 8), 1.0),
        ((0, 8), (0, 4), 0.25),
        ((0, 4), (8, 12), 0.0),
        ((0, 0), (0, 0), 0.0),
    ],
    ids=["same", "quarter", "apart", "both empty"],
)
def test_iou(predicted: tuple[int, int], truth: tuple[int, int], iou: float) -> None:
    logits = (_square(*predicted) - 0.5) * 2
    assert mask_iou(logits, _square(*truth)).item() == pytest.approx(iou)


def test_only_the_best_alternative_is_trained_but_every_score() -> None:
    target = _square(4, 12)[None, None]
    logits = torch.zeros(1, 4, 16, 16)
    logits[:, 2] = (target[:, 0] - 0.5) * 2
    logits.requires_grad_()
    scores = torch.zeros(1, 4, requires_grad=True)
    promptable_loss(logits, scores, target).backward()
    assert logits.grad is not None
    assert scores.grad is not None
    trained = logits.grad.abs().sum((0, 2, 3)) > 0
    assert trained.tolist() == [True, False, True, False]
    # output 2 alone has a true IoU above 0, so it alone is pulled up
    assert (scores.grad < 0).tolist() == [[False, False, True, False]]


def _reference(logits: torch.Tensor, scores: torch.Tensor, target: torch.Tensor) -> float:
    """Return the loss of micro-sam's `SamTrainer`, object by object and mask by mask."""
    dice_of_objects, errors = [], []
    for object_, (masks, truth) in enumerate(zip(logits, target, strict=True)):
        dice = []
        for mask, logit in enumerate(masks):
            p, t = logit.sigmoid().flatten(), truth.flatten()
            dice.append(1 - 2 * (p @ t) / (p @ p + t @ t))
            predicted, true = logit > 0, truth[0] > 0.5
            iou = (predicted & true).sum() / (predicted | true).sum()
            errors.append((scores[object_, mask] - iou) ** 2)
        dice_of_objects.append(min(dice))
    return float(sum(dice_of_objects) / len(dice_of_objects) + sum(errors) / len(errors))


@pytest.mark.parametrize("masks", [1, 3])
def test_the_dice_loss_is_that_of_peft_sams_trainer(masks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.stack([_square(2, 9), _square(4, 12)])[:, None]
    logits = torch.randn(2, masks, 16, 16, generator=generator)
    scores = torch.rand(2, masks, generator=generator)
    found = dice_loss(logits, scores, target).item()
    assert found == pytest.approx(_reference(logits, scores, target), rel=1e-5)


def test_the_dice_loss_trains_the_best_mask_and_every_score() -> None:
    target = _square(4, 12)[None, None]
    logits = torch.zeros(1, 3, 16, 16)
    logits[:, 1] = (target[:, 0] - 0.5) * 2
    logits.requires_grad_()
    scores = torch.full((1, 3), 0.5, requires_grad=True)
    dice_loss(logits, scores, target).backward()
    assert logits.grad is not None
    assert scores.grad is not None
    assert (logits.grad.abs().sum((0, 2, 3)) > 0).tolist() == [False, True, False]
    assert (scores.grad != 0).all()
