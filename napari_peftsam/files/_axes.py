"""Conversion of a file's axes to the order that the core works with."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_peftsam.errors import InputFileError
from napari_peftsam.planes import LazyImage
from napari_peftsam.types import PixelArray

__all__ = ["arrange", "arrange_lazily", "guess_axes"]

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
    return arrange_lazily(array, axes, shown)[()]


def arrange_lazily(array: Any, axes: str, shown: str) -> LazyImage:
    """Arrange the axes of an array on disk as a view, without reading it.

    Takes the parameters and raises the errors of `arrange`.
    """
    sizes = dict(enumerate(array.shape))
    left = {i: a for i, a in enumerate(axes) if a in "YX" or sizes[i] > 1}
    colours: int | None = None
    for letter in "SC":
        at = next((i for i, a in left.items() if a == letter), None)
        if at is None:
            continue
        del left[at]
        if letter == "S" and sizes[at] == 2:  # grey and alpha
            continue
        _check_colours(letter, sizes[at], colours, shown)
        colours = at
    if len(left) > 3 or not {"Y", "X"} <= set(left.values()):
        shape = tuple(sizes[i] for i in left)
        raise InputFileError(
            f"{shown}: expected a plane or one stack of planes, got axes {''.join(left.values())} "
            f"of shape {shape}: save the stack to work on as its own file"
        )
    order = tuple(sorted(left, key=lambda i: "YX".find(left[i])))
    if np.dtype(array.dtype).kind not in "biuf":
        raise InputFileError(f"{shown}: expected real numbers, got pixels of type {array.dtype}")
    fixed = tuple((i, 0) for i in sizes if i not in left and i != colours)
    if colours is None:
        return LazyImage(array, order, fixed)
    return LazyImage(array, (*order, colours), fixed, _COLOURS)


def _check_colours(letter: str, count: int, known: int | None, shown: str) -> None:
    """Raise unless an axis of samples or channels can be the colours."""
    allowed = (_COLOURS, _COLOURS + 1) if letter == "S" else (_COLOURS,)
    if known is not None or count not in allowed:
        raise InputFileError(
            f"{shown}: expected grey or RGB, got {count} channels: save the channel to work on, "
            "or three of them as RGB, as its own file"
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
