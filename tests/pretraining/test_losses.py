"""What the losses of the pretraining reward and punish."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from napari_peftsam.pretraining.objective import compact_mask_loss, prompted_loss
from napari_peftsam.training.dense import dense_loss
from napari_peftsam.training.losses import mask_loss

SIDE = 40


def _square(first: int, last: int) -> Tensor:
    """A square from `first` to `last` along both axes, ``(1, 1, SIDE, SIDE)``."""
    mask = torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., first:last, first:last] = True
    return mask


def _logits(mask: Tensor, strength: float = 8.0) -> Tensor:
    return (mask.float() * 2 - 1) * strength


TARGET = _square(10, 30)


def _without(first: int, last: int) -> Tensor:
    return TARGET & ~_square(first, last)


@pytest.mark.parametrize(
    ("answer", "punished"),
    [pytest.param(TARGET, False, id="the mask itself"),
     pytest.param(_square(8, 32), False, id="a rim too wide"),
     pytest.param(_square(12, 28), False, id="a rim too narrow"),
     pytest.param(TARGET | _square(1, 3), True, id="an island"),
     pytest.param(_without(18, 22), True, id="a hole"),
     pytest.param(torch.zeros_like(TARGET), True, id="nothing")],
)  # fmt: skip
def test_islands_and_holes_cost_more_than_their_pixels(answer: Tensor, punished: bool) -> None:
    logits = _logits(answer)
    extra = compact_mask_loss(logits, TARGET) - mask_loss(logits, TARGET)
    assert (float(extra) > 0.005) == punished


def test_anything_in_an_empty_field_is_an_island() -> None:
    nothing = torch.zeros_like(TARGET)
    clean, invented = (
        compact_mask_loss(_logits(m, 12.0), nothing) for m in (nothing, _square(10, 20))
    )
    assert clean < 0.02
    assert invented > 1.3


def test_half_precision_does_not_change_the_loss() -> None:
    logits = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = compact_mask_loss(logits, TARGET.expand(2, -1, -1, -1))
    with torch.autocast("cpu", torch.bfloat16):
        found = compact_mask_loss(logits, TARGET.expand(2, -1, -1, -1))
    torch.testing.assert_close(found, expected)


PART, WHOLE, GROUP = _square(17, 23), TARGET, _square(3, 37)
LEVELS = torch.cat([PART, WHOLE, GROUP], dim=1)
SCORES = torch.full((1, 4), 0.5)


def _of(*masks: Tensor) -> Tensor:
    return torch.cat([_logits(mask) for mask in masks], dim=1)


def test_an_ambiguous_click_wants_part_whole_and_group_in_this_order() -> None:
    ordered, mixed, same = (
        float(prompted_loss(_of(WHOLE, *masks), SCORES, WHOLE, LEVELS))
        for masks in ((PART, WHOLE, GROUP), (GROUP, WHOLE, PART), (WHOLE, WHOLE, WHOLE))
    )
    assert ordered < same < mixed


def test_a_clear_prompt_wants_one_good_alternative() -> None:
    one = prompted_loss(_of(WHOLE, PART, WHOLE, GROUP), SCORES, WHOLE)
    none = prompted_loss(_of(WHOLE, PART, PART, GROUP), SCORES, WHOLE)
    assert one < none


@pytest.mark.parametrize("count", [0, 1], ids=["no level", "one level"])
def test_a_click_with_one_meaning_is_a_clear_prompt(count: int) -> None:
    levels = torch.zeros_like(LEVELS)
    levels[:, :count] = LEVELS[:, :count]
    logits = _of(WHOLE, PART, GROUP, WHOLE)
    found = prompted_loss(logits, SCORES, WHOLE, levels)
    torch.testing.assert_close(found, prompted_loss(logits, SCORES, WHOLE))


def test_scores_in_the_wrong_order_cost_more_than_scores_that_are_too_low() -> None:
    logits = _of(WHOLE, WHOLE, PART, PART)
    exact = torch.tensor([[1.0, 1.0, 0.09, 0.09]])
    low, swapped = exact - 0.2, exact + torch.tensor([[0.0, -0.2, 0.2, 0.2]])
    losses = [float(prompted_loss(logits, s, WHOLE)) for s in (exact, low, swapped)]
    assert losses == sorted(losses)


def test_foreground_counts_most_at_boundaries() -> None:
    boundary = (TARGET & ~_square(11, 29)).float()
    target = torch.cat([TARGET.float(), TARGET.float(), boundary], dim=1)
    right = torch.cat([_logits(TARGET), _logits(TARGET), _logits(boundary > 0)], dim=1)
    at_rim, inside = right.clone(), right.clone()
    at_rim[:, 0, 10, 15] *= -1
    inside[:, 0, 20, 20] *= -1
    base, rim, middle = (float(dense_loss(x, target)) for x in (right, at_rim, inside))
    assert (rim - base) == pytest.approx(5 * (middle - base), rel=0.01)
