"""The head for automatic segmentation: its targets, its loss, and what a run makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_peftsam.app.runner import run
from napari_peftsam.errors import AdapterMismatchError
from napari_peftsam.models import DenseHead, SamModel, build, build_tiny
from napari_peftsam.peft import (
    Adapter,
    Judged,
    apply_adapter,
    capture,
    dense_head_of,
    inject,
    load_adapter,
    parse_method_config,
    save_adapter,
)
from napari_peftsam.segmentation.automatic import ProposalScorer
from napari_peftsam.training import AnnotatedPlane, TrainingConfig, finetune, outcome
from napari_peftsam.training.dataset import objects_of
from napari_peftsam.training.dense import DenseTraining, dense_loss, dense_target
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.judging import HeldOut, draw_held_out
from napari_peftsam.training.proposals import finds_less, judge_by_labels
from napari_peftsam.training.samples import prepare_planes

SIDE = 64


def plane(name: str, background: np.ndarray | None = None) -> AnnotatedPlane:
    """Return a plane with four bright squares, two of them labelled 1 and 2."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    for number, (row, col) in enumerate([(6, 6), (6, 40), (40, 6), (40, 40)], start=1):
        labels[row : row + 16, col : col + 16] = number
    pixels = (labels > 0) * 100.0 + np.random.default_rng(0).normal(0, 5, labels.shape)
    return AnnotatedPlane(name, name, pixels, labels, background=background)


# --- targets ------------------------------------------------------------------------


def test_depth_is_a_share_of_the_deepest() -> None:
    foreground, depth, boundary = dense_target(plane("a").labels)
    assert foreground.sum() == 4 * 256
    assert depth.max() == 1
    assert depth[14, 14] > depth[8, 8] > depth[7, 7]
    assert boundary.sum() == 4 * 60  # the outermost pixels of a square of 16
    assert not depth[boundary > 0].any()


def known(
    complete: bool, labelled: tuple[int, ...], background: np.ndarray | None = None
) -> np.ndarray:
    model, one = build_tiny(), plane("a", background)
    objects = [o for o in objects_of(0, one) if o.label in labelled]
    planes = prepare_planes([one], objects, model)
    encoder = PlaneEncoder(model, planes, first=0)
    training = DenseTraining.of(encoder, None, objects, complete)
    found: np.ndarray = training.targets[0][0, 3].numpy() > 0
    return found


ALL = (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("complete", "labelled", "place", "expected"),
    [
        pytest.param(True, ALL, (32, 32), True, id="complete: background far from all"),
        pytest.param(True, (1, 2), (48, 48), False, id="complete: an object that is not learned"),
        pytest.param(False, ALL, (14, 14), True, id="sparse: an object"),
        pytest.param(False, ALL, (4, 14), True, id="sparse: its rim"),
        pytest.param(False, ALL, (32, 32), False, id="sparse: far from all"),
    ],
)
def test_what_is_known(
    complete: bool, labelled: tuple[int, ...], place: tuple[int, int], expected: bool
) -> None:
    assert known(complete, labelled)[place] == expected


def test_declared_background_is_known() -> None:
    background = np.zeros((SIDE, SIDE), bool)
    background[30:34, 30:34] = True
    found = known(False, ALL, background)
    assert found[32, 32]
    assert not found[28, 28]


# --- loss ---------------------------------------------------------------------------


def test_unknown_pixels_do_not_count() -> None:
    target = torch.from_numpy(dense_target(plane("a").labels))[None]
    sure = torch.zeros(1, SIDE, SIDE)
    sure[:, :32] = 1
    logits = torch.zeros(1, 3, SIDE, SIDE)
    other = logits.clone()
    other[:, :, 40:] = 9
    assert dense_loss(logits, target, sure) == dense_loss(other, target, sure)


def test_a_perfect_answer_costs_nothing() -> None:
    target = torch.from_numpy(dense_target(plane("a").labels))[None]
    logits = torch.logit(target.clamp(1e-6, 1 - 1e-6))
    assert dense_loss(logits, target).item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("turn", [0, 5], ids=["as it is", "turned"])
def test_where_nothing_is_known_it_is_held_to_what_was_said_before_the_training(turn: int) -> None:
    model, one = build("builtin", "cpu"), plane("a")
    encoder = PlaneEncoder(model, prepare_planes([one], objects_of(0, one), model), first=0)
    training = DenseTraining.of(
        encoder, model.dense_head, objects_of(0, one), complete=False, is_learning=False
    )
    with torch.no_grad():
        same = training.loss(encoder.features(0, turn), 0, turn)
        drifted = training.loss(-encoder.features(0, turn), 0, turn)
    assert same < 0.5 * drifted
    assert not any(parameter.requires_grad for parameter in training.head.parameters())


