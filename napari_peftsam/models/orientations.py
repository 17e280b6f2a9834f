"""Orientations of an image: its pixels, and points in it, rotated and mirrored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ORIENTATIONS", "mean_turned_back", "turned", "turned_points"]

ORIENTATIONS = (0, 5, 2, 7, 1, 6, 3, 4)
"""How the first, second, ... orientation is `turned`; see `Architecture.orientations`."""


def turned(x: Tensor, turn: int) -> Tensor:
    """Return images ``(..., S, S)`` rotated and flipped, `turn` from 0 to 7."""
    x = torch.rot90(x, turn % 4, (-2, -1)) if turn % 4 else x
    return x.flip(-1) if turn >= 4 else x


def mean_turned_back(seen: Sequence[Tensor]) -> Tensor:
    """Return the mean of maps ``(..., S, S)`` of the first `ORIENTATIONS`, in the upright one."""
    upright = [_turned_back(one, turn) for one, turn in zip(seen, ORIENTATIONS, strict=False)]
    return upright[0] if len(upright) == 1 else torch.stack(upright).mean(0)


def _turned_back(x: Tensor, turn: int) -> Tensor:
    x = x.flip(-1) if turn >= 4 else x
    return torch.rot90(x, -(turn % 4), (-2, -1)) if turn % 4 else x


def turned_points(points: Tensor, turn: int, side: int) -> Tensor:
    """Return where points ``(..., 2)`` are once an image of this side is `turned`.

    They are ``(x, y)`` in pixels, whole numbers at the centres.
    """
    x, y = points.unbind(-1)
    for _ in range(turn % 4):
        x, y = y, side - 1 - x
    return torch.stack([side - 1 - x if turn >= 4 else x, y], dim=-1)
