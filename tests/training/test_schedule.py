"""Learning rate, validations and the end of a run, by progress and held-out objects."""

from __future__ import annotations

import math

import pytest
import torch

from napari_peftsam.configs import TrainingOptions
from napari_peftsam.training.schedule import Schedule


def _schedule(**options: object) -> Schedule:
    return Schedule(TrainingOptions.model_validate({"steps": 100, **options}))


@pytest.mark.parametrize(
    ("progress", "rate"),
    [(0.0, 1 / 11), (0.025, 6 / 11), (0.05, 1.0), (0.525, 0.525), (1.0, 0.05)],
)
def test_by_default_it_warms_up_and_falls_as_a_cosine(progress: float, rate: float) -> None:
    assert _schedule().rate(progress) == pytest.approx(rate)


PATTERNS = {
    "better for a while": [0.5 + 0.01 * n for n in range(10)] + [0.5] * 40,
    "never better": [0.7] * 60,
    "hardly better": [0.7 * (1 + 4e-6) ** n for n in range(60)],
    "better now and then": [0.5 + 0.01 * (n // 9) for n in range(80)],
}


@pytest.mark.parametrize("ious", PATTERNS.values(), ids=PATTERNS.keys())
def test_plateaus_are_those_of_torchs_scheduler(ious: list[float]) -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    expected = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, mode="max", factor=0.9, patience=10
    )
    schedule = _schedule(schedule="plateau")
    assert schedule.rate(0.0) == 1
    for iou in ious:
        schedule.validated(iou)
        expected.step(iou)
        assert schedule.rate(0.5) == pytest.approx(optimiser.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("allowed", "ious", "over_after"),
    [
        pytest.param(None, [0.7] * 50, None, id="off by default"),
        pytest.param(3, [0.7] * 50, 5, id="the start, three more, and one too many"),
        pytest.param(3, [0.5, 0.6, 0.5, 0.5, 0.61, 0.5, 0.5, 0.61, 0.61], 9, id="as good is no"),
        pytest.param(1, [0.5, 0.6, 0.7, 0.8], None, id="always better"),
    ],
)
def test_early_stopping(allowed: int | None, ious: list[float], over_after: int | None) -> None:
    schedule = _schedule(early_stopping=allowed)
    ends = []
    for number, iou in enumerate(ious, start=1):
        schedule.validated(iou)
        ends += [number] if schedule.over else []
    assert (ends[0] if ends else None) == over_after


def test_validations_are_spread_over_the_budget() -> None:
    schedule = _schedule(validations=4)
    due = [n for n in range(1, 101) if schedule.validation_due(n / 100, n, n / 3)]
    assert due == [25, 50, 75, 100]


@pytest.mark.parametrize(
    ("steps_an_epoch", "due"),
    [
        pytest.param(60, [60, 120, 180], id="every epoch"),
        pytest.param(3, [50, 100, 150, 200], id="fifty steps at least"),
        pytest.param(math.inf, [], id="no whole epoch"),
    ],
)
def test_validations_after_every_epoch(steps_an_epoch: float, due: list[int]) -> None:
    schedule = _schedule(validations=0)
    found = [
        n for n in range(1, 201) if schedule.validation_due(n / 200, n, n / steps_an_epoch)
    ]  # fmt: skip
    assert found == due


@pytest.mark.parametrize(
    ("budget", "cost", "expected"),
    [
        pytest.param({"seconds": 100}, 1, 5, id="as often as asked"),
        pytest.param({"seconds": 100}, 5, 3, id="15 % of the time"),
        pytest.param({"seconds": 100}, 50, 1, id="once in any case"),
        pytest.param({"seconds": 100, "validations": 0}, 1, 2, id="after each epoch"),
        pytest.param({"steps": 100}, 50, 5, id="steps are no time"),
    ],
)
def test_dear_validations_are_fewer(budget: dict[str, float], cost: float, expected: int) -> None:
    schedule = Schedule(TrainingOptions.model_validate(budget))
    schedule.started(0.5, cost)
    due = [schedule.validation_due(step / 100, step, step / 50) for step in range(1, 101)]
    assert sum(due) == expected
    assert due[-1]