# --- runs ---------------------------------------------------------------------------


def trained(  # type: ignore[no-untyped-def]
    model: SamModel,
    start: Adapter | None = None,
    judged: Judged | None = None,
    **options: object,
):
    config = TrainingConfig(
        method=parse_method_config({"method": "frozen-encoder"}),
        # So low that no state is worse than the start, whose head is as it was.
        **{"steps": 4, "labels_are": "complete", "learning_rate": 1e-6} | options,  # type: ignore[arg-type]
    )
    planes = [plane("a"), plane("b"), plane("c")]
    return run(finetune(model, planes, config, start=start, judged=judged))


def test_a_model_without_a_head_gets_one(tiny_model: SamModel) -> None:
    adapter = trained(tiny_model).adapter
    head = dense_head_of(tiny_model, adapter)
    assert head is not None
    assert tiny_model.dense_head is None
    with apply_adapter(tiny_model, adapter):
        pass  # the head is no part of what is injected


def some_judged(count: int) -> Judged:
    rng = np.random.default_rng(count)
    return rng.normal(size=(count, 17)).astype(np.float32), np.zeros(count, np.float32)


@pytest.mark.parametrize(
    ("given", "options", "kept"),
    [
        pytest.param(None, {}, 3, id="those of the start"),
        pytest.param(some_judged(5), {}, 5, id="those that are given"),
        pytest.param(some_judged(5), {"automatic": False}, 3, id="automatic is left as it was"),
    ],
)
def test_judged_proposals_go_into_the_adapter(
    tiny_model: SamModel, given: Judged | None, options: dict[str, object], kept: int
) -> None:
    start = trained(tiny_model, judged=some_judged(3), labels_are="sparse").adapter
    adapter = trained(
        tiny_model, start=start, judged=given, **{"labels_are": "sparse"} | options
    ).adapter
    for found, expected in zip(adapter.judged, some_judged(kept), strict=True):
        np.testing.assert_array_equal(found, expected)


# A model whose head finds the squares already, and a training that leaves it about as it is.
GENTLE = {"steps": 1, "learning_rate": 1e-6}


def test_complete_labels_teach_the_scores() -> None:
    model = build("builtin", "cpu")
    assert model.dense_head is not None
    own = {name: value.clone() for name, value in model.dense_head.state_dict().items()}
    features, ious = trained(model, judged=some_judged(5), **GENTLE).adapter.judged
    for name, value in model.dense_head.state_dict().items():
        assert torch.equal(value, own[name])  # the model's own head stays as it is
    np.testing.assert_array_equal(features[-5:], some_judged(5)[0])  # the last are kept
    features, ious = features[:-5], ious[:-5]
    assert len(features) == len(ious) >= 4  # squares of an image
    assert ious.max() > 0.5
    after = ProposalScorer(features=features, ious=ious).scores(features).iou
    before = ProposalScorer().scores(features).iou
    assert np.abs(after - ious).mean() < np.abs(before - ious).mean()


@pytest.mark.parametrize(
    ("at_most", "stopped", "others", "least", "most"),
    [
        pytest.param(100, False, None, 12, 100, id="all planes"),
        pytest.param(6, False, None, 6, 6, id="an equal share of each plane"),
        pytest.param(0, False, None, 0, 0, id="a person judged enough"),
        pytest.param(100, True, None, 0, 0, id="stopped"),
        pytest.param(100, False, np.ones((SIDE, SIDE), bool), 0, 0, id="all is another plane's"),
    ],
)
def test_what_is_judged(
    at_most: int, stopped: bool, others: np.ndarray | None, least: int, most: int
) -> None:
    planes = [replace(plane(name), others=others) for name in "abc"]
    encoder, adapter = frozen(planes)
    judged = judge_by_labels(encoder, adapter, at_most, 1000, 0, lambda: stopped)
    count = 0 if judged is None else len(judged[1])
    assert least <= count <= most


def frozen(planes: Sequence[AnnotatedPlane]) -> tuple[PlaneEncoder, Adapter]:
    """Return an encoder of planes, and an adapter that changes nothing yet."""
    model = build("builtin", "cpu")
    objects = [o for index, one in enumerate(planes) for o in objects_of(index, one)]
    encoder = PlaneEncoder(model, prepare_planes(planes, objects, model), 0)
    with inject(model, parse_method_config({"method": "frozen-encoder"})) as injection:
        return encoder, capture(injection)


