"""SAM's two-way transformer, exact, without a projection of every image token per object.

A few prompt tokens attend to thousands of image tokens and back. SAM projects all image
tokens in each attention. But a score ``(A q) . (B x)`` is ``(B^T A q) . x``, and a sum of
``V x`` with weights that add up to one is ``V`` of the sum: each projection can act on the
few tokens instead. This is done where it is less work, and images that several objects share
are projected once. The modules are `segment_anything`'s own, or adapters in their place.

Prompt tokens are computed in float32, image tokens in the dtype they come in.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["layer_norm", "two_way"]


def two_way(
    transformer: TwoWayTransformer, tokens: Tensor, image: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the transformer, as `TwoWayTransformer.forward` does.

    Parameters
    ----------
    transformer
        Transformer of the mask decoder.
    tokens
        ``(B, T, C)`` outputs and prompts of B objects, float32.
    image
        ``(B, N, C)``, or ``(1, N, C)`` if all objects share it.
    positions
        ``(1, N, C)`` in the dtype of `image`.

    Returns
    -------
    tokens, image
        ``(B, T, C)`` and ``(B, N, C)``.
    """
    queries = tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(queries, queries, queries)
        else:
            placed = queries + tokens
            queries = queries + layer.self_attn(placed, placed, queries)
        queries = layer.norm1(queries)
        keys = image + positions
        read = _read(layer.cross_attn_token_to_image, queries + tokens, keys, image)
        queries = layer.norm2(queries + read)
        queries = layer.norm3(queries + layer.mlp(queries))
        written = _write(layer.cross_attn_image_to_token, queries + tokens, queries, keys, image)
        image = layer_norm(written, layer.norm4)
    read = _read(transformer.final_attn_token_to_image, queries + tokens, image + positions, image)
    return transformer.norm_final_attn(queries + read), image


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    """Normalise the last axis of `x` in its dtype; `norm` may be made for another axis."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return functional.layer_norm(x, weight.shape, weight, bias, norm.eps)


def _read(attention: Attention, queries: Tensor, keys: Tensor, image: Tensor) -> Tensor:
    """Return what tokens ``(B, T, C)`` find in the image, ``(B, T, C)``."""
    heads: int = attention.num_heads
    query = _scaled(_heads(attention.q_proj(queries), heads))
    if _few(query, keys, attention):
        weight, _ = _affine(attention.k_proj, attention.embedding_dim)
        # Its bias would add the same to all scores of a token, which changes no softmax.
        weights = _scores(query @ weight.unflatten(0, (heads, -1)), keys).softmax(-1)
        context = (weights @ image).view(*query.shape[:3], -1).float()
        # Every head projects with its own rows only.
        own = _heads(attention.v_proj(context), heads).diagonal(dim1=1, dim2=2)
        found = own.movedim(-1, 2).flatten(2)
    else:
        key = _heads(_project(attention.k_proj, keys), heads)
        value = _heads(_project(attention.v_proj, image), heads)
        # Tokens of objects that share an image are joined into one row.
        shared = query.to(keys.dtype).unflatten(0, (len(keys), -1)).transpose(1, 2)
        out = (shared.flatten(2, 3) @ key.mT).softmax(-1) @ value
        out = out.float().view(shared.shape).transpose(1, 2).reshape(query.shape)
        found = out.transpose(1, 2).flatten(2)
    answer: Tensor = attention.out_proj(found)
    return answer


def _write(
    attention: Attention, placed: Tensor, queries: Tensor, keys: Tensor, image: Tensor
) -> Tensor:
    """Return the image plus what its tokens find in the prompt tokens, ``(B, N, C)``."""
    heads: int = attention.num_heads
    key = _scaled(_heads(attention.k_proj(placed), heads))
    value = _heads(attention.v_proj(queries), heads)
    if _few(key, keys, attention):
        weight, bias = _affine(attention.q_proj, attention.embedding_dim)
        scores = _scores(key @ weight.unflatten(0, (heads, -1)), keys).view(*key.shape[:3], -1)
        offset = key @ bias.view(heads, -1, 1)
        weights = (scores + offset.to(scores.dtype)).softmax(2).flatten(1, 2)
        weight, bias = _affine(attention.out_proj, attention.internal_dim)
        # The weights of a head add up to one, so each head can bring its share of the bias.
        brought = value @ weight.t().unflatten(0, (heads, -1)) + bias / heads
        brought = brought.flatten(1, 2).to(image.dtype)
        return torch.baddbmm(image.expand(len(key), -1, -1), weights.mT, brought)
    query = _heads(_project(attention.q_proj, keys), heads)
    weights = (key.to(keys.dtype) @ query.mT).softmax(2)
    found = weights.mT @ value.to(keys.dtype)
    return image + _project(attention.out_proj, found.transpose(1, 2).flatten(2))


def _few(tokens: Tensor, image: Tensor, attention: Attention) -> bool:
    """Return True if all heads of tokens ``(B, H, T, D)`` cost less than projecting images.

    Attention over projected images takes time, too: a quarter more was measured.
    """
    channels: int = attention.internal_dim
    return tokens.shape[:3].numel() <= 1.25 * len(image) * channels


def _scores(sought: Tensor, image: Tensor) -> Tensor:
    """Return the products ``(G, R, N)`` of ``(B, H, T, C)`` with G images, R = B H T / G."""
    rows = sought.reshape(len(image), -1, sought.shape[-1]).to(image.dtype)
    if image.dtype == torch.float32:
        return rows @ image.mT
    # On a CPU this is several times faster in half precision.
    return (image @ rows.mT).mT.contiguous()


def _scaled(tokens: Tensor) -> Tensor:
    width: int = tokens.shape[-1]
    return tokens / math.sqrt(width)


def _heads(x: Tensor, heads: int) -> Tensor:
    """Split ``(..., N, H D)`` into ``(..., H, N, D)``."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(-3, -2)


def _affine(layer: nn.Module, width: int) -> tuple[Tensor, Tensor]:
    """Return weight ``(out, width)`` and bias ``(out,)`` of a layer or of an adapter in its place.

    Gradients reach the adapter's own parameters.
    """
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    like = next(layer.parameters())
    bias = layer(like.new_zeros(1, width))[0]
    return (layer(torch.eye(width, dtype=like.dtype, device=like.device)) - bias).t(), bias


def _project(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a float32 layer to image tokens in their dtype."""
    half = None if x.dtype == torch.float32 else x.dtype
    with torch.autocast(x.device.type, half, enabled=half is not None):
        projected: Tensor = layer(x)
    return projected
