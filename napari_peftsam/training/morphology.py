"""Dilation and depth of many boolean masks at once."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["depth", "dilated"]


def dilated(masks: Tensor, radius: int) -> Tensor:
    """Return the pixels within `radius` of each mask along both axes, ``(..., H, W)`` boolean."""
    # Pooling of floats would give the same, ten times slower on a CPU.
    grown = functional.pad(masks.bool(), (radius, radius, radius, radius))
    for axis in (-2, -1):
        size, whole = 1, 2 * radius + 1
        while size < whole:  # the union of two windows is a window of up to twice the size
            step = min(size, whole - size)
            length = grown.shape[axis] - step
            grown = grown.narrow(axis, 0, length) | grown.narrow(axis, step, length)
            size += step
    return grown


def depth(masks: Tensor, deepest: int) -> Tensor:
    """Return how many erosions each pixel survives, plus one; 0 outside of the masks.

    Parameters
    ----------
    masks
        ``(..., H, W)`` boolean; what is beyond the edge counts as background.
    deepest
        Largest value.
    """
    inside = masks.bool()
    found = inside.float()
    for _ in range(deepest - 1):
        inside = ~dilated(~functional.pad(inside, (1, 1, 1, 1)), 1)[..., 1:-1, 1:-1]
        if not inside.any():
            break
        found = found + inside
    return found
