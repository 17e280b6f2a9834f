"""Each method against its paper's formula, written out here in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from napari_peftsam.models import SamModel
from napari_peftsam.peft import inject, parse_method_config
from tests.peft._cases import perturb, tiny

BLOCK, WIDTH = 1, 16
Q, V = slice(0, WIDTH), slice(2 * WIDTH, 3 * WIDTH)


class Trained:
    """A tiny SAM with one method in it, trained somehow; all of its tensors in float64."""

    def __init__(self, options: dict) -> None:
        self.model: SamModel = tiny()
        self.block = self.model.sam.image_encoder.blocks[BLOCK]
        self.base = {k: v.clone().double() for k, v in self.block.state_dict().items()}
        self.injection = inject(self.model, parse_method_config(options))
        perturb(self.injection.trainable_parameters(), 0.3)
        self.state = {k: v.double() for k, v in self.injection.state().items()}
        generator = torch.Generator().manual_seed(4)
        self.x = torch.randn(5, 7, WIDTH, generator=generator)

    def own(self, name: str) -> Tensor:
        """Return one of the adapter's tensors in this block."""
        return self.state[f"encoder.blocks.{BLOCK}.{name}"]

    def slot(self, part: str, name: str) -> Tensor:
        return self.own(f"attn.qkv.slots.{part}.{name}")

    def plain(self, layer: str, x: Tensor) -> Tensor:
        return F.linear(x, self.base[f"{layer}.weight"], self.base[f"{layer}.bias"])

    def mlp(self, z: Tensor) -> Tensor:
        return self.plain("mlp.lin2", F.gelu(self.plain("mlp.lin1", z)))


def with_updates(t: Trained, change: Callable[[Trained, str], Tensor]) -> Tensor:
    """Return x W^T + b where the rows of q and v of W have been changed."""
    weight = t.base["attn.qkv.weight"].clone()
    for part, rows in (("q", Q), ("v", V)):
        weight[rows] += change(t, part)
    return F.linear(t.x.double(), weight, t.base["attn.qkv.bias"])


def lora(t: Trained, part: str) -> Tensor:
    return 0.5 * t.slot(part, "B") @ t.slot(part, "A")


def rslora(t: Trained, part: str) -> Tensor:
    return 3 / 4**0.5 * t.slot(part, "B") @ t.slot(part, "A")


def pissa(t: Trained, part: str) -> Tensor:
    """The paper: W - P + B A, where P is the best approximation of W of this rank."""
    weight = t.base["attn.qkv.weight"][Q if part == "q" else V]
    u, s, vh = torch.linalg.svd(weight)
    principal = u[:, :4] @ torch.diag(s[:4]) @ vh[:4]
    return 0.5 * t.slot(part, "B") @ t.slot(part, "A") - principal


def fact(t: Trained, part: str) -> Tensor:
    u, v = t.state["encoder.fact.U"], t.state["encoder.fact.V"]
    return 0.5 * v @ t.slot(part, "Sigma") @ u


def fact_per_block(t: Trained, part: str) -> Tensor:
    return t.own("fact.V") @ t.slot(part, "Sigma") @ t.own("fact.U")


def quaternion(parts: Tensor) -> Tensor:
    r, i, j, k = parts
    return torch.cat(
        [
            torch.cat([r, i, j, k], 1), torch.cat([-i, r, k, -j], 1),
            torch.cat([-j, -k, r, i], 1), torch.cat([-k, j, -i, r], 1),
        ]
    )  # fmt: skip


def cobot(t: Trained, part: str) -> Tensor:
    number = 2 * BLOCK + (part == "v")
    hub = t.state["encoder.cobot_hub.C"] @ t.state["encoder.cobot_hub.S"]
    scale = t.slot(part, "mixer.gamma") + hub[:, number]
    mixing = quaternion(t.slot(part, "mixer.quaternion")).T @ torch.diag(scale)
    return 0.5 * t.slot(part, "B") @ mixing @ t.slot(part, "A")


@pytest.mark.parametrize(
    ("options", "change"),
    [
        pytest.param({"method": "lora", "rank": 4, "alpha": 0.5}, lora, id="lora"),
        pytest.param({"method": "rslora", "rank": 4, "alpha": 3}, rslora, id="rslora"),
        pytest.param({"method": "pissa", "rank": 4, "alpha": 0.5}, pissa, id="pissa"),
        pytest.param(
            {"method": "fact", "rank": 4, "alpha": 0.5, "dropout": 0}, fact, id="fact"
        ),
        pytest.param(
            {"method": "fact", "rank": 4, "shared": False, "dropout": 0},
            fact_per_block,
            id="fact-per-block",
        ),
        pytest.param({"method": "cobot-lora", "rank": 8, "alpha": 0.5}, cobot, id="cobot"),
        pytest.param(
            {"method": "cobot-lora", "rank": 8, "alpha": 0.5, "init": "official"},
            cobot,
            id="cobot-official",
        ),
    ],
)  # fmt: skip
def test_updates_of_q_and_v(options, change) -> None:
    trained = Trained(options)
    expected = with_updates(trained, change)
    untouched = trained.plain("attn.qkv", trained.x.double())
    assert (expected - untouched)[..., Q].abs().min() > 0
    assert torch.equal(expected[..., WIDTH : 2 * WIDTH], untouched[..., WIDTH : 2 * WIDTH])
    found = trained.block.attn.qkv(trained.x).double()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_dora_gives_all_rows_lengths_and_those_of_q_and_v_directions() -> None:
    t = Trained({"method": "dora", "rank": 4, "alpha": 0.5})
    direction = t.base["attn.qkv.weight"].clone()
    for part, rows in (("q", Q), ("v", V)):
        direction[rows] += 0.5 * t.slot(part, "B") @ t.slot(part, "A")
    length = direction.square().sum(dim=1).sqrt()
    weight = (t.own("attn.qkv.magnitude") / length)[:, None] * direction
    expected = F.linear(t.x.double(), weight, t.base["attn.qkv.bias"])
    found = t.block.attn.qkv(t.x).double()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("learn_scale", [True, False])
