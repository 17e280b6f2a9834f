"""COBOT against its closed form, an independent quaternion product, and its paper."""

from __future__ import annotations

import pytest
import torch

from napari_peftsam.models import SamModel
from napari_peftsam.peft import (
    CobotLoraConfig,
    Injection,
    LoraConfig,
    apply_adapter,
    capture,
    inject,
)
from napari_peftsam.peft.cobot import CobotHub, CobotMixer
from napari_peftsam.peft.low_rank import LowRankUpdate
from tests.peft._cases import image, outputs, perturb, snapshot, tiny

RANK = 8


@pytest.fixture
def model() -> SamModel:
    return tiny()


@pytest.fixture
def injection(model) -> Injection:
    made = inject(model, CobotLoraConfig(rank=RANK, alpha=0.5))
    perturb(made.trainable_parameters(), 0.3)
    return made


def updates(model: SamModel) -> list[LowRankUpdate]:
    """Return the updates in the order of their slots."""
    found = [m for m in model.sam.modules() if isinstance(m, LowRankUpdate)]
    return sorted(found, key=lambda update: update.mixer.slot)


def hamilton(p, q):
    """Multiply quaternions given as 4-tuples, from i^2 = j^2 = k^2 = ijk = -1."""
    a, b, c, d = p
    e, f, g, h = q
    return (
        a * e - b * f - c * g - d * h,
        a * f + b * e + c * h - d * g,
        a * g - b * h + c * e + d * f,
        a * h + b * g - c * f + d * e,
    )


def test_projection_is_the_quaternion_product() -> None:
    mixer = CobotMixer(CobotHub(RANK, 3, "official"), 0, "official")
    with torch.no_grad():
        mixer.quaternion.copy_(torch.randn(4, 2, 2))
    h = torch.randn(RANK)
    quarter = RANK // 4
    expected = torch.zeros(4, quarter)
    for row in range(quarter):
        for column in range(quarter):
            entry = h.view(4, quarter)[:, row].tolist()
            weight = mixer.quaternion[:, row, column].tolist()
            expected[:, column] += torch.tensor(hamilton(weight, entry))
    torch.testing.assert_close(h @ mixer.projection(), expected.flatten())


