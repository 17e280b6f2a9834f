"""SAM's image encoder, parameter by parameter, computed faster and from any block on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    add_decomposed_rel_pos,
    get_rel_pos,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from napari_peftsam.models.architecture import Architecture, PlainVit
from napari_peftsam.models.attention import position_attention
from napari_peftsam.models.parts import ConvStem

__all__ = ["ImageEncoder", "reference_attention"]


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
            Whether the blocks keep their input only and are run again in the backward pass.
        """
        *most, neck = self.steps(first)
        for step in most:
            if checkpointing and torch.is_grad_enabled():
                x = checkpoint(step, x, use_reentrant=False)
            else:
                x = step(x)
        return neck(x)

    def prefix(self, x: Tensor, blocks: int) -> Tensor:
        """Return the tokens ``(B, h, w, width)`` that leave the first `blocks` blocks."""
        for step in self.steps()[: 1 + blocks]:
            x = step(x)
        return x

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
        Whether a grid smaller than the frame's is a part of it: a distance of one token stays
        one token. SAM interpolates its relative positions instead.

    Attributes
    ----------
    reference
        Compute as SAM does, to compare with, see `reference_attention`.
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
        self.reference = False

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
        attend = _as_sam if self.reference else _attended
        out = attend(q, k, v, self._tables(rows, columns), (rows, columns))
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

    def _tables(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        return self._table(self.rel_pos_h, rows), self._table(self.rel_pos_w, columns)

    def _table(self, positions: Tensor, size: int) -> Tensor:
        middle = len(positions) // 2
        if self.takes_crops and size <= middle:
            return positions[middle - size + 1 : middle + size]
        return positions


def _joined(windows: Tensor, shape: tuple[int, int, int, int], rows: int, columns: int) -> Tensor:
    """Put windows ``(B * windows, rows * columns, C)`` together to ``(B, H, W, C)``, unpadded."""
    batch, height, width, channels = shape
    down, across = -(-height // rows), -(-width // columns)
    tiles = windows.view(batch, down, across, rows, columns, channels).transpose(2, 3)
    grid = tiles.reshape(batch, down * rows, across * columns, channels)
    # Contiguous: a linear layer is slow on anything else.
    return grid[:, :height, :width].contiguous()


def _attended(
    q: Tensor, k: Tensor, v: Tensor, tables: tuple[Tensor, Tensor], grid: tuple[int, int]
) -> Tensor:
    pairs = (get_rel_pos(n, n, table) for n, table in zip(grid, tables, strict=True))
    return position_attention(q, k, v, *pairs)


def _as_sam(
    q: Tensor, k: Tensor, v: Tensor, tables: tuple[Tensor, Tensor], grid: tuple[int, int]
) -> Tensor:
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(1, 2)
    biased = add_decomposed_rel_pos(logits, q, *tables, grid, grid)
    return cast("Tensor", biased.softmax(-1) @ v)


@contextmanager
def reference_attention(encoder: nn.Module) -> Iterator[None]:
    """Compute attention as `segment_anything` does inside the ``with`` block, to compare with."""
    modules = [m for m in encoder.modules() if isinstance(m, PositionAttention)]
    for module in modules:
        module.reference = True
    try:
        yield
    finally:
        for module in modules:
            module.reference = False
