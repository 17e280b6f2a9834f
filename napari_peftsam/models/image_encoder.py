"""SAM's image encoder, parameter by parameter, computed faster and from any block on."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakTensorKeyDictionary

from napari_peftsam.models.architecture import Architecture, PlainVit
from napari_peftsam.models.attention import Grid, position_attention
from napari_peftsam.models.parts import ConvStem
from napari_peftsam.models.sam_parts import Attention, Block, ImageEncoderViT, MLPBlock

_BF16 = torch.bfloat16
_TOKENS = 4096  # the number of rows that weights are packed for; others are as exact

# Of each weight: its version, address and packed copy.
_PACKED: MutableMapping[Tensor, tuple[object, Tensor]] = WeakTensorKeyDictionary()


class KeepingLinear(nn.Linear):
    """The parameters of a layer, which it takes over; in inference on a CPU faster.

    Products are oneDNN's, on weights packed for the processor. Autocast casts all weights again
    for each input, and oneDNN then sorts them into the order it multiplies in: a tenth of the
    time of an embedding in bfloat16. In float32 its products take 4 % less time than
    `torch.nn.functional.linear`'s, and GELU on the way out a fifth less. A weight that was
    changed or exchanged is packed anew, and nothing else.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, "meta")
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``, through GELU if asked."""
        dtype = None if torch.is_grad_enabled() else _arithmetic(x)
        if dtype == torch.float32 and self.weight.dtype == dtype:
            weight = self.weight
        elif dtype == _BF16 and not self.weight.is_inference():  # its changes would not be counted
            weight = _packed(self.weight)
        else:
            out = super().forward(x)
            return functional.gelu(out) if gelu else out
        bias = None if self.bias is None else self.bias.to(dtype)
        after = "gelu" if gelu else "none"
        product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001 (there is no public name)
        found: Tensor = product(x.to(dtype), weight, bias, after, [], "none")
        return found


def _packed(weight: Tensor) -> Tensor:
    """Return a weight in bfloat16 as the product takes it."""
    state = weight._version, weight.data_ptr()  # noqa: SLF001 (torch's own)
    known, packed = _PACKED.get(weight, (None, weight))
    if known != state:
        pack = torch.ops.mkldnn._reorder_linear_weight  # noqa: SLF001
        packed = pack(weight.detach().to(_BF16), _TOKENS)
        _PACKED[weight] = state, packed
    return packed


def _arithmetic(x: Tensor) -> torch.dtype | None:
    """Return the arithmetic of oneDNN's product of an input; None where there is none of it."""
    mkldnn = torch.backends.mkldnn
    if x.device.type != "cpu" or not mkldnn.is_available():
        return None
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32 if x.dtype == torch.float32 else None
    if torch.get_autocast_dtype("cpu") != _BF16 or not packs():
        return None
    return _BF16


def packs() -> bool:
    """Return True if torch can multiply bfloat16 by packed weights on this processor."""
    mkldnn = torch.backends.mkldnn
    return mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


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
        self.mlp = _Mlp(block.mlp)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(B, H, W, C)`` to tokens of the same shape."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _Mlp(nn.Module):
    """Two linear layers with GELU between, computed with the first where that is plain."""

    def __init__(self, mlp: MLPBlock) -> None:
        super().__init__()
        self.lin1 = KeepingLinear(mlp.lin1)
        self.lin2 = KeepingLinear(mlp.lin2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., C)`` to ``(..., C)``."""
        plain = isinstance(self.lin1, KeepingLinear)
        out: Tensor = self.lin2(self.lin1(x, gelu=True) if plain else functional.gelu(self.lin1(x)))
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
        self.qkv = KeepingLinear(attention.qkv)
        self.proj = KeepingLinear(attention.proj)
        self.rel_pos_h = attention.rel_pos_h
        self.rel_pos_w = attention.rel_pos_w
        self.window_size = window_size
        self.takes_crops = takes_crops

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens ``(B, H, W, C)`` to tokens of the same shape."""
        height, width, channels = x.shape[1:]
        side = self.window_size
        grid = Grid(self.num_heads, *((side, side) if side else (height, width)))
        # What SAM's padding by zeros gives: it attends to it.
        padded = height % grid.rows or width % grid.columns
        beyond = self.qkv(x.new_zeros(1, channels))[0] if padded else None
        tables = (
            self._table(self.rel_pos_h, grid.rows),
            self._table(self.rel_pos_w, grid.columns),
        )
        out: Tensor = self.proj(position_attention(self.qkv(x), beyond, *tables, grid))
        return out

    def _table(self, positions: Tensor, size: int) -> Tensor:
        """Return the relative positions of `size` tokens by their distance ``(2 size - 1, d)``."""
        middle = len(positions) // 2
        if self.takes_crops and size <= middle:
            return positions[middle - size + 1 : middle + size]
        if len(positions) == 2 * size - 1:
            return positions
        resized = functional.interpolate(positions.t()[None], 2 * size - 1, mode="linear")
        return resized[0].t()
