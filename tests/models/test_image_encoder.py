"""Our image encoder is SAM's: same parameters, same answers, less time and memory."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention

from napari_peftsam.models import (
    Architecture,
    PlainVit,
    attention,
    build_random,
    encode_prefix,
    encode_suffix,
    encode_tensor,
    image_encoder,
)
from napari_peftsam.models.attention import Grid, position_attention
from napari_peftsam.models.image_encoder import ImageEncoder

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}

# Frames of 14 tokens a side; block 1 is global, block 0 attends in windows.
WINDOWS = [
    pytest.param(7, (), id="windows"),
    pytest.param(5, (), id="padded-windows"),
    pytest.param(14, (), id="window-of-the-frame"),
    pytest.param(7, (0, 1), id="global"),
    pytest.param(5, (1,), id="padded-windows-and-global"),
]
PRECISIONS = [
    pytest.param(torch.float32, id="fp32"),
    pytest.param(torch.bfloat16, id="bf16"),
]


def _pair(window: int, global_blocks: tuple[int, ...]) -> tuple[ImageEncoder, nn.Module]:
    """Return our encoder and SAM's with the same random weights, positions included."""
    vit = PlainVit(width=128, depth=2, heads=4, global_blocks=global_blocks, window_size=window)
    arch = Architecture("test", 112, 8, vit, 32)
    torch.manual_seed(0)
    ours = ImageEncoder(arch, vit)
    for name, parameter in ours.named_parameters():
        if "rel_pos" in name or name == "pos_embed":
            nn.init.normal_(parameter, std=0.3)
    theirs = ImageEncoderViT(
        img_size=112,
        patch_size=8,
        embed_dim=128,
        depth=2,
        num_heads=4,
        out_chans=32,
        norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=global_blocks,
    )
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def _run(encoder: nn.Module, x: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the embedding, and the gradients of input and parameters."""
    encoder.zero_grad()
    x = x.clone().requires_grad_()
    precise = dtype == torch.float32
    with nullcontext() if precise else torch.autocast("cpu", dtype):
        embedding = encoder(x)
    torch.manual_seed(1)
    embedding.float().backward(torch.randn(embedding.shape))
    assert x.grad is not None
    gradients = {n: p.grad for n, p in encoder.named_parameters() if p.grad is not None}
    return {"embedding": embedding.detach().float(), "input": x.grad, **gradients}


def _error(found: Tensor, expected: Tensor) -> float:
    expected = expected.detach()
    return float((found.detach().float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(("window", "global_blocks"), WINDOWS)
def test_answers_and_gradients_are_those_of_sam(
    window: int, global_blocks: tuple[int, ...], dtype: torch.dtype
) -> None:
    ours, theirs = _pair(window, global_blocks)
    x = torch.randn(2, 3, 112, 112)
    found, exact = _run(ours, x, dtype), _run(theirs, x, torch.float32)
    assert _error(found["embedding"], exact["embedding"]) <= BOUNDS[dtype]
    assert _error(found["input"], exact["input"]) <= BOUNDS[dtype]
    names = found.keys() & exact.keys()
    assert names == found.keys() == exact.keys()
    together = [torch.cat([run[n].flatten() for n in sorted(names)]) for run in (found, exact)]
    assert _error(*together) <= BOUNDS[dtype]


def test_names_shapes_and_order_of_the_state_dict_are_those_of_sam() -> None:
    ours, theirs = _pair(5, (1,))
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("grid", "batch"),
    [
        pytest.param((24, 24), 3, id="one-part"),
        pytest.param((40, 40), 2, id="several-parts-of-the-queries"),
        pytest.param((3, 5), 700, id="oblong"),
        pytest.param((14, 14), 60, id="several-parts-of-the-batch"),
    ],
)
def test_attention_in_parts_and_in_fused_kernels_is_the_written_out_one(
    grid: tuple[int, int], batch: int
) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(batch, *grid, 3 * 8).requires_grad_()
    tables = [torch.randn(2 * n - 1, 8).requires_grad_() for n in grid]
    q, k, v = qkv.flatten(1, 2).chunk(3, -1)
    distances = [torch.arange(n)[:, None] - torch.arange(n) + n - 1 for n in grid]
    rows, columns = (table[d] for table, d in zip(tables, distances, strict=True))
    queries = q.unflatten(1, grid)
    bias_rows = torch.einsum("bhwc,hkc->bhwk", queries, rows)[..., None]
    bias_columns = torch.einsum("bhwc,wkc->bhwk", queries, columns)[..., None, :]
    logits = (q * 8**-0.5) @ k.transpose(1, 2) + (bias_rows + bias_columns).flatten(3).flatten(1, 2)
    expected = (logits.softmax(-1) @ v).unflatten(1, grid)
    divided = Grid(1, *grid)
    table = torch.cat([t.flip(0) for t in tables]) / 8**-0.5
    folded = attention._Split.apply(qkv, None, table, divided, True)
    fused = scaled_dot_product_attention(*folded, scale=1.0).unflatten(1, grid)
    found = position_attention(qkv, None, *tables, divided)
    seed = torch.randn_like(expected)
    leaves = (qkv, *tables)
    exact = torch.autograd.grad(expected, leaves, seed, retain_graph=True)
    for other in (found, fused):
        assert _error(other, expected) <= 1e-5
        gradients = torch.autograd.grad(other, leaves, seed, retain_graph=True)
        for gradient, right in zip(gradients, exact, strict=True):
            assert _error(gradient, right) <= 1e-5


@pytest.mark.parametrize("size", [32, 48])
def test_nothing_as_large_as_all_pairs_of_tokens_is_kept(size: int) -> None:
    kept: list[int] = []
    tokens = size * size
    qkv = torch.randn(2, size, size, 3 * 8).requires_grad_()
    tables = [torch.randn(2 * size - 1, 8) for _ in range(2)]
    with saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        position_attention(qkv, None, *tables, Grid(1, size, size))
    assert max(kept) < tokens * tokens / 8


def test_a_changed_weight_alone_is_packed_again() -> None:
    if not image_encoder.packs():
        pytest.skip("this torch packs no weights here")
    ours, _ = _pair(5, (1,))
    x = torch.randn(1, 3, 112, 112)

    def packed() -> tuple[list[int], Tensor]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            found = ours(x)
        layers = [m for m in ours.modules() if isinstance(m, image_encoder.KeepingLinear)]
        return [id(image_encoder._PACKED[layer.weight][1]) for layer in layers], found

    first, before = packed()
    again, same = packed()
    assert again == first
    assert torch.equal(before, same)
    with torch.no_grad():
        ours.blocks[1].attn.qkv.weight.mul_(2)
    changed, after = packed()
    assert [a != b for a, b in zip(first, changed, strict=True)].count(True) == 1
    assert not torch.equal(before, after)


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("checkpointing", [False, True], ids=["keeping", "checkpointing"])
def test_from_any_block_on(first: int, checkpointing: bool) -> None:
    model = build_random("tiny")
    x = torch.randn(1, 3, 64, 64)
    expected = encode_tensor(model.sam, x)
    tokens = encode_prefix(model.sam, x, first) if first else x
    found = encode_suffix(model.sam, tokens, first, checkpointing)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    parameters = list(model.sam.image_encoder.neck.parameters())
    seed = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters, seed),
        torch.autograd.grad(expected, parameters, seed),
    )


def test_padding_of_windows_is_what_sam_attends_to_whatever_the_projection_adds() -> None:
    ours, theirs = _pair(5, ())
    for encoder in (ours, theirs):
        for block in encoder.blocks:
            nn.init.normal_(block.attn.qkv.bias, generator=torch.Generator().manual_seed(3))
    x = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        assert _error(ours(x), theirs(x)) <= 1e-5
