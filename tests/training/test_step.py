"""A step: what is computed does not depend on how it is cut up, nor on who computes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from napari_peftsam.models import DenseHead, SamModel, build_random, build_tiny, encode_tensor
from napari_peftsam.peft import FrozenEncoderConfig, LoraConfig, MethodConfig, inject
from napari_peftsam.peft.methods.fact import FactConfig
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training import AnnotatedPlane, StepPlan, Team, TrainingConfig
from napari_peftsam.training.dataset import split_objects
from napari_peftsam.training.dense import DenseTraining
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.losses import promptable_loss
from napari_peftsam.training.prompts import PeftSamSimulator
from napari_peftsam.training.samples import Targets, View, Views, prepare_planes
from napari_peftsam.training.step import MicroBatch, Trainer, add_gradients
from tests.training._world import make_plane

METHODS = [
    pytest.param(LoraConfig(rank=4), id="lora in all blocks"),
    pytest.param(LoraConfig(rank=4, placement="late-50%"), id="lora in late blocks"),
    pytest.param(FrozenEncoderConfig(), id="frozen encoder"),
]


@pytest.fixture
def model() -> SamModel:
    """A tiny model that computes in single precision on every machine."""
    return replace(build_tiny(), precision="fp32")


def _batch(model: SamModel, rounds: int = 4) -> tuple[MicroBatch, Tensor]:
    """Return eight objects of a plane with its image, the same ones every time."""
    plane = make_plane("a")
    objects = split_objects([plane], 0.2, 0).training
    prepared = prepare_planes([plane], objects, model)[0]
    targets = Targets.of(prepared.masks(objects))
    user = targets.user(torch.Generator().manual_seed(3))
    prompts = user.first(targets.truth, targets.boxes)
    return MicroBatch(targets, user, prompts, rounds), prepared.picture()


def _take_gradients(model: SamModel) -> dict[str, Tensor]:
    found = {n: p.grad for n, p in model.sam.named_parameters() if p.grad is not None}
    for parameter in model.sam.parameters():
        parameter.grad = None
    return found


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert expected
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # The last bias of a hypernetwork and the like hardly matter: rounding is all they have.
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def _all_at_once(model: SamModel, batch: MicroBatch, features: Tensor) -> Tensor:
    """Do what `add_gradients` does the plain way: one sum, differentiated once."""
    user, targets, prompts = batch.user, batch.targets, batch.prompts
    losses = []
    for _ in range(batch.rounds):
        low, scores = decode(model.sam, features, prompts)
        seen = targets.view(low, slice(None))
        losses.append(promptable_loss(seen, scores, targets.shapes))
        best = torch.arange(len(low)), scores.argmax(1)
        prompts = user.correct(
            prompts, seen.detach()[best], low.detach()[best][:, None], targets.truth
        )
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_the_sum_of_all_rounds(
    model: SamModel, method: MethodConfig
) -> None:
    with inject(model, method):
        batch, image = _batch(model)
        expected_loss = _all_at_once(model, batch, encode_tensor(model.sam, image))
        expected = _take_gradients(model)
        batch, image = _batch(model)
        features = encode_tensor(model.sam, image)
        loss = add_gradients(model, batch, features, StepPlan(), torch.tensor(1.0))
        assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
        _assert_same(_take_gradients(model), expected)


@pytest.mark.parametrize("objects_at_once", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("method", METHODS)
def test_objects_may_go_through_the_decoder_in_parts(
    model: SamModel, method: MethodConfig, objects_at_once: int
) -> None:
    with inject(model, method):
        results = []
        for plan in (StepPlan(), StepPlan(objects_at_once)):
            batch, image = _batch(model)
            features = encode_tensor(model.sam, image)
            loss = add_gradients(model, batch, features, plan, torch.tensor(1.0))
            results.append((loss, _take_gradients(model), batch.user.generator.get_state()))
    (whole, expected, drawn), (parts, found, drawn_in_parts) = results
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    assert torch.equal(drawn_in_parts, drawn)
    _assert_same(found, expected)


def test_a_frozen_encoder_is_not_differentiated(model: SamModel) -> None:
    with inject(model, FrozenEncoderConfig()):
        batch, image = _batch(model)
        features = encode_tensor(model.sam, image)
        assert not features.requires_grad
        add_gradients(model, batch, features, StepPlan(), torch.tensor(1.0))
        assert all(not n.startswith("image_encoder") for n in _take_gradients(model))


@pytest.mark.parametrize(
    ("boxes", "outputs"),
    [
        pytest.param(False, ["three masks", "one mask", "one mask"], id="click"),
        pytest.param(True, ["one mask"] * 3, id="box"),
    ],
)
def test_the_dice_loss_trains_the_outputs_that_answer(
    model: SamModel, boxes: bool, outputs: list[str]
) -> None:
    """Of the masks' tokens those that no answer comes from get no gradient."""
    with inject(model, FrozenEncoderConfig()):
        for rounds in (1, 2, 3):
            batch, image = _batch(model, rounds)
            prompts = batch.prompts
            if boxes:
                prompts = PromptTensors(boxes=batch.user.boxes(batch.targets.boxes))
            elif prompts.points is None:
                points = batch.user.clicks(batch.targets.truth)
                prompts = PromptTensors(points=points, labels=torch.ones_like(points[..., 0]))
            batch = replace(batch, prompts=prompts, loss="dice")
            features = encode_tensor(model.sam, image)
            loss = add_gradients(model, batch, features, StepPlan(), torch.tensor(1.0))
            assert 0 < loss < 2.5
            found = _take_gradients(model)
            heads = [
                any(g.any() for n, g in found.items() if f"output_hypernetworks_mlps.{head}." in n)
                for head in range(4)
            ]
            kinds = set(outputs[:rounds])
            assert heads[0] == ("one mask" in kinds)
            assert any(heads[1:]) == ("three masks" in kinds)


