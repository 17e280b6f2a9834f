"""The verdict: a sentence, what it needs, and its intervals."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from napari_peftsam.evaluation import Answers, Trial, Verdict, bootstrap_intervals

GOOD, FAIR, POOR = (0.82,), (0.6, 0.7, 0.8), (0.3, 0.4, 0.5, 0.6, 0.8)  # 1, 3 and 5 clicks
RNG = np.random.default_rng(0)


def trial(
    old: tuple[float, ...], new: tuple[float, ...], image: str = "a", in_fold: bool = False
) -> Trial:
    return Trial(image, Answers(old[:1], old), Answers(new[:1], new), in_fold)


def given(before: float, after: float, clicks: tuple[float, ...] = FAIR) -> Trial:
    """Return a trial in which the same prompts give other masks, but no clicks are saved."""
    return Trial("a", Answers((before,), clicks), Answers((after,), clicks))


@pytest.mark.parametrize(
    ("answers", "clicks"),
    [
        pytest.param((0.9,), 1, id="at once"),
        pytest.param((0.7, 0.8), 2, id="just there"),
        pytest.param((0.7, 0.9), 1.5, id="between two clicks"),
        pytest.param((0.7, 0.6, 0.9), 2.667, id="after a fall"),
        pytest.param((0.1, 0.2, 0.3), 3, id="never: all clicks"),
    ],
)
def test_clicks_are_read_off_the_curve(answers: tuple[float, ...], clicks: float) -> None:
    assert Answers((), answers).clicks == pytest.approx(clicks, abs=0.001)


MIXED = [trial(POOR, FAIR)] * 3 + [trial(POOR, GOOD)] * 5 + [trial(FAIR, GOOD)]
BETTER = [
    pytest.param(MIXED, "Saves about 3.1 clicks per object (2.3–3.9, n = 9)", id="clicks"),
    pytest.param(
        [given(0.5, 0.55), given(0.6, 0.63), given(0.4, 0.46)] * 2,
        "Better masks from the same prompts, 4.7 % IoU more (3.0–5.8, n = 6)",
        id="IoU where no click is saved",
    ),
    pytest.param(
        [*MIXED[:4], *(trial(POOR, GOOD, in_fold=True) for _ in range(3))],
        "Saves about 3.1 clicks per object (2.3–4.0, n = 7)",
        id="with folds",
    ),
    pytest.param(
        [trial(POOR, GOOD)] * 5 + [trial(GOOD, POOR)] + [trial(FAIR, FAIR)] * 2,
        "Saves about 2.0 clicks per object (-1.0 to 4.0, n = 8)",
        id="probably",
    ),
]
STAY = [
    pytest.param([], "No object was held out to compare the models on", id="nothing held out"),
    pytest.param([trial(POOR, GOOD)], "No difference that 1 object could show", id="one object"),
    pytest.param(
        [trial(POOR, GOOD)] * 3, "No difference that 3 objects could show", id="three objects"
    ),
    pytest.param(
        [trial(FAIR, FAIR)] * 8, "No difference that 8 objects could show", id="all objects alike"
    ),
    pytest.param(
        [trial(FAIR, GOOD), trial(GOOD, FAIR)] * 5,
        "No difference that 10 objects could show",
        id="better and worse",
    ),
    pytest.param(
        [trial(POOR, GOOD, str(image)) for image in (0,) * 5]
        + [trial(GOOD, POOR, str(image)) for image in (1,)],
        "No difference that 6 objects could show",
        id="worse in another image",
    ),
    pytest.param(
        [trial(GOOD, FAIR)] * 2 + [trial(POOR, GOOD, in_fold=True)] * 16,
        "No difference that 18 objects could show",
        id="only the folds are better",
    ),
    pytest.param(
        [Trial("a", Answers((0.9,), POOR), Answers((0.5,), GOOD))] * 9,
        "No difference that 9 objects could show",
        id="fewer clicks, worse masks",
    ),
    pytest.param(
        [trial(GOOD, FAIR), trial(FAIR, POOR), trial(GOOD, POOR)] * 3,
        "Costs about 2.7 more clicks per object (2.0–3.3, n = 9)",
        id="worse",
    ),
    pytest.param(
        [given(0.6, 0.5)] * 6,
        "Worse masks from the same prompts, 10.0 % IoU less (10.0–10.0, n = 6)",
        id="worse masks",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("trials", "sentence"), BETTER)
def test_a_better_model_goes_live(trials: list[Trial], sentence: str) -> None:
    verdict = Verdict(tuple(trials))
    assert verdict.sentence == sentence
    assert verdict.is_better


@pytest.mark.parametrize(("trials", "sentence"), STAY)
def test_otherwise_the_old_one_stays(trials: list[Trial], sentence: str) -> None:
    verdict = Verdict(tuple(trials))
    assert verdict.sentence == f"{sentence}: the old one stays"
    assert not verdict.is_better


def test_a_verdict_can_be_sent_and_written() -> None:
    verdict = Verdict(tuple(MIXED))
    assert verdict.sentence
    assert pickle.loads(pickle.dumps(verdict)) == verdict
    figures = json.loads(json.dumps(verdict.to_dict()))
    assert list(figures) == [
        "sentence", "outcome", "objects", "images", "in_folds", "clicks_saved",
        "clicks_saved_interval", "iou_gain", "iou_gain_interval",
    ]  # fmt: skip
    assert (figures["outcome"], figures["objects"], figures["images"]) == ("better", 9, 1)
    low, high = figures["clicks_saved_interval"]
    assert low < figures["clicks_saved"] < high
    assert Verdict().to_dict()["clicks_saved_interval"] is None


# --- intervals --------------------------------------------------------------------


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    samples = np.random.default_rng(1).exponential(1, (150, 8))
    held = [low <= 1 <= high for [(low, high)] in
            (bootstrap_intervals(one[:, None], [0] * 8, 0.9) or [] for one in samples)]  # fmt: skip
    assert 0.78 < np.mean(held) < 0.96


def test_objects_of_one_image_count_less_than_those_of_many() -> None:
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 6)[:, None]
    [(low, high)] = bootstrap_intervals(values, list(range(24))) or []
    [(lower, higher)] = bootstrap_intervals(values, np.repeat(range(4), 6).tolist()) or []
    assert lower < low < 1.5 < high < higher


def test_a_single_value_has_no_interval() -> None:
    assert bootstrap_intervals(np.ones((1, 3)), [0]) is None
