"""LoRA's arithmetic: which rows it changes, what it leaves, what it costs."""

from __future__ import annotations

import torch

from napari_peftsam.peft import LoraConfig, inject
from tests.peft._cases import perturb, tiny


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
