"""Targets and corrections follow the object: small, thin and large ones alike."""

from __future__ import annotations

import pytest
import torch
from skimage.draw import disk, line

from napari_peftsam.segmentation.decode import PromptTensors
from napari_peftsam.training.samples import Targets, crop_masks

SIDE = 1024


def _mask(*pixels: tuple[slice, slice]) -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for rows, columns in pixels:
        mask[rows, columns] = True
    return mask


def _disc(radius: int) -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[disk((500, 400), radius)] = True
    return mask


def _hair() -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[line(3, 5, 1010, 1001)] = True
    return mask


OBJECTS = [
    pytest.param(_mask((slice(501, 502), slice(333, 334))), id="one pixel"),
    pytest.param(_mask((slice(501, 503), slice(333, 336))), id="six pixels"),
    pytest.param(_mask((slice(0, 2), slice(1020, 1024))), id="in the corner"),
    pytest.param(_mask((slice(2, 1000), slice(333, 334))), id="a hair along an axis"),
    pytest.param(_hair(), id="a hair across the frame"),
    pytest.param(_disc(4), id="small disc"),
    pytest.param(_disc(60), id="disc"),
    pytest.param(_disc(300), id="large disc"),
    pytest.param(_mask((slice(0, SIDE), slice(0, SIDE))), id="everything"),
]


def _answers(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return logits of masks that are right, empty and everything, in the decoder's size."""
    soft = torch.nn.functional.avg_pool2d(mask[None, None].float(), 4)
    return {"right": (soft - 0.4) * 20, "empty": soft * 0 - 5, "everything": soft * 0 + 5}


@pytest.mark.parametrize("mask", OBJECTS)
def test_no_object_is_lost(mask: torch.Tensor) -> None:
    targets = Targets.of(mask[None])
    assert targets.truth.any()
    assert (targets.shapes >= 0.5).any()


@pytest.mark.parametrize("shown", ["right", "empty", "everything"])
@pytest.mark.parametrize("mask", OBJECTS)
def test_clicks_say_what_is_true_where_they_are(mask: torch.Tensor, shown: str) -> None:
    """Positive clicks are on the object and negative ones beside it, at full resolution.

    A grid's point between two pixels belongs to either.
    """
    targets = Targets.of(mask[None])
    low = _answers(mask)[shown]
    seen = targets.view(low, slice(None))[:, 0]
    spacing = float(targets.user(torch.Generator()).spacing.max())
    for seed in range(8):
        user = targets.user(torch.Generator().manual_seed(seed))
        first = user.first(targets.truth, targets.boxes)
        prompts = user.correct(first, seen, low, targets.truth)
        assert prompts.points is not None
        assert prompts.labels is not None
        for point, label in zip(prompts.points[0], prompts.labels[0], strict=True):
            assert -0.5 <= point.min() <= point.max() <= SIDE - 0.5
            assert _near(mask == bool(label), point, 0.5 + spacing / 2)


def _near(region: torch.Tensor, point: torch.Tensor, distance: float) -> bool:
    """Return whether a pixel of the region is within a distance of the point, on each axis."""
    column, row = point.tolist()
    rows, columns = region.nonzero().T
    return bool((((rows - row).abs() <= distance) & ((columns - column).abs() <= distance)).any())


@pytest.mark.parametrize("mask", OBJECTS)
def test_a_mask_that_is_right_costs_nothing(mask: torch.Tensor) -> None:
    """What the grid shows of a mask in full resolution is what it shows of the truth."""
    targets = Targets.of(mask[None])
    seen = targets.view((mask[None, None].float() - 0.5) * 10, slice(None))[0, 0]
    wrong = (seen > 0) != (targets.shapes[0, 0] > 0.5)
    lost = not (targets.view(mask[None, None].float(), slice(None)) >= 0.5).any()
    assert lost or not wrong.any()


def test_boxes_are_those_of_the_objects_and_not_of_the_grid() -> None:
    mask = _mask((slice(100, 140), slice(30, 90)))
    targets = Targets.of(mask[None])
    assert targets.boxes.tolist() == [[29.5, 99.5, 89.5, 139.5]]
    for seed in range(20):
        user = targets.user(torch.Generator().manual_seed(seed))
        prompts = user.first(targets.truth, targets.boxes)
        if prompts.boxes is not None:
            assert (prompts.boxes - targets.boxes).abs().max() <= 0.08 * 60 + 1e-4


def test_small_objects_weigh_as_much_as_large_ones() -> None:
    """The share of the grid that an object fills hardly depends on its size."""
    masks = torch.stack([_disc(6), _disc(20), _disc(80)])
    filled = Targets.of(masks).truth.flatten(1).float().mean(1)
    assert filled.max() < 2.5 * filled.min()


def test_corrections_of_crops_are_in_the_frame() -> None:
    mask = torch.zeros(384, 384, dtype=torch.bool)
    mask[200:220, 300:320] = True
    targets = Targets.of(*crop_masks(mask[None], 192, 8))
    user = targets.user(torch.Generator().manual_seed(0))
    empty = torch.full_like(targets.shapes[:, 0], -5.0)
    first = PromptTensors(boxes=targets.boxes)
    prompts = user.correct(first, empty, empty[:, None], targets.truth)
    assert prompts.points is not None
    column, row = prompts.points[0].unbind(1)
    assert ((column > 299) & (column < 320) & (row > 199) & (row < 220)).all()
