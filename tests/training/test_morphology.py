"""Dilation and depth of masks agree with pooling, their slow definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.training.prompts import depth, dilated


@pytest.fixture
def masks() -> Tensor:
    """Three random blotches on a field that is not square; one reaches the edge."""
    coarse = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, (30, 41), mode="bilinear")[:, 0] > 0.55


@pytest.mark.parametrize("radius", [0, 1, 2, 6, 8])
def test_dilation_is_pooling_along_both_axes(masks: Tensor, radius: int) -> None:
    size = 2 * radius + 1
    expected = functional.max_pool2d(masks.float(), size, stride=1, padding=radius) > 0
    assert torch.equal(dilated(masks, radius), expected)


@pytest.mark.parametrize("deepest", [1, 2, 8])
def test_depth_counts_erosions(masks: Tensor, deepest: int) -> None:
    inside, expected = masks.float(), masks.float()
    for _ in range(deepest - 1):
        inside = -functional.max_pool2d(-functional.pad(inside, (1, 1, 1, 1)), 3, stride=1)
        expected = expected + inside
    assert torch.equal(depth(masks, deepest), expected)
