"""LoRA's arithmetic and the published counts."""

from __future__ import annotations

import pytest
import torch

from napari_peftsam.models import architecture
from napari_peftsam.peft import (
    CobotLoraConfig,
    FrozenEncoderConfig,
    LoraConfig,
    count_parameters,
    inject,
)
from tests.peft._cases import perturb, tiny

DECODER = 4_058_340 + 6_220


@pytest.mark.parametrize(
    ("model", "config", "encoder"),
    [
        *(
            ("vit_b", LoraConfig(rank=rank), count)
            for rank, count in {
                1: 36_864,
                4: 147_456,
                8: 294_912,
                16: 589_824,
                32: 1_179_648,
                64: 2_359_296,
            }.items()
        ),
        ("vit_b", LoraConfig(rank=32, matrices="all-linear"), 4_718_592),
        ("vit_b", LoraConfig(rank=32, matrices="all-linear", placement="late-50%"), 2_359_296),
        ("vit_b", LoraConfig(rank=32, placement="late-50%"), 589_824),
        ("vit_l", LoraConfig(rank=32), 3_145_728),
        ("vit_h", LoraConfig(rank=32), 5_242_880),
        ("vit_b", CobotLoraConfig(rank=4), 148_320),
        ("vit_b", FrozenEncoderConfig(), 0),
        ("vit_t", FrozenEncoderConfig(), 0),
    ],
    ids=lambda value: str(value) if isinstance(value, (str, int)) else value.method,
)
def test_published_parameter_counts(model, config, encoder) -> None:
    counts = count_parameters(architecture(model), config)
    assert (counts.encoder, counts.total) == (encoder, encoder + DECODER)


@pytest.mark.parametrize(
    ("model", "rank", "options", "extra"),
    [
        ("vit_b", 4, {}, 864),
        ("vit_b", 32, {}, 8_256),
        ("vit_b", 32, {"placement": "6-11"}, 3_984),
        ("vit_l", 4, {}, 2_880),
        ("vit_h", 4, {}, 4_864),
    ],
)
def test_cobot_adds_the_published_number(model, rank, options, extra) -> None:
    plain = count_parameters(architecture(model), LoraConfig(rank=rank, **options))
    cobot = count_parameters(architecture(model), CobotLoraConfig(rank=rank, **options))
    assert cobot.encoder - plain.encoder == extra


def test_updates_act_on_q_and_v_rows_only() -> None:
    model = tiny()
    x = torch.randn(2, 5, 7, 16)
    attention = model.sam.image_encoder.blocks[1].attn
    expected = attention.qkv(x)
    injection = inject(model, LoraConfig(rank=4, alpha=0.5))
    perturb(injection.trainable_parameters())
    for part, start in (("q", 0), ("v", 32)):
        a, b = (
            injection.trainable_parameters()[f"encoder.blocks.1.attn.qkv.slots.{part}.{m}"]
            for m in "AB"
        )
        expected[..., start : start + 16] += 0.5 * (x @ a.T @ b.T)
    found = attention.qkv(x)
    assert torch.equal(found[..., 16:32], expected[..., 16:32])
    torch.testing.assert_close(found, expected)


def test_the_base_layer_stays_the_same_object_under_its_own_name() -> None:
    model = tiny()
    base = model.sam.image_encoder.blocks[0].attn.qkv
    inject(model, LoraConfig())
    assert model.sam.image_encoder.blocks[0].attn.qkv.base is base
    assert "image_encoder.blocks.0.attn.qkv.base.weight" in model.sam.state_dict()


def test_frozen_layers_cost_no_gradients() -> None:
    model = tiny()
    inject(model, LoraConfig(placement="last"))
    x = torch.randn(1, 3, 64, 64)
    encoder = model.sam.image_encoder
    tokens = encoder.patch_embed(x) + encoder.pos_embed
    for block in encoder.blocks[:3]:
        tokens = block(tokens)
    assert not tokens.requires_grad
    assert encoder.blocks[3](tokens).requires_grad
