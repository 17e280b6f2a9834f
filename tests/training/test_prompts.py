"""Simulated prompts lie where a person would put them."""

from __future__ import annotations

import pytest
import torch

from napari_peftsam.segmentation.decode import PromptTensors
from napari_peftsam.training.prompts import PeftSamSimulator, PromptSimulator

SEEDS = range(12)


def _user(seed: int, corner: tuple[float, float] = (0.0, 0.0)) -> PromptSimulator:
    return PromptSimulator(torch.Generator().manual_seed(seed), torch.tensor([corner]))


def _masks() -> torch.Tensor:
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:12, 6:20] = True
    masks[1, 20, 25] = True  # one pixel: nothing remains when it is eroded
    return masks


@pytest.mark.parametrize("seed", SEEDS)
def test_clicks_lie_inside_and_off_the_border(seed: int) -> None:
    points = _user(seed).clicks(_masks())
    (x, y), pixel = points[0, 0].tolist(), points[1, 0].tolist()
    assert 7 <= x <= 18
    assert 5 <= y <= 10
    assert pixel == [25, 20]


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_are_a_little_off(seed: int) -> None:
    exact = torch.tensor([6, 4, 20, 12]) - 0.5
    box = _user(seed).boxes(exact[None])[0]
    assert (box - exact).abs().max() <= 0.08 * 14 + 1e-4


def test_the_corner_moves_prompts_of_crops_into_the_frame() -> None:
    here = _user(0).clicks(_masks())
    there = _user(0, (100.0, 200.0)).clicks(_masks())
    torch.testing.assert_close(there - here, torch.tensor([[[100.0, 200.0]]] * 2))


def test_both_clicks_and_boxes_come_first() -> None:
    kinds = {_user(s).first(_masks()).boxes is None for s in SEEDS}
    assert kinds == {True, False}


def _answer(masks: torch.Tensor) -> torch.Tensor:
    return (masks.float() - 0.5) * 10


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("rows", "label"),
    [
        pytest.param(slice(4, 7), 1.0, id="too small: positive click"),
        pytest.param(slice(0, 30), 0.0, id="too large: negative click"),
        pytest.param(slice(4, 12), 1.0, id="perfect: positive click"),
    ],
)
def test_corrections_click_on_the_error(rows: slice, label: float, seed: int) -> None:
    truth = _masks()[:1]
    shown = torch.zeros_like(truth)
    shown[0, rows, 6:20] = True
    first = PromptTensors(points=torch.tensor([[[8.0, 8.0]]]), labels=torch.ones(1, 1))
    low = torch.zeros(1, 1, 16, 16)
    then = _user(seed).correct(first, _answer(shown), low, truth)
    assert then.points is not None
    assert then.labels is not None
    count = then.points.shape[1]
    assert 2 <= count <= 6
    assert then.labels.tolist() == [[1.0] + [label] * (count - 1)]
    for x, y in then.points[0, 1:].long().tolist():
        assert truth[0, y, x] == (label == 1)


def _neighbours() -> tuple[torch.Tensor, torch.Tensor]:
    """Return masks of an object with a neighbour, and of one alone; and all objects."""
    masks = torch.zeros(2, 48, 48, dtype=torch.bool)
    masks[:, 10:20, 10:20] = True
    foreground = masks.clone()
    foreground[0, 10:20, 20:30] = True
    return masks, foreground


def _hits(points: torch.Tensor, region: torch.Tensor) -> list[bool]:
    return [bool(m[int(y), int(x)]) for m, (x, y) in zip(region, points.tolist(), strict=True)]


@pytest.mark.parametrize("seed", range(40))
def test_first_prompts_may_deny_what_is_beside_the_object(seed: int) -> None:
    masks, foreground = _neighbours()
    prompts, meant = _user(seed).first_with_surroundings(masks, foreground)
    if prompts.points is None:
        assert prompts.boxes is not None
        assert torch.equal(meant, masks)
    elif prompts.points.shape[1] == 2:
        assert prompts.labels is not None
        assert prompts.labels.tolist() == [[1, 0], [1, 0]]
        assert _hits(prompts.points[:, 0], masks) == [True, True]
        assert _hits(prompts.points[:, 1], foreground & ~masks) == [True, False]
        assert not any(_hits(prompts.points[:, 1], masks))
        assert torch.equal(meant, masks)
    else:  # a click on the background means nothing, one on the object means it
        on_object = meant.flatten(1).any(1).tolist()
        assert _hits(prompts.points[:, 0], masks) == on_object
        assert _hits(prompts.points[:, 0], foreground) == on_object


def test_all_kinds_of_first_prompts_occur() -> None:
    masks, foreground = _neighbours()
    kinds = set()
    for seed in range(60):
        prompts, meant = _user(seed).first_with_surroundings(masks, foreground)
        clicks = 0 if prompts.points is None else prompts.points.shape[1]
        kinds.add((clicks, bool(meant.flatten(1).any(1).all())))
    assert kinds == {(0, True), (1, True), (1, False), (2, True)}


