"""The loop: what it reports, what it leaves behind, how it ends."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from napari_peftsam.errors import AdapterMismatchError, TrainingError
from napari_peftsam.models import SamModel, build_tiny
from napari_peftsam.peft import (
    CobotLoraConfig,
    FrozenEncoderConfig,
    LoraConfig,
    MethodConfig,
    apply_adapter,
    parse_method_config,
)
from napari_peftsam.training import (
    RECIPES,
    AnnotatedPlane,
    Judging,
    MemoryPlanned,
    StepProgress,
    Team,
    TrainingConfig,
    TrainingStarted,
    TrainingStep,
    Validated,
    finetune,
    recommended_learning_rate,
)
from napari_peftsam.training.dataset import split_objects
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.judging import draw_held_out, mean_iou, validate
from napari_peftsam.training.samples import Targets, crop_masks, prepare_planes
from napari_peftsam.training.step import Trainer
from tests.training._world import finish, make_plane

METHODS = [LoraConfig(rank=4), CobotLoraConfig(rank=4), FrozenEncoderConfig()]


def _config(method: MethodConfig | None = None, **options: object) -> TrainingConfig:
    options.setdefault("steps", 4)
    defaults = {"objects_per_step": 3, "rounds": 2, "validations": 2, "learning_rate": 1e-3}
    return TrainingConfig(method=method or LoraConfig(rank=4), **{**defaults, **options})


def _weights(model: SamModel) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.sam.state_dict().items()}


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.method)
def test_a_run_tells_its_story_in_order(method: MethodConfig, planes: list[AnnotatedPlane]) -> None:
    events, finished = finish(finetune(build_tiny(), planes, _config(method)))
    planned, first, started, *middle = events
    assert isinstance(planned, MemoryPlanned)
    assert isinstance(started, TrainingStarted)
    assert (started.training_objects, started.held_out_objects) == (8, 8)
    assert started.held_out_by == "image"
    steps = [e for e in (first, *middle) if isinstance(e, TrainingStep)]
    assert [e.step for e in steps] == [1, 2, 3, 4]
    assert all(np.isfinite(e.loss) for e in steps)
    assert [e.step for e in middle if isinstance(e, Validated)] == [0, 2, 4]
    assert finished.steps == 4
    assert finished.trainable_parameters == started.trainable_parameters
    assert finished.iou_before == started.validation_iou
    kept = [e for e in middle if isinstance(e, Validated) and e.adapter is not None][-1]
    assert (finished.iou_after, finished.best_step) == (kept.iou, kept.step)
    assert finished.adapter.config == method


@pytest.mark.parametrize(
    ("method", "images"),
    [
        pytest.param(LoraConfig(rank=4), 2, id="all blocks, two images"),
        pytest.param(LoraConfig(rank=4, placement="late-50%"), 1, id="half of the blocks"),
        pytest.param(FrozenEncoderConfig(), 1, id="no block"),
    ],
)
def test_the_first_step_tells_how_far_it_is(
    method: MethodConfig, images: int, planes: list[AnnotatedPlane]
) -> None:
    found: list[StepProgress] = []
    config = _config(method, images_per_step=images)
    events = finetune(build_tiny(), planes, config, on_progress=found.append)
    assert isinstance(next(events), MemoryPlanned)
    shares = [each.share for each in found]
    assert shares[0] == 0
    assert shares == sorted(set(shares))
    assert 0.85 < shares[-1] < 1
    _, report = finish(events)
    assert len(found) == len(shares), "later steps are events of their own"
    _, expected = finish(finetune(build_tiny(), planes, config))
    assert report.adapter.digest == expected.adapter.digest


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.method)
@pytest.mark.parametrize("ending", ["finished", "closed"])
def test_the_model_is_left_as_it_was(
    method: MethodConfig, ending: str, planes: list[AnnotatedPlane]
) -> None:
    model = build_tiny()
    before = _weights(model)
    run = finetune(model, planes, _config(method))
    if ending == "finished":
        list(run)
    else:
        for event in run:
            if isinstance(event, TrainingStep):
                break
        run.close()
    after = _weights(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_training_learns_the_objects_it_is_shown() -> None:
    planes = [make_plane(f"image {i}", i) for i in range(3)]
    config = _config(FrozenEncoderConfig(), steps=60, learning_rate=5e-3, objects_per_step=6)
    losses = [e.loss for e in finetune(build_tiny(), planes, config) if isinstance(e, TrainingStep)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_the_result_reproduces_its_figure() -> None:
    planes = [make_plane(f"image {i}", i) for i in range(3)]
    config = _config(steps=12, learning_rate=5e-3, validations=4)
    _, finished = finish(finetune(build_tiny(), planes, config))
    model = build_tiny()
    split = split_objects(planes, config.held_out, config.seed)
    prepared = prepare_planes(planes, split.held_out, model)
    held_out = draw_held_out(split.held_out, planes, 40, config.seed)
    with apply_adapter(model, finished.adapter):
        encoder = PlaneEncoder(model, prepared, first=0)
        assert mean_iou(validate(encoder, held_out)) == finished.iou_after
    assert finished.adapter.metrics["val_iou"] == finished.iou_after


def test_the_same_seed_gives_the_same_adapter(planes: list[AnnotatedPlane]) -> None:
    first, second = (finish(finetune(build_tiny(), planes, _config()))[1] for _ in range(2))
    assert first.adapter.digest == second.adapter.digest


def test_training_goes_on_from_an_adapter(planes: list[AnnotatedPlane]) -> None:
    config = _config(steps=3, learning_rate=5e-3)
    first = list(finetune(build_tiny(), planes, config))
    learned = [e.adapter for e in first if isinstance(e, Validated) and e.adapter][-1]
    again = list(finetune(build_tiny(), planes, config, start=learned))
    started = next(e for e in again if isinstance(e, TrainingStarted))
    assert started.validation_iou == learned.metrics["val_iou"]
    at_start = next(e for e in again if isinstance(e, Validated))
    assert at_start.adapter is not None
    assert at_start.adapter.digest == learned.digest
    for event in again:
        if isinstance(event, Validated) and event.adapter:
            before = learned.provenance["steps"]
            assert event.adapter.provenance["steps"] == before + event.step


@pytest.mark.parametrize("steps", ["many", None, -5, float("inf"), [1]])
def test_steps_that_a_file_claims_in_vain_count_as_none(
    steps: object, planes: list[AnnotatedPlane]
) -> None:
    _, first = finish(finetune(build_tiny(), planes, _config(steps=1)))
    told = replace(first.adapter, provenance={**first.adapter.provenance, "steps": steps})
    events = finetune(build_tiny(), planes, _config(steps=1), start=told)
    at_start = next(e.adapter for e in events if isinstance(e, Validated) and e.adapter)
    assert at_start.provenance["steps"] == 0


def test_an_adapter_records_what_it_and_its_start_learned_from() -> None:
    planes = [make_plane(f"image {i}", i) for i in range(4)]
    _, first = finish(finetune(build_tiny(), planes[:2], _config(steps=2)))
    [trained], [checked] = (first.adapter.provenance[of] for of in ("trained_on", "checked_on"))
    assert {trained, checked} == {"image 0", "image 1"}
    run = finetune(build_tiny(), planes[:3], _config(steps=2), start=first.adapter)
    _, then = finish(run)
    assert set(then.adapter.provenance["trained_on"]) >= {trained}
    held = {plane.name for plane in planes[:3]} - set(then.adapter.provenance["trained_on"])
    assert held
    assert trained not in held


@pytest.mark.parametrize("zoom", [0.6, 0.8, 1.3, 2.0])
def test_masks_of_zoomed_crops_lie_where_the_image_does(zoom: float) -> None:
    rows, cols = torch.meshgrid(torch.arange(192), torch.arange(192), indexing="ij")
    disc = (rows - 90) ** 2 + (cols - 101) ** 2 < 12**2
    masks, crop = crop_masks(disc[None], 96, 8, zoom)
    assert crop is not None
    shown = crop.resample(disc.float().expand(1, 3, -1, -1))[0, 0] > 0.5
    for axis in (0, 1):
        centre = [float(mask.nonzero()[:, axis].float().mean()) for mask in (shown, masks[0])]
        assert abs(centre[0] - centre[1]) < 0.1


def test_an_adapter_of_another_base_is_refused(planes: list[AnnotatedPlane]) -> None:
    _, finished = finish(finetune(build_tiny(seed=1), planes, _config(steps=1)))
    model = build_tiny(seed=2)
    with pytest.raises(AdapterMismatchError, match="was trained on"):
        next(finetune(model, planes, _config(), start=finished.adapter))
    list(finetune(model, planes, _config(steps=1)))  # and the model is usable still


def test_a_run_that_no_longer_improves_ends_early(planes: list[AnnotatedPlane]) -> None:
    config = _config(steps=40, validations=40, early_stopping=3, learning_rate=1e-12)
    events, finished = finish(finetune(build_tiny(), planes, config))
    assert finished.steps == 4
    assert finished.verdict.outcome == "no difference"
    assert isinstance(events[-2], Validated)
    assert events[-1] == Judging()
    _, whole = finish(finetune(build_tiny(), planes, _config(steps=9, learning_rate=1e-12)))
    assert whole.steps == 9


class _Follower(Team):
    """One of several processes; the leading one finds the model better at every validation."""

    leads = False

    def __init__(self) -> None:
        self._found = (0.5 + 0.01 * n for n in count())

    def broadcast(self, value: float) -> float:
        return value if value in {0, 1} else next(self._found)  # those of `stop` are 0 or 1


def test_all_processes_end_when_the_leading_one_no_longer_improves(
    planes: list[AnnotatedPlane],
) -> None:
    config = _config(steps=9, validations=9, early_stopping=3, learning_rate=1e-12)
    _, alone = finish(finetune(build_tiny(), planes, config))
    _, together = finish(finetune(build_tiny(), planes, config, team=_Follower()))
    assert (alone.steps, together.steps) == (4, 9)


@pytest.mark.parametrize("validations", [0, 1, 3])
def test_a_run_ends_with_a_validation(validations: int, planes: list[AnnotatedPlane]) -> None:
    config = _config(steps=4, validations=validations, early_stopping=7)
    events, finished = finish(finetune(build_tiny(), planes, config))
    assert finished.steps == 4
    *_, last, after = events
    assert isinstance(last, Validated)
    assert last.step == 4
    assert after == Judging()
    assert sum(isinstance(each, Validated) for each in events) == 1 + max(validations, 1)


def test_on_a_plateau_smaller_steps_are_taken(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    whole = Trainer.update

    def spied(self: Trainer, rate: float) -> None:
        rates.append(rate)
        whole(self, rate)

    monkeypatch.setattr(Trainer, "update", spied)
    options = {"steps": 25, "validations": 25, "schedule": "plateau", "learning_rate": 1e-12}
    finish(finetune(build_tiny(), planes, _config(FrozenEncoderConfig(), **options)))
    # The start and ten more may pass; the eleventh that is no better lowers the rate.
    own = rates[:25]  # the folds of the verdict come after the run
    assert own == pytest.approx([1.0] * 11 + [0.9] * 11 + [0.81] * 3)


def test_the_recipe_of_peft_sams_trainer_trains() -> None:
    planes = [make_plane(f"image {i}", i) for i in range(3)]
    settings = RECIPES["peft-sam-trainer"].settings()
    fitting = LoraConfig(rank=2, matrices="all-linear", placement="late-50%")
    config = TrainingConfig(steps=6, **{**settings, "method": fitting, "learning_rate": 2e-3})
    events, finished = finish(finetune(build_tiny(), planes, config))
    losses = [e.loss for e in events if isinstance(e, TrainingStep)]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    assert [e.step for e in events if isinstance(e, Validated)] == [0, 6]  # no whole epoch of 50
    _, again = finish(finetune(build_tiny(), planes, config))
    assert again.adapter.digest == finished.adapter.digest


def test_dropout_is_decided_by_the_seed(planes: list[AnnotatedPlane]) -> None:
    def losses(seed: int, dropout: float) -> list[float]:
        method = parse_method_config({"method": "adaptformer", "bottleneck": 4, "dropout": dropout})
        config = _config(method, seed=seed, learning_rate=1e-2)
        return [
            e.loss for e in finetune(build_tiny(), planes, config) if isinstance(e, TrainingStep)
        ]

    assert losses(0, 0.5) == losses(0, 0.5)
    assert losses(0, 0.5) != losses(0, 0.0)


def test_asking_to_stop_ends_with_the_best_so_far(planes: list[AnnotatedPlane]) -> None:
    asked: list[bool] = []

    def stop() -> bool:
        return bool(asked)

    run = finetune(build_tiny(), planes, _config(steps=1000), stop=stop)
    for event in run:
        if isinstance(event, TrainingStep) and event.step == 2:
            asked.append(True)
            break
    events, finished = finish(run)
    assert finished.steps == 2
    assert isinstance(events[-2], Validated)
    assert events[-1] == Judging()


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        pytest.param({"steps": 3}, 3, id="steps"),
        pytest.param({"steps": None, "epochs": 2}, 2 * 3, id="epochs of 8 objects, 3 a step"),
    ],
)
def test_budgets(budget: dict[str, int], steps: int, planes: list[AnnotatedPlane]) -> None:
    _, finished = finish(finetune(build_tiny(), planes, _config(**budget)))
    assert finished.steps == steps


@pytest.mark.parametrize(
    ("seconds", "judged"),
    [pytest.param(20, 8, id="dear: a few"), pytest.param(2000, 16, id="cheap: all")],
)
def test_of_dear_held_out_objects_few_are_validated(
    seconds: int, judged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()  # as below
    monkeypatch.setattr(sys.modules[finetune.__module__], "perf_counter", lambda: 5 * next(ticks))
    planes = [make_plane(name) for name in "abcd"]
    run = finetune(build_tiny(), planes, _config(steps=None, seconds=seconds, held_out=0.5))
    started = next(each for each in run if isinstance(each, TrainingStarted))
    run.close()
    assert started.held_out_objects == judged


def test_a_budget_of_time_ends_the_run(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()  # a clock by which each look at it takes a second
    monkeypatch.setattr(sys.modules[finetune.__module__], "perf_counter", lambda: next(ticks))
    _, finished = finish(finetune(build_tiny(), planes, _config(steps=None, seconds=20)))
    assert finished.steps > 1
    assert 18 <= finished.seconds <= 22  # at most 15 % are kept for what follows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 5, "seconds": 3.0}, "exactly one budget"),
        ({"steps": None}, "got none"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"learning_rate": -1.0}, "greater than 0"),
        ({"held_out": 1.0}, "less than 1"),
        ({"surprise": 1}, "Extra inputs"),
        ({"early_stopping": 0}, "greater than or equal to 1"),
        ({"loss": "focal"}, "'dice-bce' or 'dice'"),
        ({"schedule": "step"}, "'cosine' or 'plateau'"),
        ({"prompts": "none"}, "'varied' or 'peft-sam'"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_configurations_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _config(**options)


def test_divergence_is_reported_and_leaves_the_model_whole(planes: list[AnnotatedPlane]) -> None:
    model = build_tiny()
    before = _weights(model)
    config = _config(steps=50, learning_rate=1e18)
    with pytest.raises(TrainingError, match=r"diverged.*lower the learning"):
        list(finetune(model, planes, config))
    assert all(torch.equal(v, before[k]) for k, v in model.sam.state_dict().items())


def test_unlabelled_pixels_far_from_objects_do_not_matter() -> None:
    """What lies outside an object's surroundings never reaches the loss."""
    plane = make_plane("a")
    only = np.where(plane.labels == 1, 1, 0)
    prepared = prepare_planes(
        [AnnotatedPlane("a", "a", plane.pixels, only)],
        split_objects([plane], 0.2, 0).training[:1],
        build_tiny(),
    )
    objects = [o for o in split_objects([plane], 0.2, 0).training if o.label == 1]
    targets = Targets.of(prepared[0].masks(objects))
    logits = torch.zeros(1, 1, 64, 64)
    elsewhere = logits.clone()
    elsewhere[..., 45:, :] = 30.0  # discs that nobody labelled
    everyone = slice(None)
    torch.testing.assert_close(targets.view(logits, everyone), targets.view(elsewhere, everyone))