@pytest.mark.parametrize("input_norm", [True, False])
@pytest.mark.parametrize("method", ["adaptformer", "cobot-adaptformer"])
def test_adaptformer(method, input_norm, learn_scale) -> None:
    t = Trained({
        "method": method, "bottleneck": 8, "scale": 0.7, "learn_scale": learn_scale,
        "input_norm": input_norm,
    })  # fmt: skip
    z = t.x.double()
    inner = z
    if input_norm:
        inner = F.layer_norm(z, (WIDTH,), t.own("mlp.norm.weight"), t.own("mlp.norm.bias"))
    inner = F.linear(inner, t.own("mlp.down.weight"), t.own("mlp.down.bias"))
    if method.startswith("cobot"):
        hub = t.state["encoder.cobot_hub.C"] @ t.state["encoder.cobot_hub.S"]
        scale = t.own("mlp.mixer.gamma") + hub[:, BLOCK]
        inner = (inner * scale) @ quaternion(t.own("mlp.mixer.quaternion"))
    branch = F.linear(F.relu(inner), t.own("mlp.up.weight"), t.own("mlp.up.bias"))
    factor = t.own("mlp.scale") if learn_scale else 0.7
    expected = t.mlp(z) + factor * branch
    found = t.block.mlp(t.x).double()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("method", ["adaptformer", "cobot-adaptformer"])
def test_adaptformer_drops_after_the_relu_in_training_only(method) -> None:
    t = Trained({"method": method, "bottleneck": 8, "dropout": 0.5})
    mlp = t.block.mlp
    expected = mlp(t.x)
    assert torch.equal(mlp(t.x), expected)
    with t.injection.training():
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(mlp(t.x).detach())
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        average = torch.stack([mlp(t.x).detach() for _ in range(2000)]).mean(0)
    assert torch.equal(mlp(t.x), expected)
    # Only after the ReLU, what is left out is linear in the output.
    assert (average - expected).norm() <= 0.05 * expected.norm()


def test_adaptformer_does_not_drop_by_default() -> None:
    t = Trained({"method": "adaptformer", "bottleneck": 8})
    expected = t.block.mlp(t.x)
    before = torch.get_rng_state()
    with t.injection.training():
        assert torch.equal(t.block.mlp(t.x), expected)
    assert torch.equal(torch.get_rng_state(), before)


SSF_LAYERS = ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2", "norm1", "norm2")


@pytest.mark.parametrize("layer", SSF_LAYERS)
def test_ssf(layer) -> None:
    t = Trained({"method": "ssf"})
    x = torch.randn(3, 64 if layer == "mlp.lin2" else WIDTH, dtype=torch.float64)
    if layer.startswith("norm"):
        weight, bias = t.base[f"{layer}.weight"], t.base[f"{layer}.bias"]
        plain = F.layer_norm(x, (WIDTH,), weight, bias, 1e-6)
    else:
        plain = t.plain(layer, x)
    expected = plain * t.own(f"{layer}.gamma") + t.own(f"{layer}.beta")
    found = t.block.get_submodule(layer)(x.float()).double()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_ssf_after_the_patch_embedding() -> None:
    model = tiny()
    x = torch.randn(1, 3, 64, 64)
    plain = model.sam.image_encoder.patch_embed(x).double()
    injection = inject(model, parse_method_config({"method": "ssf"}))
    perturb(injection.trainable_parameters(), 0.3)
    state = {k: v.double() for k, v in injection.state().items() if "patch_embed" in k}
    gamma, beta = (next(v for k, v in state.items() if k.endswith(n)) for n in ("gamma", "beta"))
    found = model.sam.image_encoder.patch_embed(x).double()
    torch.testing.assert_close(found, plain * gamma + beta, rtol=1e-5, atol=1e-5)


def test_lora_in_the_mask_decoder() -> None:
    model = tiny()
    layer = "transformer.layers.1.cross_attn_image_to_token.v_proj"
    base = {
        k: v.double() for k, v in model.sam.mask_decoder.get_submodule(layer).state_dict().items()
    }
    config = parse_method_config({"method": "frozen-encoder", "decoder_lora_rank": 4})
    injection = inject(model, config)
    perturb(injection.trainable_parameters(), 0.3)
    state = injection.state()
    a, b = (state[f"decoder.mask_decoder.{layer}.slots.all.{m}"].double() for m in "AB")
    x = torch.randn(2, 5, WIDTH)
    expected = F.linear(x.double(), base["weight"] + b @ a, base["bias"])
    found = model.sam.mask_decoder.get_submodule(layer)(x).double()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_fact_drops_inner_dimensions_in_training_only() -> None:
    t = Trained({"method": "fact", "rank": 8, "dropout": 0.5})
    layer = t.block.attn.qkv
    expected = layer(t.x)
    assert torch.equal(layer(t.x), expected)
    with t.injection.training():
        assert not torch.equal(layer(t.x), layer(t.x))
        average = torch.stack([layer(t.x).detach() for _ in range(2000)]).mean(0)
    assert torch.equal(layer(t.x), expected)
    assert (average - expected).norm() <= 0.05 * expected.norm()