def test_the_prompts_of_peft_sams_trainer_alternate(
    model: SamModel, planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = split_objects(planes, 0.2, 0).training
    prepared = prepare_planes(planes, objects, model)
    config = TrainingConfig(steps=1, rounds=2, prompts="peft-sam", loss="dice")
    own = [View(objects[:1], own_prompts=True)]  # the user's prompts are not the trainer's
    views = [v for _, v in islice(Views(objects, prepared, model.architecture, 4, 0), 1)]
    kinds: list[bool] = []
    whole = PeftSamSimulator.first

    def spied(self: PeftSamSimulator, *given: Tensor) -> PromptTensors:
        kinds.append(self.box_first)
        return whole(self, *given)

    monkeypatch.setattr(PeftSamSimulator, "first", spied)
    with inject(model, FrozenEncoderConfig()) as injection:
        trainer = Trainer(injection, config, PlaneEncoder(model, prepared, first=4), Team())
        for number in range(4):
            trainer.gradients(number, own if number == 2 else views)
    assert kinds == [False, True, False, True]


class _Kept:
    """Counts the bytes that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> _Held:
        return _Held(self, tensor)

    @staticmethod
    def unpack(held: _Held) -> Tensor:
        return held.tensor


class _Held:
    def __init__(self, kept: _Kept, tensor: Tensor) -> None:
        self.kept, self.tensor = kept, tensor
        kept.now += tensor.nbytes
        kept.most = max(kept.most, kept.now)

    def __del__(self) -> None:
        self.kept.now -= self.tensor.nbytes


def _most_kept(model: SamModel, rounds: int, plan: StepPlan) -> int:
    batch, image = _batch(model, rounds)
    features = encode_tensor(model.sam, image)
    kept = _Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, kept.unpack):
        add_gradients(model, batch, features, plan, torch.tensor(1.0))
    assert kept.now == 0
    return kept.most


def test_activations_of_one_round_and_part_are_kept_at_a_time(model: SamModel) -> None:
    with inject(model, LoraConfig(rank=4)):
        once = _most_kept(model, 1, StepPlan())
        # Later rounds have more clicks, and a mask that is fed back.
        assert _most_kept(model, 8, StepPlan()) < 2 * once
        assert _most_kept(model, 1, StepPlan(objects_at_once=2)) < 0.5 * once


class _Member(Team):
    """One of several processes; it notes its gradients and hears nothing of the others."""

    def __init__(self, rank: int, members: int) -> None:
        self.rank, self.members = rank, members
        self.noted: dict[int, Tensor] = {}

    def share(self, micro_batches: int) -> Sequence[int]:
        return range(self.rank, micro_batches, self.members)

    def add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        self.noted = {i: p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None}


@pytest.mark.parametrize("members", [2, 3, 4])
def test_processes_that_share_a_step_add_up_to_one(
    model: SamModel, planes: list[AnnotatedPlane], members: int
) -> None:
    """Whoever computes a micro-batch draws the same prompts and the same dropout for it."""
    objects = split_objects(planes, 0.2, 0).training
    prepared = prepare_planes(planes, objects, model)
    config = TrainingConfig(steps=1, rounds=2, learning_rate=1e-30)
    views = [v for _, v in islice(Views(objects, prepared, model.architecture, 2, 0), 3)]
    alone, team = _Member(0, 1), [_Member(rank, members) for rank in range(members)]
    with inject(model, FactConfig(dropout=0.3)) as injection:
        encoder = PlaneEncoder(model, prepared, first=0)
        for member in (alone, *team):
            Trainer(injection, config, encoder, member).gradients(7, views)
    together: dict[int, Tensor] = {}
    for member in team:
        for index, gradient in member.noted.items():
            together[index] = together.get(index, torch.zeros_like(gradient)) + gradient
    _assert_same(
        {str(i): g for i, g in together.items()}, {str(i): g for i, g in alone.noted.items()}
    )


def test_the_average_of_the_weights_takes_their_place_for_a_while(
    model: SamModel, planes: list[AnnotatedPlane]
) -> None:
    objects = split_objects(planes, 0.2, 0).training
    prepared = prepare_planes(planes, objects, model)
    config = TrainingConfig(steps=3, averaging=0.4, learning_rate=1e-2)
    views = [v for _, v in islice(Views(objects, prepared, model.architecture, 2, 0), 3)]
    with inject(model, FrozenEncoderConfig()) as injection:
        trainer = Trainer(injection, config, PlaneEncoder(model, prepared, first=0), Team())
        weights = injection.trainable_parameters()
        name = next(iter(weights))
        expected = weights[name].detach().clone()
        for step, kept in enumerate((1 / 10, 2 / 11, 3 / 12)):
            trainer.gradients(step, views[step : step + 1])
            trainer.update(1.0)
            expected = kept * expected + (1 - kept) * weights[name].detach()
        own = {n: p.detach().clone() for n, p in weights.items()}
        with trainer.result():
            torch.testing.assert_close(weights[name].detach(), expected)
            assert not torch.equal(weights[name], own[name])
        assert all(torch.equal(weights[n], own[n]) for n in weights)


@pytest.mark.parametrize(
    ("before", "steps", "factor"),
    [
        pytest.param(0, 0, 1.0, id="the start is the base"),
        pytest.param(0, 50, 2**0.5, id="halfway"),
        pytest.param(0, 150, 2.0, id="trained"),
        pytest.param(40, 150, 2**0.6, id="after a short training"),
        pytest.param(150, 50, 1.0, id="after a long training"),
        pytest.param(10**400, 1, 1.0, id="after more steps than a float holds"),
    ],
)
def test_what_a_refiner_changes_is_held_back_until_it_is_trained(
    before: int, steps: int, factor: float, planes: list[AnnotatedPlane]
) -> None:
    model = build_random("builtin", frame=64)
    objects = split_objects(planes, 0.2, 0).training
    prepared = prepare_planes(planes, objects, model)
    encoder = PlaneEncoder(model, prepared, first=model.architecture.depth)
    with inject(model, FrozenEncoderConfig()) as injection:
        config = TrainingConfig(steps=1, start_weight=0.25)  # the start does not hold it back
        trainer = Trainer(injection, config, encoder, Team(), earlier_steps=before)
        for _ in range(steps):  # without gradients it changes nothing
            trainer.update(1.0)
        weights = injection.trainable_parameters()
        own = {name: weight.detach().clone() for name, weight in weights.items()}
        with trainer.result():
            for name, weight in weights.items():
                grown = factor if "refiner.layers.4" in name else 1.0
                torch.testing.assert_close(weight.detach(), grown * own[name])
        assert all(torch.equal(weights[name], own[name]) for name in weights)
    assert any("refiner.layers.4" in name for name in own)


@pytest.mark.parametrize("has_head", [True, False], ids=["a head goes on", "a new head"])
def test_a_part_of_the_start_is_in_the_result(
    has_head: bool, model: SamModel, planes: list[AnnotatedPlane]
) -> None:
    objects = split_objects(planes, 0.2, 0).training
    prepared = prepare_planes(planes, objects, model)
    config = TrainingConfig(steps=2, start_weight=0.25, learning_rate=1e-2)
    views = [v for _, v in islice(Views(objects, prepared, model.architecture, 2, 0), 2)]
    present = DenseHead(model.architecture.embedding_width) if has_head else None
    encoder = PlaneEncoder(model, prepared, first=0)
    dense = DenseTraining.of(encoder, present, objects, complete=True)
    with inject(model, LoraConfig(rank=4)) as injection:
        trainer = Trainer(injection, config, encoder, Team(), dense)
        weights = injection.trainable_parameters() | dict(dense.head.named_parameters())
        start = {name: weight.detach().clone() for name, weight in weights.items()}
        for step in range(2):
            trainer.gradients(step, views[step : step + 1])
            trainer.update(1.0)
        own = {name: weight.detach().clone() for name, weight in weights.items()}
        changed = {name for name in own if not torch.equal(own[name], start[name])}
        assert changed & dense.head.state_dict().keys()
        assert changed - dense.head.state_dict().keys()
        with trainer.result():
            for name, weight in weights.items():
                is_kept = has_head or name not in dense.head.state_dict()
                expected = own[name].lerp(start[name], 0.25 * is_kept)
                torch.testing.assert_close(weight.detach(), expected)
        assert all(torch.equal(weights[name], own[name]) for name in weights)
