"""SAM's prompt encoder and two-way transformer on rows of tokens, with the original's results.

A few prompt tokens attend to thousands of image tokens and back. SAM projects all image
tokens in each attention. But a score ``(A q) . (B x)`` is ``(B^T A q) . x``, and a sum of
``V x`` with weights that add up to one is ``V`` of the sum: each projection can act on the
few tokens instead. This is done where it is less work, and images that several objects share
are projected once. The modules are `segment_anything`'s own, or adapters in their place.

Prompt tokens are computed in float32, image tokens in the dtype they come in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from napari_peftsam.models.sam_parts import PromptAttention as Attention
from napari_peftsam.models.sam_parts import PromptEncoder, TwoWayTransformer

# Of each matrix of random frequencies: its version, and positions by dtype.
_POSITIONS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def two_way(
    transformer: TwoWayTransformer, tokens: Tensor, image: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the transformer, as `TwoWayTransformer.forward` does, on B objects.

    Tokens are ``(B, T, C)`` float32, the image ``(B, N, C)``, or ``(1, N, C)`` if all objects
    share it, the positions ``(1, N, C)`` in its dtype. Returns tokens and image per object.
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


# --- prompt tokens ----------------------------------------------------------------------


def point_tokens(encoder: PromptEncoder, points: Tensor, labels: Tensor, closed: bool) -> Tensor:
    """Return tokens ``(B, N, C)`` of points ``(B, N, 2)``, ``(x, y)`` in model pixels.

    Labels ``(B, N)`` are 1 positive, 0 negative, -1 no point. With `closed`, a token that is
    no point follows, as SAM has it where there is no box.
    """
    points = points + 0.5  # the centre of the pixel
    if closed:
        points = functional.pad(points, (0, 0, 0, 1))
        labels = functional.pad(labels, (0, 1), value=-1)
    negative, positive = (encoder.point_embeddings[kind].weight for kind in (0, 1))
    kinds = torch.cat([encoder.not_a_point_embed.weight, negative, positive])
    placed: Tensor = encoder.pe_layer.forward_with_coords(points, encoder.input_image_size)
    return placed * (labels >= 0)[..., None] + functional.embedding(labels.long() + 1, kinds)


def box_tokens(encoder: PromptEncoder, boxes: Tensor) -> Tensor:
    """Return the tokens ``(B, 2, C)`` of the corners of boxes ``(B, 4)``."""
    corners = (boxes + 0.5).view(-1, 2, 2)
    placed: Tensor = encoder.pe_layer.forward_with_coords(corners, encoder.input_image_size)
    return placed + torch.cat([encoder.point_embeddings[kind].weight for kind in (2, 3)])


def mask_tokens(layers: Iterable[Any], quarters: Tensor) -> Tensor:
    """Return tokens ``(B, h w, C)`` of maps.

    `quarters`, ``(B, K, 2, 2, 2 h, 2 w)``, hold the pixels ``(2 y + i, 2 x + j)`` in ``[i, j]``.
    The first two `layers` are convolutions whose stride is their size, 2: products of pixels
    side by side.
    """
    first, norm, activation, second, second_norm, second_activation, last = layers
    objects, height, width = len(quarters), quarters.shape[-2] // 2, quarters.shape[-1] // 2
    x = quarters.flatten(4).flatten(1, 3).transpose(1, 2)
    x = activation(layer_norm(functional.linear(x, first.weight.flatten(1), first.bias), norm))
    x = (
        x.view(objects, height, 2, width, 2, -1)
        .transpose(2, 3)
        .reshape(objects, height * width, -1)
    )
    merging = second.weight.permute(0, 2, 3, 1).flatten(1)
    x = second_activation(layer_norm(functional.linear(x, merging, second.bias), second_norm))
    return functional.linear(x, last.weight.flatten(1), last.bias)


def dense_positions(
    encoder: PromptEncoder, window: tuple[int, int, int, int], dtype: torch.dtype
) -> Tensor:
    """Return the encoded positions ``(1, h w, C)`` of a window of tokens.

    The window is its top, left, height and width. Positions of the whole frame are
    computed once, in float32, and kept as long as the encoder.
    """
    top, left, height, width = window
    frame = _frame_positions(encoder, dtype)
    return frame[:, top : top + height, left : left + width].flatten(1, 2)


def _frame_positions(encoder: PromptEncoder, dtype: torch.dtype) -> Tensor:
    """Return ``(1, H, W, C)``."""
    matrix = encoder.pe_layer.positional_encoding_gaussian_matrix
    version = None if matrix.is_inference() else matrix._version  # noqa: SLF001 (torch's own)
    known_version, by_dtype = _POSITIONS.get(matrix, (None, {}))
    if version is None or known_version != version:
        known_version, by_dtype = version, {}
        _POSITIONS[matrix] = version, by_dtype
    if dtype not in by_dtype:
        # Not as inference tensors, as a training may use them later.
        with torch.inference_mode(mode=False), torch.no_grad():
            positions = encoder.get_dense_pe().permute(0, 2, 3, 1)
            by_dtype[dtype] = positions.to(dtype).contiguous()
    found: Tensor = by_dtype[dtype]
    return found
