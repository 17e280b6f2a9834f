"""SAM's two-way transformer, exact, without a projection of every image token per object.

A few prompt tokens attend to thousands of image tokens and back. SAM projects all image
tokens in each attention. But a score ``(A q) . (B x)`` is ``(B^T A q) . x``, and a sum of
``V x`` with weights that add up to one is ``V`` of the sum: each projection can act on the
few tokens instead. This is done where it is less work, and images that several objects share
are projected once. The modules are `segment_anything`'s own, or adapters in their place.

Prompt tokens are computed in float32, image tokens in the dtype they come in.
"""

from __future__ import annotations

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
        Of the mask decoder.
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


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Normalise the last axis of `x` in its dtype; `norm` may be made for another axis."""
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return functional.layer_norm(x, weight.shape, weight, bias, norm.eps)


def _read(attention: Attention, queries: Tensor, keys: Tensor, image: Tensor) -> Tensor:
    """Return what tokens ``(B, T, C)`` find in the image, ``(B, T, C)``."""
    query = _scaled(_heads(attention.q_proj(queries), attention))
    if _few(query, keys, attention):
        weight, _ = _affine(attention.k_proj, attention.embedding_dim)
        # Its bias would add the same to all scores of a token, which changes no softmax.
        weights = _scores(query @ _of_heads(weight, attention), keys).softmax(-1)
        context = (weights @ image).view(*query.shape[:3], -1).float()
        found = _own_rows(attention.v_proj(context), attention)
    else:
        key = _heads(_project(attention.k_proj, keys), attention)
        value = _heads(_project(attention.v_proj, image), attention)
        # Objects that share an image are so many more tokens of one.
        shared = query.to(keys.dtype).unflatten(0, (len(keys), -1)).transpose(1, 2)
        out = functional.scaled_dot_product_attention(shared.flatten(2, 3), key, value, scale=1.0)
        out = out.float().view(shared.shape).transpose(1, 2).reshape(query.shape)
        found = out.transpose(1, 2).flatten(2)
    return attention.out_proj(found)


def _write(
    attention: Attention, placed: Tensor, queries: Tensor, keys: Tensor, image: Tensor
) -> Tensor:
    """Return the image plus what its tokens find in the prompt tokens, ``(B, N, C)``."""
    key = _scaled(_heads(attention.k_proj(placed), attention))
    value = _heads(attention.v_proj(queries), attention)
    objects = len(key)
    if _few(key, keys, attention):
        weight, bias = _affine(attention.q_proj, attention.embedding_dim)
        scores = _scores(key @ _of_heads(weight, attention), keys).view(*key.shape[:3], -1)
        offset = key @ bias.view(attention.num_heads, -1, 1)
        weights = (scores + offset.to(scores.dtype)).softmax(2).flatten(1, 2)
        weight, bias = _affine(attention.out_proj, attention.internal_dim)
        # The weights of a head add up to one, so each head can bring its share of the bias.
        brought = value @ _of_heads(weight.t(), attention) + bias / attention.num_heads
        brought = brought.flatten(1, 2).to(image.dtype)
        return torch.baddbmm(image.expand(objects, -1, -1), weights.transpose(1, 2), brought)
    query = _heads(_project(attention.q_proj, keys), attention).expand(objects, -1, -1, -1)
    key, value = key.to(keys.dtype), value.to(keys.dtype)
    found = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
    return image + _project(attention.out_proj, found.transpose(1, 2).flatten(2))


def _few(tokens: Tensor, image: Tensor, attention: Attention) -> bool:
    """Whether all heads of all tokens ``(B, H, T, D)`` are less work than to project images."""
    return tokens.shape[:3].numel() <= len(image) * attention.internal_dim


def _scores(sought: Tensor, image: Tensor) -> Tensor:
    """Return the products ``(G, R, N)`` of ``(B, H, T, C)`` with G images, R = B H T / G."""
    rows = sought.reshape(len(image), -1, sought.shape[-1]).to(image.dtype)
    if image.dtype == torch.float32:
        return rows @ image.transpose(1, 2)
    # On a CPU this is several times faster in half precision.
    return (image @ rows.transpose(1, 2)).transpose(1, 2).contiguous()


def _scaled(tokens: Tensor) -> Tensor:
    return tokens * tokens.shape[-1] ** -0.5


def _heads(x: Tensor, attention: Attention) -> Tensor:
    """Split ``(B, N, H D)`` into ``(B, H, N, D)``."""
    return x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def _of_heads(rows: Tensor, attention: Attention) -> Tensor:
    """Split ``(H D, C)`` into ``(H, D, C)``."""
    return rows.unflatten(0, (attention.num_heads, -1))


def _own_rows(x: Tensor, attention: Attention) -> Tensor:
    """Take from ``(B, H, T, H D)`` what each head projects itself: ``(B, T, H D)``."""
    own = x.unflatten(-1, (attention.num_heads, -1)).diagonal(dim1=1, dim2=3)
    return own.transpose(2, 3).flatten(2)


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
    if x.dtype == torch.float32:
        return layer(x)
    with torch.autocast(x.device.type, x.dtype):
        return layer(x)
