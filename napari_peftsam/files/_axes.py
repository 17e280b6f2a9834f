"""Bring the axes of a file into the order the core works with."""

from __future__ import annotations

import numpy as np

from napari_peftsam.errors import InputFileError
from napari_peftsam.types import PixelArray

__all__ = ["arrange", "guess_axes"]

_COLOURS = 3


def arrange(array: PixelArray, axes: str, shown: str) -> PixelArray:
    """Return ``(H, W)``, ``(H, W, 3)``, ``(Z, H, W)`` or ``(Z, H, W, 3)``.

    Parameters
    ----------
    array
        Pixels with one axis per letter of `axes`.
    axes
        ``Y``, ``X``, samples ``S`` (colour, perhaps alpha), channels ``C`` (three are
        taken as colours); any other letter is a stack. Axes of length one vanish.
    shown
        The file's name for messages.

    Raises
    ------
    InputFileError
        If more than one stack axis or a number of channels other than 1 or 3 is left.
    """
    keep = [a in "YX" or n > 1 for a, n in zip(axes, array.shape, strict=True)]
    array = array[tuple(slice(None) if k else 0 for k in keep)]
    axes = "".join(a for a, k in zip(axes, keep, strict=True) if k)
    for colours in "SC":
        if colours in axes:
            array, axes = _colours_last(array, axes, colours, shown)
    stacks = axes.replace("s", "")
    if len(stacks) > 3 or "Y" not in axes or "X" not in axes:
        raise InputFileError(
            f"{shown}: expected a plane or one stack of planes, got axes {axes.upper()} of shape "
            f"{array.shape}: save the stack to work on as its own file"
        )
    order = sorted(range(array.ndim), key=lambda i: "YXs".find(axes[i]))
    array = np.transpose(array, order)
    if array.dtype.kind not in "biuf":
        raise InputFileError(f"{shown}: expected real numbers, got pixels of type {array.dtype}")
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _colours_last(array: PixelArray, axes: str, letter: str, shown: str) -> tuple[PixelArray, str]:
    """Move the colour axis to the end, mark it ``s`` and drop alpha."""
    at = axes.index(letter)
    count = array.shape[at]
    array, axes = np.moveaxis(array, at, -1), axes[:at] + axes[at + 1 :]
    if letter == "S" and count == 2:  # grey and alpha
        return array[..., 0], axes
    if "s" not in axes and (count == _COLOURS or (letter == "S" and count == _COLOURS + 1)):
        return array[..., :_COLOURS], axes + "s"
    raise InputFileError(
        f"{shown}: expected grey or RGB, got {count} channels: save the channel to work on, or "
        "three of them as RGB, as its own file"
    )


def guess_axes(shape: tuple[int, ...]) -> str:
    """Name the axes of an array that comes without names.

    A last axis of 3 or 4 is colour if there are two others besides leading singletons.
    """
    leading = 0
    while leading < len(shape) - 2 and shape[leading] == 1:
        leading += 1
    colour = len(shape) - leading > 2 and shape[-1] in (3, 4)
    last = "YXS" if colour else "YX"
    return ("Q" * len(shape) + last)[-len(shape) :] if len(shape) > 1 else "Q" * len(shape)
