"""Images as files hold them, and their axes and channels in the order of the core."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.errors import InputFileError, UndecidedError
from napari_peftsam.metadata import Axis, Channel, ImageMetadata, ReadOptions
from napari_peftsam.planes import LazyImage


@dataclass(frozen=True, eq=False)
class RawImage:
    """An image as its file holds it.

    Attributes
    ----------
    array
        Anything with shape, type and slices.
    axes
        One letter per axis: ``T``, ``Z``, ``Y``, ``X``, channels ``C``, samples ``S`` of a
        colour (with alpha: 2 or 4 of them), ``Q`` where the file does not say.
    scales
        Scale and unit by letter of the axis.
    channels
        Names and colours of the channels.
    levels
        The same in lower resolutions, for display.
    """

    array: Any
    axes: str
    scales: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    channels: tuple[Channel, ...] = ()
    levels: tuple[Any, ...] = ()


def series_number(path: Path, options: ReadOptions, count: int) -> int:
    """Return the number of the image to read; one of several must be chosen."""
    if options.series is None and count > 1:
        raise InputFileError(
            f"{path}: holds {count} images: choose one with --series, from 0 to {count - 1}"
        )
    number = options.series or 0
    if number >= max(count, 1):
        raise InputFileError(f"{path}: there is no image {number}, it holds {count}")
    return number


_COLOURS = 3
_UNNAMED = "QI"
_AS_THEY_ARE = ((0, 1.0), (1, 1.0), (2, 1.0))
_FEW = (3, 4)  # planes that may be channels as well


def arrange(
    raw: RawImage, options: ReadOptions, shown: str, *, labels: bool = False
) -> tuple[LazyImage, ImageMetadata]:
    """Return ``(..., H, W)`` or ``(..., H, W, 3)``, of which nothing is read, and its metadata.

    Axes of length one vanish, but for height and width.

    Parameters
    ----------
    raw
        The image as its file holds it.
    options
        Names of the axes and choice of channels.
    shown
        The file's name for messages.
    labels
        True for labels, which have no channels.

    Raises
    ------
    UndecidedError
        If nothing says what the axes are, and more than one reading is plausible, or of several
        channels none was chosen.
    InputFileError
        If there is no plane.
    """
    array, axes = raw.array, _axes(raw, options, shown, labels)
    asked, options = options, _settled(options, dict(zip(axes, array.shape, strict=True)))
    sizes = dict(enumerate(array.shape))
    left = {i: a for i, a in enumerate(axes) if a in "YX" or sizes[i] > 1}
    if sorted(a for a in left.values() if a in "YX") != ["X", "Y"]:
        raise InputFileError(
            f"{shown}: expected planes of height and width, got axes {axes} of shape "
            f"{tuple(sizes.values())}: say what they are with --axes, like --axes ZYX"
        )
    if np.dtype(array.dtype).kind not in "biuf":
        raise InputFileError(f"{shown}: expected real numbers, got pixels of type {array.dtype}")
    try:
        last, picks = _colours(left, sizes, raw.channels, options, shown)
    except UndecidedError as error:
        if options.channels == asked.channels:
            raise
        own = f"{error.question}; the adapter was trained with {options.channels}"
        raise UndecidedError(own, error.remedy, error.option, error.answers) from error
    spatial = [i for i, a in left.items() if a not in "SC"]
    order = tuple(sorted(spatial, key=lambda i: "YX".find(axes[i])))
    used = (*order, last) if last is not None else order
    fixed = tuple((i, 0) for i in sizes if i not in used)
    if last is not None and len(picks) == 1:
        fixed, used = (*fixed, (last, picks[0][0])), order
    named = tuple(_axis(axes[i], raw) for i in order)
    if last is None:  # there was nothing to choose, and nothing to remember
        options = replace(options, channels="")
    metadata = ImageMetadata(named, raw.channels, options)
    if len(used) == len(order):
        return LazyImage(array, order, fixed), metadata
    mix = () if picks == _AS_THEY_ARE else picks
    return LazyImage(array, used, fixed, _COLOURS, mix), metadata


def _axis(letter: str, raw: RawImage) -> Axis:
    scale, unit = raw.scales.get(letter, (1.0, ""))
    return Axis("" if letter in _UNNAMED else letter.lower(), scale, unit)


# --- axes ---------------------------------------------------------------------------


def _axes(raw: RawImage, options: ReadOptions, shown: str, labels: bool) -> str:
    shape = tuple(raw.array.shape)
    if options.axes:
        return _given_axes(options.axes.upper(), shape, shown)
    axes = raw.axes
    here = [(a, n) for a, n in zip(axes, shape, strict=True) if n > 1 or a in "YX"]
    if not labels and len(here) == 3 and any(a in _UNNAMED for a, _ in here):
        letters = "".join(a for a, _ in here)
        sizes = tuple(n for _, n in here)
        if sizes[-1] == 2 or (sizes[-1] in _FEW and letters[-1] == "X"):
            last, first = _named(axes, "YXC"), _named(axes, "ZYX")
            raise UndecidedError(
                f"{shown}: nothing says what its axes of shape {shape} are",
                f"if the last one are channels, say --axes {last}, else --axes {first}",
                "axes",
                (last, first),
            )
        if sizes[0] in _FEW and letters[1:] == "YX":
            channels, stack = _named(axes, "CYX"), _named(axes, "ZYX")
            raise UndecidedError(
                f"{shown}: nothing says whether its {sizes[0]} planes are channels or a stack",
                f"say --axes {channels} or --axes {stack}",
                "axes",
                (channels, stack),
            )
    return axes


def _named(axes: str, names: str) -> str:
    """Return a full answer for ``--axes``: names for the last axes, Q for those before."""
    return axes[: len(axes) - len(names)] + names


def _given_axes(axes: str, shape: tuple[int, ...], shown: str) -> str:
    long = [i for i, n in enumerate(shape) if n > 1]
    if len(axes) == len(long) < len(shape):  # those of length one may be left out
        every = ["Q"] * len(shape)
        for i, letter in zip(long, axes, strict=True):
            every[i] = letter
        axes = "".join(every)
    is_valid = re.fullmatch("[A-Z]*", axes) and all(axes.count(a) == 1 for a in set(axes) - {"Q"})
    if len(axes) != len(shape) or not is_valid:
        raise UndecidedError(
            f"{shown}: the axes {axes} do not fit its shape {shape}",
            "give one letter for each axis with --axes, of T, Z, C, Y, X, and S for colours",
            "axes",
            (guess_axes(shape),),
        )
    return axes


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


# --- channels -----------------------------------------------------------------------


def _settled(options: ReadOptions, sizes: Mapping[str, int]) -> ReadOptions:
    """Return options whose `channels` are the ones to read, of what is chosen or the default."""
    has_several = sizes.get("C", 1) > 1
    channels = options.channels or (options.default_channels if has_several else "")
    return replace(options, channels=channels, default_channels="")


Picks = tuple[tuple[int, float], ...]


def _colours(
    left: dict[int, str],
    sizes: dict[int, int],
    channels: Sequence[Channel],
    options: ReadOptions,
    shown: str,
) -> tuple[int | None, Picks]:
    """Return the axis of colours or channels, and the positions and factors to take of it."""
    samples = next((i for i, a in left.items() if a == "S"), None)
    several = next((i for i, a in left.items() if a == "C"), None)
    if several is None and samples is None:
        if options.channels:
            _chosen(options.channels, 1, channels, shown)
        return None, ()
    if several is None or (samples is not None and not options.channels):
        assert samples is not None
        count = sizes[samples]
        if options.channels:
            names = [Channel(name) for name in ("red", "green", "blue", "alpha")[:count]]
            return samples, _chosen(options.channels, count, names, shown)
        if several is not None:
            raise _undecided(shown, sizes[several], channels)
        if count == 2:  # grey and alpha
            return samples, ((0, 1.0),)
        if count not in (_COLOURS, _COLOURS + 1):
            raise InputFileError(
                f"{shown}: expected grey or RGB, got {count} samples: choose with --channels"
            )
        return samples, _AS_THEY_ARE
    if not options.channels:
        raise _undecided(shown, sizes[several], channels)
    picks = _chosen(options.channels, sizes[several], channels, shown)
    if samples is not None and len(picks) > 1:
        raise InputFileError(f"{shown}: its channels are in colour: choose one with --channels")
    return several, picks


def _undecided(shown: str, count: int, channels: Sequence[Channel]) -> UndecidedError:
    return UndecidedError(
        f"{shown}: holds {count} channels ({_list(count, channels)})",
        "choose one, or up to three for red, green and blue, with --channels, like --channels 0 or "
        "--channels 0,1",
        "channels",
        _names(count, channels),
    )


def _names(count: int, channels: Sequence[Channel]) -> tuple[str, ...]:
    """Return the channels' names, or their numbers where names are missing or repeated."""
    names = tuple(channel.name for channel in channels[:count])
    is_enough = len(names) == count and len({name.lower() for name in names} - {""}) == count
    return names if is_enough else tuple(map(str, range(count)))


