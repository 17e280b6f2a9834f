"""Families of cell outlines, as tables of radius over polar angle.

One table row per object holds its radius in units of the equivalent radius,
scaled so that the enclosed area is that of the unit circle: an object's mean
diameter does not depend on its family.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._fields import FloatArray

__all__ = ["OUTLINES", "outline_table"]

_HARMONICS = np.arange(2, 8)

Outline = Callable[[np.random.Generator, int, FloatArray], FloatArray]


def _superellipse(aspect: FloatArray, power: float, theta: FloatArray) -> FloatArray:
    """Radii (n, bins) of |x/a|^p + |y a|^p = 1 with a = sqrt(aspect)."""
    a = np.sqrt(aspect)[:, None]
    along, across = np.abs(np.cos(theta)) / a, np.abs(np.sin(theta)) * a
    radii = (along**power + across**power) ** (-1.0 / power)
    return radii.astype(np.float32, copy=False)


def _waves(rng: np.random.Generator, count: int, theta: FloatArray, amount: float) -> FloatArray:
    """Factor 1 + random harmonics of falling strength, (n, bins)."""
    angles = np.outer(_HARMONICS, theta)
    basis = np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32)
    size = np.tile(amount / (_HARMONICS - 1), 2)
    weights = (rng.standard_normal((count, size.size)) * size).astype(np.float32)
    factor: FloatArray = np.clip(1 + weights @ basis, 0.35, 2.5)
    return factor


def _aspects(rng: np.random.Generator, count: int, low: float, high: float) -> FloatArray:
    return rng.uniform(low, high, count).astype(np.float32)


def _round(rng: np.random.Generator, count: int, theta: FloatArray) -> FloatArray:
    table = _superellipse(_aspects(rng, count, 1.0, 1.25), 2.0, theta)
    return table * _waves(rng, count, theta, 0.02)


def _oval(rng: np.random.Generator, count: int, theta: FloatArray) -> FloatArray:
    table = _superellipse(_aspects(rng, count, 1.1, 2.2), rng.uniform(1.9, 2.6), theta)
    return table * _waves(rng, count, theta, 0.03)


def _rod(rng: np.random.Generator, count: int, theta: FloatArray) -> FloatArray:
    """Rods and spindles: the power makes the ends blunt (> 2) or pointed."""
    table = _superellipse(_aspects(rng, count, 2.5, 6.0), rng.uniform(1.4, 3.5), theta)
    return table * _waves(rng, count, theta, 0.02)


def _rough(rng: np.random.Generator, count: int, theta: FloatArray) -> FloatArray:
    table = _superellipse(_aspects(rng, count, 1.0, 1.8), 2.0, theta)
    return table * _waves(rng, count, theta, rng.uniform(0.06, 0.16))


def _star(rng: np.random.Generator, count: int, theta: FloatArray) -> FloatArray:
    """Draw a rough body out into one to five tapering processes."""
    table = _rough(rng, count, theta)
    # A fixed angle per process, jittered, so that they seldom coincide.
    slots = int(rng.integers(2, 6))
    start = rng.uniform(0, 2 * np.pi, (count, 1))
    for slot in range(slots):
        towards = start + (slot + rng.uniform(-0.3, 0.3, (count, 1))) * (2 * np.pi / slots)
        length = rng.uniform(0.3, 3.5, (count, 1)) * (rng.random((count, 1)) < 0.75)
        away = np.sqrt(2 * np.clip(1 - np.cos(theta - towards), 0, None))
        # Exponential flanks are concave, like a membrane stretched to a tip.
        table = table + length * np.exp(-away * rng.uniform(3, 10, (count, 1)))
    return table.astype(np.float32)


def _spindle(rng: np.random.Generator, count: int, theta: FloatArray) -> FloatArray:
    """Elongated adherent cells: pointed at both ends, swollen in the middle."""
    table = _superellipse(_aspects(rng, count, 1.5, 4.0), rng.uniform(1.0, 1.7), theta)
    return table * _waves(rng, count, theta, rng.uniform(0.02, 0.1))


OUTLINES: dict[str, Outline] = {
    "round": _round,
    "oval": _oval,
    "rod": _rod,
    "rough": _rough,
    "star": _star,
    "spindle": _spindle,
}


def outline_table(
    rng: np.random.Generator, families: tuple[str, ...], count: int, bins: int
) -> FloatArray:
    """Radius over angle for `count` objects.

    Parameters
    ----------
    rng
        Source of randomness.
    families
        Names out of `OUTLINES`; with several, each object takes one of them.
    count
        Number of objects n.
    bins
        Number of angles over the full circle.

    Returns
    -------
    FloatArray
        (n, bins) in units of the equivalent radius.
    """
    theta = (np.arange(bins, dtype=np.float32) + 0.5) * np.float32(2 * np.pi / bins)
    choice = rng.integers(len(families), size=count)
    table = np.empty((count, bins), np.float32)
    for i, family in enumerate(families):
        members = np.flatnonzero(choice == i)
        table[members] = OUTLINES[family](rng, members.size, theta)
    table /= np.sqrt(np.mean(table**2, axis=1, keepdims=True))
    return table
