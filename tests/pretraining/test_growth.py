"""Growth of the encoder: deeper, with the same outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from napari_peftsam.models import (
    Architecture,
    DenseHead,
    PlainVit,
    SamModel,
    architecture,
    build_tiny,
    construct,
    encode_tensor,
)
from napari_peftsam.pretraining._growth import can_grow, grown

TINY = architecture("tiny")  # windowed, global, windowed, global


def _deeper(depth: int, blocks: tuple[int, ...]) -> Architecture:
    assert isinstance(TINY.encoder, PlainVit)
    return replace(TINY, encoder=replace(TINY.encoder, depth=depth, global_blocks=blocks))


@pytest.mark.parametrize(
    ("large", "expected"),
    [pytest.param(_deeper(8, (3, 7)), True, id="twice as deep"),
     pytest.param(_deeper(5, (1, 4)), True, id="one block more"),
     pytest.param(TINY, True, id="nothing to do"),
     pytest.param(_deeper(6, (0, 5)), False, id="a block has no place"),
     pytest.param(_deeper(6, (1, 3, 5)), False, id="another global block"),
     pytest.param(replace(TINY, embedding_width=32), False, id="wider"),
     pytest.param(architecture("vit_t"), False, id="other blocks")],
)  # fmt: skip
def test_only_windowed_blocks_are_added(large: Architecture, expected: bool) -> None:
    assert can_grow(TINY, large) == expected


@pytest.mark.parametrize(
    "large", [_deeper(8, (3, 7)), _deeper(5, (1, 4))], ids=["twice as deep", "one block more"]
)
def test_a_grown_model_computes_what_the_small_one_does(large: Architecture) -> None:
    small = _model()
    deep = grown(small, large)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encode_tensor(deep.sam, x), encode_tensor(small.sam, x))
    assert len(deep.sam.image_encoder.blocks) == large.depth


def test_new_blocks_learn() -> None:
    deep = grown(_model(), _deeper(5, (1, 4))).sam.requires_grad_(True)
    encode_tensor(deep, torch.ones(1, 3, 64, 64)).square().sum().backward()
    new = deep.image_encoder.blocks[3]
    assert all(layer.weight.grad.abs().max() > 0 for layer in (new.attn.proj, new.mlp.lin2))


def _model() -> SamModel:
    model = build_tiny()
    return SamModel("tiny", TINY, construct(TINY), model.weights_hash, DenseHead(16))