def test_huge_labels_are_told_apart() -> None:
    plane = make_plane("a")
    huge = replace(plane, labels=plane.labels.astype(np.int64) << 32)
    objects = [split_objects([each], 0.2, 0).training for each in (plane, huge)]
    expected, found = (
        prepare_planes([each], chosen, build_tiny())[0].masks(chosen)
        for each, chosen in zip((plane, huge), objects, strict=True)
    )
    assert torch.equal(found, expected)


def test_all_eight_orientations_keep_objects_on_their_pixels() -> None:
    plane = make_plane("a")
    model = build_tiny()
    objects = split_objects([plane], 0.2, 0).training
    prepared = prepare_planes([plane], objects, model)[0]
    upright = prepared.masks(objects)
    for turn in range(8):
        masks = prepared.masks(objects, turn)
        inside, outside = (
            prepared.picture(turn)[0, 0][where].mean() for where in (masks.any(0), ~masks.any(0))
        )
        assert inside > outside + 1
        assert (masks.sum((1, 2)) == upright.sum((1, 2))).all()


def test_the_recommended_rate_follows_the_size_of_the_model() -> None:
    from napari_peftsam.models import architecture

    assert recommended_learning_rate(architecture("builtin")) == 2e-4
    assert recommended_learning_rate(architecture("vit_b")) == 5e-5


