"""Bootstrap intervals of means over objects that lie in several images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, stdtrit

__all__ = ["bootstrap_intervals"]

Floats = npt.NDArray[np.float64]

_DRAWS = 2000


def bootstrap_intervals(
    values: Floats, groups: Sequence[int], level: float = 0.95
) -> list[tuple[float, float]] | None:
    """Return an interval of the mean of each column, two-sided and always the same.

    Objects of one image are alike, so images are drawn first, then the objects of each. Plain
    percentiles are too narrow for few objects: they are moved out to where Student's interval
    would end (Hesterberg 2015, The American Statistician 69, 371-386, "expanded percentiles").
    Below five objects or so that is the range of all means that were drawn.

    Parameters
    ----------
    values
        ``(objects, figures)``.
    groups
        The image of each object, as any numbers.
    level
        Share of the samples whose intervals hold the true mean.

    Returns
    -------
    list of (float, float) or None
        Lower and upper end by column; None for a single object, which has no spread.
    """
    found = intervals_at(values, groups, (level,))
    return None if found is None else found[0]


def intervals_at(
    values: Floats, groups: Sequence[int], levels: Sequence[float]
) -> list[list[tuple[float, float]]] | None:
    """Return the intervals of several levels, drawn once; see `bootstrap_intervals`."""
    count = len(values)
    if count < 2:
        return None
    means, found = _drawn_means(values, groups), []
    for level in levels:
        tail = ndtr(np.sqrt(count / (count - 1)) * stdtrit(count - 1, (1 - level) / 2))
        low, high = np.quantile(means, (tail, 1 - tail), axis=0)
        found.append(list(zip(low.tolist(), high.tolist(), strict=True)))
    return found


def _drawn_means(values: Floats, groups: Sequence[int]) -> Floats:
    """Return the means ``(draws, figures)`` of random samples of as many images."""
    rng = np.random.default_rng(0)
    numbers = np.asarray(groups)
    order = np.argsort(numbers, kind="stable")
    _, starts, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
    means = np.empty((_DRAWS, values.shape[1]))
    for draw in range(_DRAWS):
        images = rng.integers(len(sizes), size=len(sizes))
        size = np.repeat(sizes[images], sizes[images])
        places = (rng.random(len(size)) * size).astype(int)
        means[draw] = values[order[np.repeat(starts[images], sizes[images]) + places]].mean(axis=0)
    return means
