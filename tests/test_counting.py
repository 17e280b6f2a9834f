"""The number of objects from a sample: what it is, and how often its interval holds the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from napari_peftsam.counting import Stratum, draw_sample, estimate_count, stratum_of


@dataclass(frozen=True)
class World:
    """Proposals whose scores are probabilities, and objects that nobody proposed."""

    proposals: int
    scores: tuple[float, float]  # of a beta distribution
    missed: float
    clustered: bool = False
    tiles: int = 20


WORLDS = {
    "typical": World(400, (2, 1), 10),
    "certain": World(400, (20, 1), 4),
    "poor": World(300, (0.5, 0.5), 40),
    "clustered": World(300, (2, 1), 40, clustered=True),
    "few": World(40, (2, 1), 3),
    "nothing missed": World(400, (6, 1), 0),
}


def counted(world: World, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return truth, estimate and the ends of its interval."""
    scores = rng.beta(*world.scores, size=world.proposals)
    true = rng.random(world.proposals) < scores
    shares = rng.gamma(1.0, size=world.tiles) if world.clustered else np.ones(world.tiles)
    missed = rng.poisson(world.missed * shares / shares.sum())
    edges, sample = draw_sample(scores.tolist(), 30, int(rng.integers(2**31)))
    parts = np.zeros((len(edges) + 1, 3), int)
    for index, score in enumerate(scores):
        stratum = stratum_of(score, edges)
        if index in sample:
            parts[stratum, 1:] += 1, int(true[index])
        else:
            parts[stratum, 0] += 1
    seen = rng.choice(missed, 5, replace=False).tolist()
    strata = [Stratum(*part) for part in parts.tolist()]
    found = estimate_count(int(true[list(sample)].sum()), strata, seen, world.tiles)
    return float(true.sum() + missed.sum()), found.objects, found.low, found.high


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_the_interval_holds_the_truth(world: World) -> None:
    rng = np.random.default_rng(0)
    true, value, low, high = np.array([counted(world, rng) for _ in range(400)]).T
    assert np.mean((low <= true) & (true <= high)) >= 0.91
    assert abs(np.mean(value - true)) < 0.02 * np.mean(true)
    assert np.mean(high - low) < 0.8 * np.mean(true)


@pytest.mark.parametrize(
    ("strata", "seen", "tiles", "objects", "low", "high"),
    [
        pytest.param([Stratum(70, 30, 30)], [0] * 5, 20, 75, 67, 88, id="all right"),
        pytest.param([Stratum(70, 30, 0)], [0] * 5, 20, 5, 5, 21, id="all wrong"),
        pytest.param([Stratum(0, 30, 20)], [0] * 20, 20, 5, 5, 5, id="all was looked at"),
        pytest.param([Stratum(70, 30, 15)], [1] * 5, 20, 60, 41, 87, id="half"),
        pytest.param([], [2] * 5, 20, 45, 27, 74, id="nothing proposed"),
        pytest.param([], [0, 0, 0, 0, 10], 20, 45, 15, 204, id="all in one tile"),
    ],
)  # fmt: skip
def test_the_number(
    strata: list[Stratum], seen: list[int], tiles: int, objects: float, low: float, high: float
) -> None:
    found = estimate_count(5, strata, seen, tiles)
    assert (found.objects, found.low, found.high) == pytest.approx((objects, low, high), abs=1)
    assert found.text == f"about {objects} objects ({found.low:.0f}–{found.high:.0f})"


def test_what_was_added_is_no_longer_missed() -> None:
    assert estimate_count(5, [], [1] * 5, 20).objects == 25
    assert estimate_count(11, [], [1] * 5, 20, added=6).objects == 25
    assert estimate_count(35, [], [1] * 5, 20, added=30).objects == 35


@pytest.mark.parametrize(
    ("scores", "number", "drawn", "strata"),
    [
        pytest.param([], 30, 0, 1, id="none"),
        pytest.param([0.5] * 7, 30, 7, 2, id="fewer than asked for"),
        pytest.param([0.9] * 100 + [0.1] * 100, 12, 12, 2, id="two kinds"),
        pytest.param(list(np.linspace(0, 1, 200)), 30, 30, 5, id="many"),
        pytest.param(list(np.linspace(0, 1, 200)), 3, 3, 1, id="a small sample"),
    ],
)
def test_a_sample_is_spread_over_the_scores(
    scores: list[float], number: int, drawn: int, strata: int
) -> None:
    edges, sample = draw_sample(scores, number)
    assert len(sample) == len(set(sample)) == drawn
    assert list(edges) == sorted(edges)
    assert len(edges) + 1 <= strata
    counts = np.bincount([stratum_of(scores[i], edges) for i in sample], minlength=len(edges) + 1)
    assert not drawn or counts.max() - counts[counts > 0].min() <= max(1, number - len(scores))
    assert draw_sample(scores, number) == (edges, sample)
