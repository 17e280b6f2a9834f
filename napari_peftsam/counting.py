"""Statistics of counting: how many objects there are, from a sample that somebody looked at."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np

__all__ = ["Count", "Stratum", "draw_sample", "estimate_count", "stratum_of", "wilson"]

_LEVEL = 1.96  # standard deviations of a 95 % interval
_TAIL = 0.025
_STRATA = 5
_LEAST = 6  # looked at in each stratum; below, intervals are those of nothing known
_CERTAIN = 0.05  # standard deviation that also the most certain proposals are sampled with


@dataclass(frozen=True)
class Stratum:
    """Proposals of similar scores.

    Attributes
    ----------
    unknown
        Those that nobody has judged.
    looked_at, right
        Those of the random sample, all judged, and how many of these are objects.
    """

    unknown: int
    looked_at: int
    right: int


@dataclass(frozen=True)
class Count:
    """Number of objects.

    Attributes
    ----------
    known
        Accepted objects, and those that are there with another outline than was proposed.
    proposed, missed
        Expected among the proposals that nobody judged, and where nothing was proposed.
    low, high
        The 95 % interval of all.
    looked_at, tiles
        Proposals and tiles that it is estimated from.
    """

    known: int
    proposed: float
    missed: float
    low: float
    high: float
    looked_at: int
    tiles: int

    @property
    def objects(self) -> float:
        """All objects."""
        return self.known + self.proposed + self.missed

    @property
    def text(self) -> str:
        """The number in words."""
        return f"about {self.objects:.0f} objects ({self.low:.0f}–{self.high:.0f})"


def draw_sample(
    scores: Sequence[float], number: int, seed: int = 0
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Draw proposals to look at, as many in each stratum of scores.

    Strata end where the standard deviations of all below, as far as scores are probabilities, are
    an equal share of the sum: of proposals that are certain, fewer are looked at.

    Returns
    -------
    tuple of float
        Scores at which a further stratum begins, ascending; see `stratum_of`.
    tuple of int
        Indices of the sample, in random order.
    """
    values = np.sort(np.asarray(scores, float))
    if not len(values):
        return (), ()
    deviations = np.cumsum(np.sqrt(np.clip(values * (1 - values), 0, None)) + _CERTAIN)
    strata = max(1, min(_STRATA, number // _LEAST))
    ends = np.searchsorted(deviations, deviations[-1] * np.arange(1, strata) / strata)
    edges = tuple(dict.fromkeys(values[ends].tolist()))
    rng = np.random.default_rng(seed)
    left = [[] for _ in range(len(edges) + 1)]  # type: list[list[int]]
    for index in rng.permutation(len(scores)).tolist():
        left[stratum_of(scores[index], edges)].append(index)
    chosen: list[int] = []
    while len(chosen) < min(number, len(scores)):
        for each in left:
            if each and len(chosen) < number:
                chosen.append(each.pop())
    return edges, tuple(chosen)


def stratum_of(score: float, edges: Sequence[float]) -> int:
    """Return the number of a score's stratum, from 0."""
    return bisect(edges, score)


def estimate_count(
    known: int, strata: Sequence[Stratum], seen: Sequence[int], tiles: int, added: int = 0
) -> Count:
    """Estimate how many objects there are.

    The interval combines those of the parts (Zou and Donner 2008, method of variance estimates
    recovery): Wilson's of each stratum's share of objects, for a finite number of proposals, and
    the exact one of the missed objects, each of which lies in a tile that was looked at with the
    same probability. If some tiles have many more than others, that is widened accordingly.

    Parameters
    ----------
    known
        Objects that need no estimate.
    strata
        The proposals.
    seen
        Objects without mask or proposal in each of the tiles that were looked at.
    tiles
        Number of all tiles.
    added
        Of the missed objects, those that have been added since.
    """
    parts = [_unknown_objects(each) for each in strata]
    missed = [max(0.0, value - added) for value in _missed_objects(seen, tiles)]
    proposed = sum(part[0] for part in parts)
    total = known + proposed + missed[0]
    below = hypot(*(value - low for value, low, _ in (*parts, missed)))
    above = hypot(*(high - value for value, _, high in (*parts, missed)))
    most = known + sum(each.unknown for each in strata) + missed[2]
    return Count(
        known, proposed, missed[0], max(known, total - below), min(most, total + above),
        sum(each.looked_at for each in strata), len(seen),
    )  # fmt: skip


def wilson(right: float, number: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, ``right`` of ``number``."""
    if not number:
        return 0.0, 1.0
    rate, squared = right / number, _LEVEL**2
    middle = (rate + squared / (2 * number)) / (1 + squared / number)
    half = _LEVEL / (1 + squared / number)
    half *= sqrt(rate * (1 - rate) / number + squared / (4 * number**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _unknown_objects(part: Stratum) -> tuple[float, float, float]:
    """Return how many of the unknown proposals are objects, at least, and at most."""
    if not part.unknown:
        return 0.0, 0.0, 0.0
    if not part.looked_at:
        return part.unknown / 2, 0.0, float(part.unknown)
    rate, size = part.right / part.looked_at, part.unknown + part.looked_at
    # As if more had been looked at: a sample without replacement is the better the larger it is.
    number = part.looked_at * (size - 1) / part.unknown
    low, high = (size * share - part.right for share in wilson(rate * number, number))
    value = part.unknown * rate
    return value, max(0.0, min(low, value)), min(float(part.unknown), max(high, value))


def _missed_objects(seen: Sequence[int], tiles: int) -> tuple[float, float, float]:
    """Return how many objects all tiles have that nobody marked, at least, and at most."""
    found, share = sum(seen), len(seen) / max(tiles, 1)
    if share >= 1:
        return float(found), float(found), float(found)
    from scipy.special import betainc

    spread = float(np.var(seen, ddof=1) / np.mean(seen)) if found and len(seen) > 1 else 1.0
    spread = max(1.0, spread)
    few = found / spread
    high = _solve(lambda n: float(betainc(few + 1, max(n - few, 1e-9), share)) - (1 - _TAIL), few)
    low = _solve(lambda n: float(betainc(few, n - few + 1, share)) - _TAIL, few) if few else 0.0
    return found / share, max(float(found), spread * low), spread * high


def _solve(rising: Callable[[float], float], least: float) -> float:
    """Return where a rising function is zero, `least` if it is above zero from there on."""
    step = 1.0
    while rising(least + step) < 0:
        step *= 2
    low, high = least, least + step
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return high
