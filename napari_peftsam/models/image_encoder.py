"""SAM's image encoder, parameter by parameter, computed faster and from any block on.

Its attention with decomposed relative positions is exact, without N x N matrices in memory.
Every query ``q`` at token ``(i, j)`` adds ``q . Rh[i - i'] + q . Rw[j - j']`` to its logit
for the key at ``(i', j')`` (Li et al. 2021, MViTv2). SAM writes that sum out for all pairs
of tokens, 805 MB for a global block of ViT-B at 1024 pixels, several times over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    get_rel_pos,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from napari_peftsam.models.architecture import Architecture, PlainVit
from napari_peftsam.models.parts import ConvStem

# Logits computed at once: they should stay in the processor's caches between the products.
_CHUNK_BYTES = 4 << 20
_ROWS = 512
_LONG_ROW = 32  # of keys; along shorter ones adding a bias costs more than further channels


class ImageEncoder(nn.Module):
    """The encoder of a `PlainVit`; names and shapes of its state dict are those of SAM's.

    Attributes
    ----------
    img_size
        Side of the square model input, in pixels.
    """

    def __init__(self, arch: Architecture, vit: PlainVit) -> None:
        super().__init__()
        sam = ImageEncoderViT(
            img_size=arch.image_size,
            patch_size=arch.patch_size,
            embed_dim=vit.width,
            depth=vit.depth,
            num_heads=vit.heads,
            out_chans=arch.embedding_width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_abs_pos=vit.absolute_positions,
            use_rel_pos=True,
            window_size=vit.window_size,
            global_attn_indexes=vit.global_blocks,
        )
        self.img_size = arch.image_size
        self.patch_embed = ConvStem(vit.width) if vit.convolutional_stem else sam.patch_embed
        self.pos_embed = sam.pos_embed
        # Without absolute positions a smaller input is a part of the frame.
        blocks = (EncoderBlock(block, vit.takes_crops) for block in sam.blocks)
        self.blocks = nn.ModuleList(blocks)
        self.neck = sam.neck

    def forward(self, x: Tensor, first: int = 0, checkpointing: bool = False) -> Tensor:
        """Return the image embedding ``(B, C, h, w)``.

        Parameters
        ----------
        x
            Model input ``(B, 3, S, S)``, see `to_model_input`; if `first` is not 0, the tokens
            ``(B, h, w, width)`` that enter that block.
        first
            Number of the first block to run; the number of blocks runs the neck only.
        checkpointing
            Keep only the input of each block and run it again in the backward pass.
        """
        *most, neck = self.steps(first)
        for step in most:
            if checkpointing and torch.is_grad_enabled():
                x = checkpoint(step, x, use_reentrant=False)
            else:
                x = step(x)
        return neck(x)

    def steps(self, first: int = 0) -> tuple[Callable[[Tensor], Tensor], ...]:
        """Return its parts in order; each maps the output of the one before it.

        From block `first` on; with 0 the patch embedding comes before.
        """
        embed = (self._embed,) if first == 0 else ()
        return (*embed, *self.blocks[first:], self._finish)

    def _embed(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.patch_embed(x)
        return tokens if self.pos_embed is None else tokens + self.pos_embed

    def _finish(self, tokens: Tensor) -> Tensor:
        embedding: Tensor = self.neck(tokens.permute(0, 3, 1, 2))
        return embedding


class EncoderBlock(nn.Module):
    """A transformer block with the parts of SAM's own; attention in windows, or global."""

    def __init__(self, block: Block, takes_crops: bool) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn = PositionAttention(block.attn, block.window_size, takes_crops)
        self.norm2 = block.norm2
        self.mlp = block.mlp

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(B, H, W, C)`` to tokens of the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PositionAttention(nn.Module):
    """Attention over a grid of tokens with decomposed relative positions.

    Parameters
    ----------
    attention
        SAM's module, whose parts it takes over.
    window_size
        Side of the windows in tokens; 0 attends to the whole grid.
    takes_crops
        Treat a grid smaller than the frame's as a part of it: a distance of one token stays
        one token. SAM interpolates its relative positions instead.
    """

    def __init__(self, attention: Attention, window_size: int, takes_crops: bool) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.qkv = attention.qkv
        self.proj = attention.proj
        self.rel_pos_h = attention.rel_pos_h
        self.rel_pos_w = attention.rel_pos_w
        self.window_size = window_size
        self.takes_crops = takes_crops

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(B, H, W, C)`` to tokens of the same shape."""
        batch, height, width, channels = x.shape
        side = self.window_size
        rows, columns = (side, side) if side else (height, width)
        padded = self._padded(x, self.qkv(x))
        # (batch, windows down, rows, windows across, columns, 3, heads, channels of a head)
        tiles = padded.unflatten(3, (3, self.num_heads, -1))
        tiles = tiles.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
        qkv = tiles.permute(5, 0, 1, 3, 6, 2, 4, 7)
        q, k, v = qkv.reshape(3, -1, rows * columns, tiles.shape[-1]).unbind(0)
        tables = self._table(self.rel_pos_h, rows), self._table(self.rel_pos_w, columns)
        out = position_attention(q, k, v, *tables)
        heads = out.unflatten(0, (-1, self.num_heads)).transpose(1, 2).flatten(2)
        joined = _joined(heads, (batch, height, width, channels), rows, columns)
        projected: Tensor = self.proj(joined)
        return projected

    def _padded(self, x: Tensor, qkv: Tensor) -> Tensor:
        """Fill up the windows at the edge with what padding by zeros gives: SAM attends to it."""
        if not self.window_size:
            return qkv
        bottom, right = (-n % self.window_size for n in qkv.shape[1:3])
        if not (bottom or right):
            return qkv
        nothing = self.qkv(x.new_zeros(1, 1, 1, x.shape[-1]))
        batch, height, width, _ = qkv.shape
        qkv = torch.cat([qkv, nothing.expand(batch, height, right, -1)], 2)
        return torch.cat([qkv, nothing.expand(batch, bottom, width + right, -1)], 1)

    def _table(self, positions: Tensor, size: int) -> Tensor:
        """Return the relative positions of all pairs of `size` tokens ``(size, size, d)``."""
        middle = len(positions) // 2
        if self.takes_crops and size <= middle:
            positions = positions[middle - size + 1 : middle + size]
        return cast("Tensor", get_rel_pos(size, size, positions))


def _joined(windows: Tensor, shape: tuple[int, int, int, int], rows: int, columns: int) -> Tensor:
    """Put windows ``(B * windows, rows * columns, C)`` together to ``(B, H, W, C)``, unpadded."""
    batch, height, width, channels = shape
    down, across = -(-height // rows), -(-width // columns)
    tiles = windows.view(batch, down, across, rows, columns, channels).transpose(2, 3)
    grid = tiles.reshape(batch, down * rows, across * columns, channels)
    # Contiguous: a linear layer is slow on anything else.
    return grid[:, :height, :width].contiguous()


def position_attention(
    q: Tensor, k: Tensor, v: Tensor, rel_rows: Tensor, rel_columns: Tensor
) -> Tensor:
    """Return ``softmax(d^-0.5 q k^T + bias) v`` over a grid of ``H x W`` tokens.

    Nothing of the size ``N x N`` is kept for the backward pass.

    Parameters
    ----------
    q, k, v
        ``(B, H * W, d)``, in the arithmetic to compute in.
    rel_rows, rel_columns
        Relative positions of all pairs of rows ``(H, H, d)`` and of columns ``(W, W, d)``.

    Returns
    -------
    torch.Tensor
        ``(B, H * W, d)``.
    """
    with torch.autocast(q.device.type, enabled=False):
        biases: tuple[Tensor, ...] = _biases(q, rel_rows.to(q.dtype), rel_columns.to(q.dtype))
        q = q * q.shape[-1] ** -0.5
        on_cpu = q.device.type == "cpu"
        if not on_cpu or len(rel_columns) < _LONG_ROW:
            q, k, biases = *_folded(q, k, *biases), ()
        if on_cpu:
            # Once here, or every product of a part would copy its factors.
            whole = (x.contiguous() for x in (q, k, v, *biases))
            chunked: Tensor = _InChunks.apply(*whole)
            return chunked
        q, k, v = (x[:, None] for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0]


def _biases(q: Tensor, rel_rows: Tensor, rel_columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``q . R`` for the rows ``(B, N, H)`` and for the columns ``(B, N, W)`` of keys."""
    grid = q.unflatten(1, (len(rel_rows), len(rel_columns)))
    rows = torch.einsum("bhwc,hkc->bhwk", grid, rel_rows)
    columns = torch.einsum("bhwc,wkc->bhwk", grid, rel_columns)
    return rows.flatten(1, 2), columns.flatten(1, 2)