@pytest.mark.parametrize(
    ("new", "present", "labelled", "is_complete", "expected"),
    [
        pytest.param("blind", "own", 4, False, True, id="one that finds nothing"),
        pytest.param("own", "blind", 4, False, False, id="one that finds more"),
        pytest.param("own", "own", 4, True, False, id="one that finds as much"),
        pytest.param("blind", "own", 4, True, True, id="finds nothing in complete labels"),
        pytest.param("blind", "own", 1, True, False, id="one that invents less"),
        pytest.param("blind", "own", 1, False, True, id="unlabelled is not invented"),
    ],
)
def test_heads_are_compared_by_what_they_find(
    new: str, present: str, labelled: int, is_complete: bool, expected: bool
) -> None:
    planes = [
        replace(each, labels=np.where(each.labels <= labelled, each.labels, 0))
        for each in (plane("a"), plane("b"))
    ]
    encoder, adapter = frozen(planes)
    own = encoder.model.dense_head
    assert isinstance(own, DenseHead)
    blind = {name: torch.zeros_like(value) for name, value in own.state_dict().items()}
    states = {"own": own.state_dict(), "blind": blind}
    head = DenseHead(encoder.model.architecture.embedding_width).eval()
    head.load_state_dict(states[present])
    learned = [o for index, one in enumerate(planes) for o in objects_of(index, one)]
    held_out = draw_held_out(learned, planes, 8, 0)
    adapter = adapter.with_head(states[new])
    assert is_left_out(encoder, adapter, head, held_out, is_complete) is expected
    if labelled == 1:
        assert not is_left_out(encoder, adapter, head, draw_held_out(learned[:1], planes, 1, 0))


def is_left_out(
    encoder: PlaneEncoder,
    adapter: Adapter,
    head: DenseHead,
    held_out: HeldOut,
    is_complete: bool = False,
) -> bool:
    return finds_less(encoder, adapter, head, held_out, is_complete=is_complete, seconds=1000)


@pytest.mark.parametrize("goes_on", [False, True], ids=["the model's", "that of the start"])
def test_a_head_that_finds_less_is_left_out(monkeypatch: pytest.MonkeyPatch, goes_on: bool) -> None:
    model = build("builtin", "cpu")
    start = trained(model, **GENTLE).adapter if goes_on else None
    monkeypatch.setattr(outcome, "finds_less", lambda *_, **__: True)
    report = trained(model, start=start, **GENTLE | {"learning_rate": 1e-3})
    assert report.best_step
    expected = {} if start is None else start.head
    assert report.adapter.head.keys() == expected.keys()
    assert all(torch.equal(report.adapter.head[name], expected[name]) for name in expected)


def test_sparse_labels_teach_the_scores_nothing() -> None:
    adapter = trained(build("builtin", "cpu"), labels_are="sparse", **GENTLE).adapter
    assert not len(adapter.judged[1])


def test_a_head_that_is_not_trained_is_that_of_the_start(tiny_model: SamModel) -> None:
    start = trained(tiny_model).adapter
    adapter = trained(tiny_model, start=start, automatic=False).adapter
    assert adapter.head.keys() == start.head.keys() != set()
    assert all(torch.equal(adapter.head[name], start.head[name]) for name in start.head)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"automatic": False}, id="not wanted"),
        pytest.param({"leave_out": ("b",), "check_on": ("c",)}, id="four objects are too few"),
    ],
)
def test_no_head_is_trained(tiny_model: SamModel, options: dict[str, object]) -> None:
    assert not trained(tiny_model, **options).adapter.head


def test_files_bring_the_head_along(tiny_model: SamModel, tmp_path: Path) -> None:
    adapter = trained(tiny_model).adapter
    save_adapter(adapter, tmp_path / "a.safetensors")
    again = load_adapter(tmp_path / "a.safetensors")
    assert again.digest == adapter.digest
    assert again.head.keys() == adapter.head.keys()


def test_a_head_of_another_width_is_refused(tiny_model: SamModel) -> None:
    adapter = trained(tiny_model).adapter
    wide = DenseHead(64).state_dict()
    tensors = dict(adapter.tensors) | {f"automatic.head.{k}": v for k, v in wide.items()}
    with pytest.raises(AdapterMismatchError, match="head for automatic segmentation does not fit"):
        apply_adapter(tiny_model, replace(adapter, tensors=tensors))
