"""The verdict of a run: what is replayed, folds, and sessions that prove nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_peftsam.embeddings import encode_one
from napari_peftsam.errors import TrainingError
from napari_peftsam.evaluation import Answers, Target
from napari_peftsam.models import build, build_tiny
from napari_peftsam.peft import Adapter, FrozenEncoderConfig, LoraConfig, capture, inject
from napari_peftsam.training import (
    AnnotatedPlane,
    Incumbent,
    TrainingConfig,
    TrainingReport,
    Validated,
    finetune,
)
from napari_peftsam.training.dataset import TrainingObject, objects_of, split_objects
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.judging import (
    FoldObjects,
    HeldOutObject,
    draw_held_out,
    is_loss,
    is_worse,
    part_of,
    plane_predictor,
    replay,
    validate,
)
from napari_peftsam.training.samples import prepare_planes
from napari_peftsam.types import Box, Point, Prompts
from tests.training._world import CENTRES, finish, make_plane


def config(**options: Any) -> TrainingConfig:
    defaults = {"steps": 4, "objects_per_step": 3, "rounds": 2, "validations": 2}
    return TrainingConfig(
        **{"method": LoraConfig(rank=4), "learning_rate": 1e-3} | defaults | options
    )


def train(planes: list[AnnotatedPlane], **options: Any) -> TrainingReport:
    _, report = finish(finetune(build_tiny(), planes, config(**options)))
    return report


def useless() -> Adapter:
    """Return an adapter with which all masks are empty."""
    with inject(build_tiny(), FrozenEncoderConfig()) as injection:
        adapter = capture(injection, {}, {})
    last = [n for n in adapter.tensors if "hypernetworks" in n and ".layers.2." in n]
    return replace(
        adapter, tensors={n: t * 0 if n in last else t for n, t in adapter.tensors.items()}
    )


# --- what is replayed -------------------------------------------------------------


def answers_to(prompts: Prompts) -> tuple[list[int], list[int]]:
    """Return how many of the prompts of one object were answered, replayed and validated."""
    plane = make_plane("a")
    plane = replace(plane, prompts={1: prompts} if prompts else {})
    objects = objects_of(0, plane)[:1]
    held_out = draw_held_out(objects, [plane], 9, 0)
    encoder = PlaneEncoder(build_tiny(), prepare_planes([plane], objects, build_tiny()), 0)
    found = replay(encoder, held_out), validate(encoder, held_out)
    replayed, validated = ([len(each.given) for each in answers] for answers in found)
    return replayed, validated


def test_planes_are_embedded_as_images_are_in_the_viewer() -> None:
    model, plane = replace(build("builtin"), precision="fp32"), make_plane("a")
    objects = objects_of(0, plane)
    encoder = PlaneEncoder(model, prepare_planes([plane], objects, model), 0)
    expected = encode_one(model, plane.pixels)
    with plane_predictor(encoder, 0) as (_, embedding):
        assert (embedding.key, embedding.frame) == (expected.key, expected.frame)
        np.testing.assert_allclose(embedding.features, expected.features, atol=1e-4)


def test_validations_see_the_upright_image_alone() -> None:
    both, plane = replace(build("builtin"), precision="fp32"), make_plane("a")
    noise = np.random.default_rng(0).normal(size=plane.pixels.shape)  # hard enough to differ
    plane = replace(plane, pixels=noise)
    alone = replace(both, architecture=replace(both.architecture, orientations=1))
    objects = objects_of(0, plane)[:2]
    held_out = draw_held_out(objects, [plane], 2, 0)
    first, second, judged = (
        ask(PlaneEncoder(model, prepare_planes([plane], objects, model), 0), held_out)
        for model, ask in ((both, validate), (alone, validate), (both, replay))
    )
    assert first == second
    assert [each.iou for each in judged] != [each.iou for each in first]


@pytest.mark.parametrize(
    ("prompts", "given"),
    [
        pytest.param(Prompts((Point(12, 12), Point(14, 12))), 2, id="two clicks"),
        pytest.param(Prompts(box=Box(5, 5, 20, 20)), 1, id="a box alone"),
        pytest.param(Prompts((Point(12, 12),), Box(5, 5, 20, 20)), 2, id="a box and a click"),
        pytest.param(Prompts(), 4, id="none: a box and three clicks are simulated"),
    ],
)
def test_the_persons_own_prompts_are_replayed(prompts: Prompts, given: int) -> None:
    assert answers_to(prompts) == ([given], [4])


def test_the_same_run_has_the_same_verdict(planes: list[AnnotatedPlane]) -> None:
    first, second = (train(planes).verdict for _ in range(2))
    assert first == second
    assert first.sentence == second.sentence


def test_a_report_with_its_verdict_can_be_sent(planes: list[AnnotatedPlane]) -> None:
    report = train(planes)
    sent: TrainingReport = pickle.loads(pickle.dumps(report))
    assert sent.verdict == report.verdict
    assert sent.improved is report.verdict.is_better


def test_what_beats_a_useless_model_goes_live(planes: list[AnnotatedPlane]) -> None:
    incumbent = Incumbent(useless())
    _, report = finish(finetune(build_tiny(), planes, config(), incumbent=incumbent))
    assert report.iou_before == 0
    assert report.verdict.objects == 16, "eight held out, and eight in folds"
    assert report.improved
    assert report.verdict.sentence.startswith("Better masks from the same prompts")


def test_each_validation_has_a_verdict_for_a_run_that_breaks_off() -> None:
    planes = [make_plane("a"), make_plane("b", 1)]
    run = finetune(build_tiny(), planes, config(), incumbent=Incumbent(useless()))
    verdicts = [event.verdict for event in run if isinstance(event, Validated)]
    assert [verdict.objects for verdict in verdicts] == [8, 8, 8]
    assert all(verdict.is_better for verdict in verdicts)


# --- folds ------------------------------------------------------------------------


def folds_of(planes: list[AnnotatedPlane], judged: list[TrainingObject]) -> FoldObjects:
    everything = tuple(o for i, plane in enumerate(planes) for o in objects_of(i, plane))
    return FoldObjects(tuple(judged), everything, planes, config())


@pytest.mark.parametrize("images", [1, 2, 4], ids="{} images".format)
def test_no_fold_learns_from_what_it_is_judged_on(images: int) -> None:
    planes = [make_plane(f"image {i}", i) for i in range(images)]
    judged = [o for i, plane in enumerate(planes) for o in objects_of(i, plane)]
    folds = folds_of(planes, judged).split()
    assert len(folds) == min(3, images) or images == 1
    seen = 0
    for held_out, learned in folds:
        targets = [(i, one.target.window) for i, objects in held_out.items() for one in objects]
        seen += len(targets)
        for o in learned:
            window = Target.from_mask(planes[o.plane].labels == o.label).window
            assert (o.plane, window) not in targets
        if images > 1:
            assert {*held_out}.isdisjoint({o.plane for o in learned}), "whole images"
    assert seen == min(len(judged), 18)


def test_folds_judge_only_what_no_earlier_adapter_learned() -> None:
    planes = [make_plane("a"), make_plane("b", 1), make_plane("c", 2)]
    first = train(planes[:2], steps=8, learning_rate=5e-3)
    events = finetune(build_tiny(), planes, config(), start=first.adapter)
    _, report = finish(events)
    learned = {*first.adapter.provenance["trained_on"]}
    judged = {trial.image for trial in report.verdict.trials if trial.in_fold}
    assert judged.isdisjoint(learned)


def test_many_held_out_objects_need_no_folds() -> None:
    planes = [make_plane(name, i) for i, name in enumerate("abcd")]
    report = train(planes, held_out=0.5, learning_rate=5e-3)
    assert report.verdict.objects == 16
    assert not any(trial.in_fold for trial in report.verdict.trials)


def test_folds_leave_the_model_as_it_was(planes: list[AnnotatedPlane]) -> None:
    model = build_tiny()
    before = {name: tensor.clone() for name, tensor in model.sam.state_dict().items()}
    incumbent = Incumbent(useless())
    _, report = finish(finetune(model, planes, config(), incumbent=incumbent))
    assert any(trial.in_fold for trial in report.verdict.trials)
    after = model.sam.state_dict()
    assert after.keys() == before.keys()
    assert all((after[name] == tensor).all() for name, tensor in before.items())


def test_an_adapter_of_the_encoder_alone_is_judged_without_folds(
    planes: list[AnnotatedPlane],
) -> None:
    method = LoraConfig(rank=4, tune_mask_decoder=False, tune_prompt_encoder=False)
    incumbent = Incumbent(useless())
    _, report = finish(finetune(build_tiny(), planes, config(method=method), incumbent=incumbent))
    assert report.verdict.objects == 8


def test_a_run_that_was_stopped_is_judged_as_any_other(planes: list[AnnotatedPlane]) -> None:
    run = finetune(
        build_tiny(), planes, config(steps=50), incumbent=Incumbent(useless()), stop=lambda: True
    )
    _, report = finish(run)
    assert report.steps == 1
    assert report.verdict.objects == 16


def test_a_start_that_was_kept_is_judged_against_what_was_live(
    planes: list[AnnotatedPlane],
) -> None:
    learned = train(planes, **WELL).adapter
    incumbent, worse = Incumbent(useless()), config(steps=2, learning_rate=3.0)
    run = finetune(build_tiny(), planes, worse, start=learned, incumbent=incumbent)
    _, report = finish(run)
    assert report.best_step == 0
    assert report.improved


# --- the state that is kept ---------------------------------------------------------

WELL = {"method": FrozenEncoderConfig(), "steps": 40, "learning_rate": 5e-3}


def answers(ious: list[float]) -> list[Answers]:
    return [Answers((iou,), (iou,)) for iou in ious]


@pytest.mark.parametrize(
    ("before", "after", "images", "expected"),
    [
        pytest.param([0.5, 0.6, 0.7], [0.6, 0.7, 0.8], "abc", False, id="better"),
        pytest.param([0.5, 0.6, 0.7], [0.4, 0.5, 0.6], "abc", True, id="worse everywhere"),
        pytest.param([0.5, 0.6, 0.7], [0.5, 0.6, 0.7], "abc", False, id="the same"),
        pytest.param([0.5, 0.6, 0.7, 0.8], [0.6, 0.7, 0.6, 0.6], "abcd", False, id="as good as"),
        pytest.param([0.5, 0.5, 0.7, 0.8], [0.55, 0.6, 0.5, 0.6], "aabb", False,
                     id="worse in one image of two"),
        pytest.param([0.5], [0.49], "a", True, id="one object, worse"),
        pytest.param([0.5], [0.51], "a", False, id="one object, better"),
    ],
)  # fmt: skip
def test_a_state_is_dropped_if_it_is_worse_by_more_than_noise(
    before: list[float], after: list[float], images: str, expected: bool
) -> None:
    target = Target.from_mask(np.ones((3, 3), bool))
    held_out = {i: (HeldOutObject(name, target, Prompts()),) for i, name in enumerate(images)}
    assert is_worse(held_out, answers(after), answers(before)) is expected


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        pytest.param(0, 99, {0: 3, 1: 2}, id="all"),
        pytest.param(0, 2, {0: 2}, id="the first"),
        pytest.param(2, 4, {0: 1, 1: 1}, id="of two planes"),
        pytest.param(3, 5, {1: 2}, id="the last"),
        pytest.param(5, 9, {}, id="none are left"),
    ],
)
def test_a_part_of_the_held_out_objects(start: int, stop: int, expected: dict[int, int]) -> None:
    planes = [make_plane("a"), make_plane("b")]
    objects = [*objects_of(0, planes[0])[:3], *objects_of(1, planes[1])[:2]]
    found = part_of(draw_held_out(objects, planes, 9, 0), start, stop)
    assert {plane: len(some) for plane, some in found.items()} == expected


def test_noise_is_wider_at_a_higher_level() -> None:
    images, gains = ["a"] * 3 + ["b"] * 3, [-0.1, 0.02] * 3
    assert is_loss(images, gains)
    assert not is_loss(images, gains, level=0.95)
    assert is_loss(images, [-0.1] * 6, level=0.95)


def test_a_run_that_only_makes_things_worse_returns_its_start(
    planes: list[AnnotatedPlane],
) -> None:
    learned = train(planes, **WELL).adapter
    _, report = finish(finetune(build_tiny(), planes, config(learning_rate=3.0), start=learned))
    assert report.best_step == 0
    assert report.adapter.digest == learned.digest
    assert report.verdict.outcome == "no difference"


# --- sessions that prove nothing ----------------------------------------------------


def few(count: int) -> list[AnnotatedPlane]:
    plane = make_plane("a")
    return [replace(plane, labels=np.where(plane.labels <= count, plane.labels, 0))]


def wrong() -> list[AnnotatedPlane]:
    """Return labels that lie anywhere but on the objects."""
    planes = [make_plane("a"), make_plane("b", 1)]
    return [
        replace(p, labels=np.roll(p.labels, (11, 10 + i), (0, 1)), prompts={})
        for i, p in enumerate(planes)
    ]


def alike() -> list[AnnotatedPlane]:
    """Return an image that holds the same object eight times, to the pixel."""
    plane = make_plane("a")
    row, col = CENTRES[0]
    patch = plane.pixels[row - 9 : row + 10, col - 9 : col + 10]
    pixels = np.full_like(plane.pixels, patch[0, 0])
    for r, c in CENTRES:
        pixels[r - 9 : r + 10, c - 9 : c + 10] = patch[: pixels.shape[0] - r + 9]
    return [replace(plane, pixels=pixels, prompts={})]


@pytest.mark.parametrize(
    "planes",
    [
        pytest.param(few(3), id="three objects"),
        pytest.param(few(5), id="one image"),
        pytest.param(wrong(), id="labels wrong on purpose"),
        pytest.param(alike(), id="all objects alike"),
    ],
)
def test_what_proves_nothing_leaves_the_old_one(planes: list[AnnotatedPlane]) -> None:
    report = train(planes, learning_rate=1e-5)
    assert report.verdict.sentence.endswith(": the old one stays")
    assert not report.improved


def test_two_objects_are_refused() -> None:
    with pytest.raises(TrainingError, match="at least 3 annotated objects"):
        train(few(2))


def test_one_is_held_out_of_three() -> None:
    split = split_objects(few(3), 0.2, 0)
    assert (len(split.training), len(split.held_out)) == (2, 1)