def test_module_equals_the_closed_form(model, injection) -> None:
    p = injection.trainable_parameters()
    x = torch.randn(5, 16)
    lam = p["encoder.cobot_hub.C"] @ p["encoder.cobot_hub.S"]
    for number, update in enumerate(updates(model)):
        mixer = update.mixer
        scale = torch.diag(mixer.gamma + lam[:, number])
        delta = 0.5 * update.B @ mixer.projection().T @ scale @ update.A
        torch.testing.assert_close(update(x, x), x @ delta.T, rtol=1e-5, atol=1e-5)
        folded = update.folded(torch.zeros(16, 16).double()).float()
        torch.testing.assert_close(folded, delta, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("related", [False, True], ids=["S=I", "S[1,5]=0.5"])
def test_coefficients_reach_the_slots_that_relations_name(model, injection, related) -> None:
    hub = model.sam.image_encoder.cobot_hub
    with torch.no_grad():
        hub.S.copy_(torch.eye(8))
        if related:
            hub.S[1, 5] = 0.5
        before = [u.mixer.scale().clone() for u in updates(model)]
        hub.C[:, 1] += 1
        moved = [
            t for t, u in enumerate(updates(model)) if not torch.equal(u.mixer.scale(), before[t])
        ]
    assert moved == ([1, 5] if related else [1])


@pytest.mark.parametrize(
    ("init", "first_gradient"),
    [
        ("neutral", {"A": 2, "B": 1, "gamma": 2, "quaternion": 2, "C": 2, "S": 3}),
        ("official", {"A": 2, "B": 1, "gamma": 2, "quaternion": 2, "C": 2, "S": 2}),
    ],
)
def test_gradients_appear_when_the_zero_start_lets_them(model, init, first_gradient) -> None:
    injection = inject(model, CobotLoraConfig(rank=RANK, init=init))
    optimiser = torch.optim.SGD(injection.parameter_groups(1e-2, 0.0))
    seen: dict[str, int] = {}
    for number in (1, 2, 3):
        optimiser.zero_grad()
        outputs(model, image()).square().mean().backward()
        for name, p in injection.trainable_parameters().items():
            if name.startswith("encoder.") and p.grad.count_nonzero():
                seen.setdefault(name.rpartition(".")[2], number)
        optimiser.step()
    assert seen == first_gradient


@pytest.mark.parametrize(
    ("init", "c", "r", "other"), [("neutral", 0, torch.eye(2), 0), ("official", 1, 0, None)]
)
def test_start_values(model, init, c, r, other) -> None:
    state = inject(model, CobotLoraConfig(rank=RANK, init=init)).state()
    assert (state["encoder.cobot_hub.C"] == c).all()
    assert torch.equal(state["encoder.cobot_hub.S"], torch.eye(8))
    for name, value in state.items():
        if name.endswith("gamma"):
            assert (value == 1).all()
        if name.endswith("quaternion"):
            assert (value[0] == r).all()
            inside = (value[1:] >= 0) & (value[1:] < 1)
            assert (value[1:] == other).all() if other is not None else inside.all()


@pytest.mark.parametrize("init", ["neutral", "official"])
def test_b_starts_as_zero_whatever_the_coefficients(model, init) -> None:
    state = inject(model, CobotLoraConfig(rank=RANK, init=init)).state()
    starts = [value for name, value in state.items() if name.endswith(".B")]
    assert len(starts) == 8
    assert not any(value.any() for value in starts)
    described = CobotLoraConfig.model_fields["init"].description
    assert "B of LoRA starts as 0 in both" in described
    assert "Xavier" in described


# What the mixer's matrix is, by the paper's tables of ablations.
ABLATIONS = {
    "coefficient sets": {"relations": "none", "projection": "none"},
    "no projection": {"projection": "none"},
    "no relations": {"relations": "none"},
    "fixed relations": {"relations": "fixed"},
    "linear layer": {"projection": "linear"},
}


@pytest.mark.parametrize("init", ["neutral", "official"])
@pytest.mark.parametrize("options", ABLATIONS.values(), ids=ABLATIONS.keys())
def test_ablations_equal_their_closed_form(model, options, init) -> None:
    injection = inject(model, CobotLoraConfig(rank=RANK, alpha=0.5, init=init, **options))
    perturb(injection.trainable_parameters(), 0.3)
    state = injection.state()
    lam = state["encoder.cobot_hub.C"]
    if options.get("relations") != "none":
        lam = lam @ state["encoder.cobot_hub.S"]
    for number, update in enumerate(updates(model)):
        mixer = update.mixer
        mixing = {
            "none": lambda mixer=mixer: torch.eye(RANK),
            "linear": lambda mixer=mixer: mixer.linear,
        }.get(options.get("projection"), lambda mixer=mixer: mixer.projection().T)()
        delta = 0.5 * update.B @ mixing @ torch.diag(mixer.gamma + lam[:, number]) @ update.A
        x = torch.randn(5, 16)
        torch.testing.assert_close(update(x, x), x @ delta.T, rtol=1e-5, atol=1e-5)


def test_fixed_relations_are_random_kept_and_not_trained(model) -> None:
    torch.manual_seed(1)
    injection = inject(model, CobotLoraConfig(rank=4, relations="fixed"))
    assert "encoder.cobot_hub.S" not in injection.trainable_parameters()
    drawn = injection.state()["encoder.cobot_hub.S"]
    assert 0.5 < drawn.std() * 8**0.5 < 1.5  # of eight slots
    torch.manual_seed(2)
    again = apply_adapter(tiny(), capture(injection))
    assert torch.equal(again.state()["encoder.cobot_hub.S"], drawn)


def test_a_linear_layer_starts_as_torchs_own_if_official(model) -> None:
    state = inject(model, CobotLoraConfig(rank=16, init="official", projection="linear")).state()
    weights = torch.cat([v for name, v in state.items() if name.endswith("mixer.linear")])
    assert 0.24 < weights.abs().max() <= 16**-0.5


def test_neutral_start_stays_plain_lora_while_only_lora_learns() -> None:
    plain, cobot = tiny(), tiny()
    first, second = inject(plain, LoraConfig(rank=4)), inject(cobot, CobotLoraConfig(rank=4))
    perturb(first.trainable_parameters())
    with torch.no_grad():
        for name, p in second.trainable_parameters().items():
            if name in first.trainable_parameters():
                p.copy_(first.trainable_parameters()[name])
    torch.testing.assert_close(outputs(cobot, image()), outputs(plain, image()))


@pytest.mark.parametrize(
    ("options", "slots"),
    [({}, 24), ({"matrices": "all-linear", "placement": "late-50%"}, 30), ({"placement": "3"}, 2)],
    ids=["q,v", "late-all-linear", "one-block"],
)
def test_number_of_slots(options, slots) -> None:
    from napari_peftsam.models import architecture, construct

    with torch.device("meta"):
        sam = construct(architecture("vit_b"))
    model = SamModel("vit_b", architecture("vit_b"), sam, "")
    inject(model, CobotLoraConfig(rank=4, **options))
    assert sam.image_encoder.cobot_hub.S.shape == (slots, slots)
    order = [update.mixer.slot for m in sam.modules() for update in _own_updates(m)]
    assert order == list(range(slots))


def _own_updates(module):
    return [m for m in module.children() if isinstance(m, LowRankUpdate)]


def test_shared_tensors_are_stored_once(model, injection) -> None:
    names = [n for n in model.sam.state_dict() if n.endswith((".C", ".S")) or ".hub." in n]
    assert names == ["image_encoder.cobot_hub.C", "image_encoder.cobot_hub.S"]
    injection.remove()
    assert not any("cobot" in name for name in snapshot(model))
