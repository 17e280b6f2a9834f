"""Parts of an embedding around prompted objects, for many objects at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models.orientations import turned_points
from napari_peftsam.types import Frame, Prompts, Window

__all__ = ["Crop"]

NOTHING = -10.0
"""Logit of what nobody has looked at: surely not the object."""

_LEAST = 24  # tokens; with 16 masks of yeast differ by more than is allowed, see performance.md
_STEP = 8  # tokens; objects of the same size share a batch
_MOST = 0.75  # share of the image's side from which on a crop saves little


@dataclass(frozen=True)
class Crop:
    """How much of an image to look at for each of many objects, e.g. for proposals.

    A crop is a square around an object's box and positive points. The mask ends at its edges;
    logits outside are -10. Objects without a box, and those whose crop would be most of the
    image, are predicted from the whole image.

    Attributes
    ----------
    widths
        Least side of the crop, in longer sides of what box and positive points span.
    approximate
        True: the decoder sees the crop only, which is several times faster and changes masks
        and scores a little (see docs/performance.md). Not for what a person asks for.
        False: it sees the whole image and draws the crop: scores and logits there are as without.
    """

    widths: float = 3.0
    approximate: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.widths < math.inf:
            raise ConfigurationError(
                f"a crop is {self.widths} boxes wide: give a positive number, such as 3"
            )

    def window(self, prompts: Prompts, frame: Frame, grid: int) -> Window:
        """Return the part of an embedding of ``grid x grid`` tokens that is looked at."""
        whole = Window(0, 0, grid, grid)
        if prompts.box is None:
            return whole
        extent = prompts.extent
        scale = frame.scale * grid / frame.size
        wanted = self.widths * scale * max(extent.row1 - extent.row0, extent.col1 - extent.col0)
        side = _STEP * math.ceil(max(wanted, _LEAST) / _STEP)
        if side > _MOST * grid:
            return whole
        middle = extent.row0 + extent.row1 + 1, extent.col0 + extent.col1 + 1  # twice, from edges
        row, col = (min(max(round((n * scale - side) / 2), 0), grid - side) for n in middle)
        return Window(row, col, side, side)


def placed(logits: Tensor, windows: Sequence[Window], grid: int) -> Tensor:
    """Return ``(B, K, 4 grid, 4 grid)`` from logits of each object's window of tokens."""
    if windows[0].height == grid:
        return logits
    found = logits.new_full((*logits.shape[:2], 4 * grid, 4 * grid), NOTHING)
    for one, part, window in zip(found, logits, windows, strict=True):
        one[:, *fine(window).slices] = part
    return found


def turned_window(window: Window, turn: int, grid: int) -> Window:
    """Return where a square window is once the grid that it lies on is `turned`."""
    if not turn or window.height == grid:
        return window
    last = window.col + window.width - 1, window.row + window.height - 1
    corners = torch.tensor([(window.col, window.row), last])
    col, row = turned_points(corners, turn, grid).amin(0).tolist()
    return replace(window, row=row, col=col)


def fine(window: Window) -> Window:
    """Return a window of tokens in logits."""
    return Window(4 * window.row, 4 * window.col, 4 * window.height, 4 * window.width)


def cut(features: Tensor, windows: Sequence[Window]) -> Tensor:
    """Return the windows of tokens ``(B, C, h, w)`` of objects that share ``(1, C, H, W)``."""
    return torch.stack([features[0][:, *window.slices] for window in windows])