def _folded(q: Tensor, k: Tensor, bias_rows: Tensor, bias_columns: Tensor) -> tuple[Tensor, Tensor]:
    """Let the biases be further channels of queries and keys.

    The key at row i has the i-th unit vector there, so that the product picks its bias.
    """
    height, width = bias_rows.shape[-1], bias_columns.shape[-1]
    row_of = torch.eye(height, dtype=k.dtype, device=k.device).repeat_interleave(width, 0)
    column_of = torch.eye(width, dtype=k.dtype, device=k.device).repeat(height, 1)
    units = torch.cat([row_of, column_of], -1).expand(len(k), -1, -1)
    folded = torch.cat([q, bias_rows, bias_columns], -1), torch.cat([k, units], -1)
    # Fused kernels take multiples of 8 channels only; without one all pairs would be kept.
    rest = -folded[0].shape[-1] % 8
    queries, keys = (functional.pad(x, (0, rest)) for x in folded)
    return queries, keys


class _InChunks(torch.autograd.Function):
    """Attention part by part: the CPU's fused kernel is slower, and has no gradient of a bias.

    Biases of rows and columns of keys may be given. In the backward pass each part's
    probabilities are computed once more.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, *biases: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v, *biases)
        out = torch.empty_like(v)
        work = _Workspace(q)
        for batch, rows in work.parts:
            probability = work.probability(q, k, biases, (batch, rows))
            out[batch, rows] = torch.bmm(probability, v[batch])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        q, k, v, *biases = ctx.saved_tensors
        d_q, *d_biases = map(torch.empty_like, (q, *biases))
        # Sums over the parts, which half precision would round each time.
        d_k, d_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        gradient = gradient.contiguous()
        work = _Workspace(q)
        for part in work.parts:
            batch, _ = part
            probability = work.probability(q, k, biases, part)
            d_out = gradient[part]
            d_v[batch] += torch.bmm(probability.transpose(1, 2), d_out)
            d_probability = torch.bmm(d_out, v[batch].transpose(1, 2), out=work.spare(part))
            d_logits = _softmax_gradient(d_probability, probability)
            d_q[part] = torch.bmm(d_logits, k[batch])
            d_k[batch] += torch.bmm(d_logits.transpose(1, 2), q[part])
            for axis, d_bias in zip((-1, -2), d_biases, strict=False):
                d_bias[part] = _pairs(d_logits, biases).sum(axis)
        return d_q, d_k.to(k.dtype), d_v.to(v.dtype), *d_biases


class _Workspace:
    """Parts of the batch and of the queries, and memory for the logits of one of them."""

    def __init__(self, q: Tensor) -> None:
        size, tokens, _ = q.shape
        rows = min(tokens, _ROWS)
        together = max(1, min(size, _CHUNK_BYTES // (rows * tokens * q.element_size())))
        self.parts = [
            (slice(start, min(start + together, size)), slice(row, min(row + rows, tokens)))
            for start in range(0, size, together)
            for row in range(0, tokens, rows)
        ]
        if isinstance(q, FakeTensor):  # it has no values, and one part takes what all take
            self.parts = self.parts[:1]
        self._logits, self._probability = (q.new_empty(together, rows, tokens) for _ in range(2))

    def spare(self, part: tuple[slice, slice]) -> Tensor:
        """Return memory for the logits of a part; the next call returns the same."""
        return _fitting(self._logits, part)

    def probability(
        self, q: Tensor, k: Tensor, biases: Sequence[Tensor], part: tuple[slice, slice]
    ) -> Tensor:
        """Return how much each query of a part takes of each key; the next call overwrites it."""
        logits = torch.bmm(q[part], k[part[0]].transpose(1, 2), out=self.spare(part))
        if biases:
            rows, columns = (bias[part] for bias in biases)
            pairs = _pairs(logits, biases)
            pairs += rows[..., None]
            pairs += columns[..., None, :]
        found: Tensor = torch.softmax(logits, -1, out=_fitting(self._probability, part))
        return found


def _pairs(logits: Tensor, biases: Sequence[Tensor]) -> Tensor:
    """Return logits ``(B, N, H * W)`` as ``(B, N, H, W)``."""
    pairs: Tensor = logits.unflatten(2, [bias.shape[-1] for bias in biases])
    return pairs


def _softmax_gradient(gradient: Tensor, probability: Tensor) -> Tensor:
    """Return the gradient of the logits in one pass; there is no public name for it."""
    kernel = torch.ops.aten._softmax_backward_data  # noqa: SLF001
    logits: Tensor = kernel(gradient, probability, -1, probability.dtype)
    return logits


def _fitting(memory: Tensor, part: tuple[slice, slice]) -> Tensor:
    batch, rows = (piece.stop - piece.start for piece in part)
    tokens = memory.shape[-1]
    return memory.flatten()[: batch * rows * tokens].view(batch, rows, tokens)