def test_crops_hold_the_objects_and_know_where_they_are() -> None:
    from napari_peftsam.models import build_random

    plane = make_plane("a")
    model = build_random("builtin")
    objects = [o for o in split_objects([plane], 0.2, 0).training if o.label in (1, 2)]
    prepared = prepare_planes([plane], objects, model)[0]
    whole = prepared.masks(objects)
    masks, crop = crop_masks(whole, 192, 8)
    assert crop is not None
    left, top = crop.corner
    picture = prepared.picture(0, crop)
    assert picture.shape == (1, 3, 192, 192)
    assert left % 8 == top % 8 == 0
    part = (..., slice(top, top + 192), slice(left, left + 192))
    assert torch.equal(picture, prepared.picture()[part])
    assert torch.equal(masks, whole[part])


@pytest.mark.parametrize("zoom", [0.4, 0.5, 0.8, 1.0, 1.6, 2.0])
def test_zoomed_crops_have_the_same_side_and_larger_objects(zoom: float) -> None:
    from napari_peftsam.models import build_random

    plane = make_plane("a")
    model = build_random("builtin")
    objects = [o for o in split_objects([plane], 0.2, 0).training if o.label == 5]
    prepared = prepare_planes([plane], objects, model)[0]
    whole = prepared.masks(objects)
    masks, crop = crop_masks(whole, 192, 8, zoom)
    assert crop is not None
    assert prepared.picture(0, crop).shape == (1, 3, 192, 192)
    assert all(0 <= c <= 384 - 192 and c % 8 == 0 for c in crop.corner)
    grown = float(masks.sum() / whole.sum()) ** 0.5
    assert grown == pytest.approx(max(zoom, 0.5), rel=0.05)


def test_the_builtin_model_is_finetuned_on_crops() -> None:
    from napari_peftsam.models import build_random

    planes = [make_plane(f"image {i}", i) for i in range(2)]
    events, finished = finish(finetune(build_random("builtin"), planes, _config(steps=2)))
    assert finished.steps == 2
    assert all(np.isfinite(e.loss) for e in events if isinstance(e, TrainingStep))


def test_objects_below_a_pixel_of_the_model_are_not_trained_on() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((192, 192), np.int32)  # three pixels to one of the model's
    for number in range(1, 9):
        row, col = number * 18 + 2, number * 20
        labels[row : row + 2, col : col + 5] = number  # between the rows that are sampled
    pixels = rng.random(labels.shape).astype(np.float32)
    specks = AnnotatedPlane("specks", "specks", pixels, labels)
    with pytest.raises(TrainingError, match="smaller than a pixel"):
        list(finetune(build_tiny(), [specks], _config()))
