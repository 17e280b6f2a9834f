"""Our low-rank methods beside HF peft's own, on equal weights."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from peft import LoraConfig as HfLoraConfig
from peft import LoraModel
from torch import Tensor, nn

from napari_peftsam.peft import inject, parse_method_config
from napari_peftsam.peft.low_rank import AdaptedLinear
from tests.peft._cases import perturb, tiny

BLOCK = 2
RANK = 4


def layers(
    ours: dict[str, Any], theirs: dict[str, Any], size: float = 0.1
) -> tuple[AdaptedLinear, nn.Module]:
    """Return our ``attn.qkv`` with an update of q, and theirs of a layer that is q alone."""
    model = tiny()
    base = model.sam.image_encoder.blocks[BLOCK].attn.qkv
    q = nn.Linear(16, 16)
    q.load_state_dict({k: v[:16].clone() for k, v in base.state_dict().items()})
    options = {"rank": RANK, "matrices": "q", "placement": str(BLOCK), **ours}
    injection = inject(model, parse_method_config(options))
    perturb(injection.trainable_parameters(), size)
    adapted = model.sam.image_encoder.blocks[BLOCK].attn.qkv
    config = HfLoraConfig(r=RANK, target_modules=["q"], **theirs)
    wrapped = LoraModel(nn.ModuleDict({"q": q}), {"default": config}, "default").eval()
    return adapted, wrapped.model["q"]


def set_equal(adapted: AdaptedLinear, theirs: Any) -> None:
    """Give their layer our matrices, and row lengths if there are any."""
    slot = adapted.slots["q"]
    with torch.no_grad():
        theirs.lora_A["default"].weight.copy_(slot.A)
        theirs.lora_B["default"].weight.copy_(slot.B)
        if theirs.lora_magnitude_vector:
            theirs.lora_magnitude_vector["default"].weight.copy_(adapted.magnitude[:16])


def assert_equal(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param({"method": "lora", "alpha": 0.5}, {"lora_alpha": 0.5 * RANK}, id="LoRA"),
        pytest.param(
            {"method": "rslora", "alpha": 3}, {"lora_alpha": 3, "use_rslora": True}, id="rsLoRA"
        ),
        pytest.param(
            {"method": "dora", "alpha": 2}, {"lora_alpha": 2 * RANK, "use_dora": True}, id="DoRA"
        ),
    ],
)
def test_equal_matrices_give_equal_outputs_and_gradients(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    adapted, reference = layers(ours, theirs)
    set_equal(adapted, reference)
    x = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(0))
    found, expected = adapted(x)[..., :16], reference(x)
    assert_equal(found, expected)
    assert (expected - reference.base_layer(x)).norm() > 0.01 * expected.norm()
    if ours["method"] != "dora":  # which learns the lengths of all rows
        assert torch.equal(adapted(x)[..., 16:], adapted.base(x)[..., 16:])

    target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (found * target).sum().backward()
    (expected * target).sum().backward()
    slot = adapted.slots["q"]
    assert_equal(slot.A.grad, reference.lora_A["default"].weight.grad)
    assert_equal(slot.B.grad, reference.lora_B["default"].weight.grad)
    if ours["method"] == "dora":
        lengths = reference.lora_magnitude_vector["default"].weight
        assert_equal(adapted.magnitude.grad[:16], lengths.grad)


def test_rslora_differs_from_lora_by_the_root_of_the_rank() -> None:
    adapted, reference = layers({"method": "rslora", "alpha": 3}, {"lora_alpha": 3 * sqrt(RANK)})
    set_equal(adapted, reference)
    assert reference.scaling["default"] == pytest.approx(3 / sqrt(RANK))
    x = torch.ones(1, 16)
    assert_equal(adapted(x)[..., :16], reference(x))


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_pissa_starts_from_the_same_part_and_moves_alike(alpha: float) -> None:
    options = {"lora_alpha": alpha * RANK, "init_lora_weights": "pissa"}
    adapted, reference = layers({"method": "pissa", "alpha": alpha}, options, size=0.0)
    slot, down, up = adapted.slots["q"], reference.lora_A["default"], reference.lora_B["default"]
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    assert_equal(reference(x), adapted.base(x)[..., :16])
    assert_equal(alpha * slot.B @ slot.A, alpha * up.weight @ down.weight)
    # A pair of singular vectors may have the other sign.
    signs = torch.sign((slot.A * down.weight).sum(dim=1))
    assert_equal(slot.A, signs[:, None] * down.weight)
    generator = torch.Generator().manual_seed(1)
    change_down, change_up = (
        0.1 * torch.randn(shape, generator=generator) for shape in ((RANK, 16), (16, RANK))
    )
    with torch.no_grad():
        slot.A += change_down
        slot.B += change_up
        down.weight += signs[:, None] * change_down
        up.weight += signs * change_up
    assert_equal(adapted(x)[..., :16], reference(x))
    assert (reference(x) - adapted.base(x)[..., :16]).norm() > 0.01 * reference(x).norm()