def _list(count: int, channels: Sequence[Channel]) -> str:
    names = [channels[i].name if i < len(channels) else "" for i in range(min(count, 12))]
    listed = ", ".join(f"{i} {name}".strip() for i, name in enumerate(names))
    return listed if count <= len(names) else f"{listed}, ..."


def _chosen(text: str, count: int, channels: Sequence[Channel], shown: str) -> Picks:
    """Return number and weight of each channel of a choice like ``"DAPI:0.5,2"``."""
    picks = []
    for part in text.split(","):
        name, colon, weight = part.strip().rpartition(":")
        if not colon:
            name, weight = part.strip(), "1"
        try:
            factor = float(weight)
        except ValueError:
            name, factor = part.strip(), 1.0  # a colon in the channel's name
        if not 0 < factor < float("inf"):
            raise InputFileError(f"{shown}: the weight in --channels {text} must be above 0")
        picks.append((_number(name.strip(), count, channels, shown), factor))
    if len(picks) > _COLOURS:
        raise InputFileError(
            f"{shown}: --channels {text} names {len(picks)} channels: choose up to three"
        )
    return tuple(picks)


def _number(name: str, count: int, channels: Sequence[Channel], shown: str) -> int:
    named = [i for i, c in enumerate(channels[:count]) if c.name == name]
    named = named or [i for i, c in enumerate(channels[:count]) if c.name.lower() == name.lower()]
    if len(named) == 1:
        return named[0]
    if name.isascii() and name.isdigit() and int(name) < count:
        return int(name)
    problem = "is the name of several channels" if named else "is none of its channels"
    raise UndecidedError(
        f"{shown}: {name!r} {problem} ({_list(count, channels) or '0'})",
        "choose by number with --channels",
        "channels",
        _names(count, channels),
    )