def test_where_all_is_one_object_nothing_is_denied() -> None:
    masks = torch.ones(2, 16, 16, dtype=torch.bool)
    for seed in range(40):
        prompts, meant = _user(seed).first_with_surroundings(masks, masks)
        assert meant.all()
        assert prompts.labels is None or prompts.labels.all()


@pytest.mark.parametrize("excess", [True, False], ids=["a mask too many", "an empty mask"])
def test_where_there_is_no_object_clicks_deny(excess: bool) -> None:
    nothing, shown = torch.zeros(1, 32, 32, dtype=torch.bool), torch.zeros(1, 32, 32) - 5
    if excess:
        shown[0, 4:12, 6:20] = 5
    first = PromptTensors(points=torch.tensor([[[8.0, 8.0]]]), labels=torch.ones(1, 1))
    then = _user(0).correct(first, shown, torch.zeros(1, 1, 16, 16), nothing)
    assert then.labels is not None
    assert then.labels[0, 0] == 1
    assert not then.labels[0, 1:].any()


# --- the user of PEFT-SAM's trainer ------------------------------------------------------


def _trainer(seed: int, box_first: bool = False) -> PeftSamSimulator:
    return PeftSamSimulator(torch.Generator().manual_seed(seed), box_first=box_first)


def test_the_trainers_boxes_grow_by_up_to_a_fortieth_a_side() -> None:
    tight = torch.tensor([[10.0, 20.0, 50.0, 40.0]]).repeat(500, 1)
    grown = (_trainer(0).boxes(tight) - tight) * torch.tensor([-1, -1, 1, 1])
    size = torch.tensor([40.0, 20.0, 40.0, 20.0])
    share = grown / size
    assert share.min() >= 0
    assert 0.024 < share.max() <= 0.025 + 1e-6
    assert share.mean() == pytest.approx(0.0125, rel=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_trainer_begins_with_a_click_or_a_box_as_it_is_told(seed: int) -> None:
    click, box = (_trainer(seed, kind).first(_masks()) for kind in (False, True))
    assert click.boxes is None
    assert click.points is not None
    assert _hits(click.points[:, 0], _masks()) == [True, True]
    assert (box.points, box.boxes is None) == (None, False)


def test_the_trainer_clicks_anywhere_on_an_object() -> None:
    points = _trainer(0).clicks(_masks()[:1], 2000)[0].long()
    assert len({tuple(point) for point in points.tolist()}) == 8 * 14  # all of its pixels


SHOWN = {
    "too small": (slice(4, 7), "missed", "beside"),
    "too large": (slice(0, 30), "object", "excess"),
    "shifted": (slice(8, 16), "missed", "excess"),
    "perfect": (slice(4, 12), "object", "beside"),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rows", "wanted", "denied"), SHOWN.values(), ids=SHOWN.keys())
def test_the_trainer_corrects_with_a_click_of_each_sign(
    rows: slice, wanted: str, denied: str, seed: int
) -> None:
    truth = _masks()[:1]
    shown = torch.zeros_like(truth)
    shown[0, rows, 6:20] = True
    around = torch.zeros_like(truth)
    around[0, 1:15, 3:23] = True  # the object's box and three pixels more
    regions = {
        "missed": truth & ~shown, "excess": shown & ~truth, "object": truth,
        "beside": around & ~truth,
    }  # fmt: skip
    first = _trainer(seed, box_first=True).first(truth)
    then = _trainer(seed).correct(first, _answer(shown), torch.zeros(1, 1, 16, 16), truth)
    assert then.points is not None
    assert then.labels is not None
    assert then.labels.tolist() == [[1, 0]]
    assert _hits(then.points[:, 0], regions[wanted]) == [True]
    assert _hits(then.points[:, 1], regions[denied]) == [True]
    assert then.boxes is not None
    again = _trainer(seed).correct(then, _answer(shown), torch.zeros(1, 1, 16, 16), truth)
    assert again.labels is not None
    assert again.labels.tolist() == [[1, 0, 1, 0]]


def test_the_trainer_feeds_the_mask_back_every_other_time() -> None:
    truth = _masks()[:1]
    first, low = _trainer(0).first(truth), torch.ones(1, 1, 16, 16)
    fed = [_trainer(s).correct(first, _answer(truth), low, truth).masks for s in range(300)]
    assert 0.4 < sum(mask is not None for mask in fed) / 300 < 0.6


def test_the_trainer_denies_nothing_where_all_is_one_object() -> None:
    masks = torch.ones(1, 16, 16, dtype=torch.bool)
    trainer = _trainer(0)
    then = trainer.correct(trainer.first(masks), _answer(masks), torch.zeros(1, 1, 8, 8), masks)
    assert then.labels is not None
    assert then.labels.tolist() == [[1, 1, 1]]
