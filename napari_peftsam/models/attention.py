"""Attention over grids of tokens with decomposed relative positions, in windows or global.

It is exact, without N x N matrices in memory. Every query ``q`` at token ``(i, j)`` adds
``q . Rh[i - i'] + q . Rw[j - j']`` to its logit for the key at ``(i', j')`` (Li et al. 2021,
MViTv2). SAM writes that sum out for all pairs of tokens, 805 MB for a global block of ViT-B
at 1024 pixels, several times over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Logits computed at once: they should stay in the processor's caches between the products.
_CHUNK_BYTES = 4 << 20
_ROWS = 512
_LONG_ROW = 32  # of keys; along shorter ones adding a bias costs more than further channels
_CHANNELS = 8  # fused kernels take multiples of it only; without one all pairs would be kept


class Grid(NamedTuple):
    """How tokens are divided: heads, and the rows and columns of a window (or of the grid)."""

    heads: int
    rows: int
    columns: int


def position_attention(
    qkv: Tensor, beyond: Tensor | None, rel_rows: Tensor, rel_columns: Tensor, grid: Grid
) -> Tensor:
    """Return ``softmax(d^-0.5 q k^T + bias) v`` of all windows and heads.

    Nothing of the size ``N x N`` is kept for the backward pass.

    Parameters
    ----------
    qkv
        Queries, keys and values of the tokens ``(B, H, W, 3 * heads * d)``, in the arithmetic
        to compute in.
    beyond
        The same ``(3 * heads * d,)`` of tokens beyond the grid, which fill up the windows at
        its edge: they are attended to. None if there are none.
    rel_rows, rel_columns
        Relative positions by the distance from key to query, ``(2 * rows - 1, d)`` and
        ``(2 * columns - 1, d)``.
    grid
        Heads and windows.

    Returns
    -------
    torch.Tensor
        ``(B, H, W, heads * d)``.
    """
    with torch.autocast(qkv.device.type, enabled=False):
        # Backwards, the position of key 0 comes first for the last query, see `_diagonals`.
        scale = (qkv.shape[-1] // (3 * grid.heads)) ** -0.5
        table = torch.cat([rel_rows.flip(0), rel_columns.flip(0)]) / scale
        on_cpu = qkv.device.type == "cpu"
        folded = not on_cpu or grid.columns < _LONG_ROW
        q, k, v, *biases = _Split.apply(qkv, beyond, table.to(qkv.dtype), grid, folded)
        if on_cpu:
            out = _InChunks.apply(q, k, v, *biases)
        else:
            q, k, v = (x[:, None] for x in (q, k, v))
            out = functional.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0]
        joined: Tensor = _Join.apply(out, qkv.shape, grid)
        return joined


class _Split(torch.autograd.Function):
    """Queries (scaled), keys, values and biases by window and head, in one pass each.

    The biases are ``(n, N, rows)`` and ``(n, N, columns)``. Folded, they are further channels of
    the queries; the key at row i has the i-th unit vector there, so that the product picks it.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, beyond: Tensor | None, table: Tensor, grid: Grid, folded: bool
    ) -> tuple[Tensor, ...]:
        heads, rows, columns = grid
        source = qkv.unflatten(3, (3, heads, -1))
        batch, height, width, _, _, d = source.shape
        down, across = -(-height // rows), -(-width // columns)
        size = (batch, down, across, heads, rows, columns)
        channels = d + (rows + columns if folded else 0)
        channels += -channels % _CHANNELS if folded else 0
        # Zeros where nothing is written, and in keys everywhere but in their unit vectors.
        q, k, v = (
            make(*size, n)
            for make, n in (
                (qkv.new_zeros if channels > d + rows + columns else qkv.new_empty, channels),
                (qkv.new_zeros if folded else qkv.new_empty, channels),
                (qkv.new_empty, d),
            )
        )
        for number, (x, factor) in enumerate(((q, d**-0.5), (k, 1.0), (v, 1.0))):
            tiles = _tiles(x[..., :d])
            for tokens, part in _matching(source[:, :, :, number], tiles):
                torch.mul(tokens, factor, out=part) if factor != 1 else part.copy_(tokens)
            if beyond is not None:
                for part in _beyond(tiles, height, width):
                    part.copy_(beyond.view(3, heads, d)[number] * factor)
        flat = q[..., :d].reshape(-1, d)
        found = _diagonals((flat @ table.t()).view(-1, rows, columns, len(table)))
        if folded:
            k[..., d : d + rows] = torch.eye(rows, dtype=k.dtype, device=k.device)[:, None]
            k[..., d + rows : d + rows + columns] = torch.eye(
                columns, dtype=k.dtype, device=k.device
            )
            for bias, place in zip(found, _biases_in(q, d, grid), strict=True):
                place.copy_(bias)
            biases: tuple[Tensor, ...] = ()
        else:
            biases = tuple(bias.flatten(1, 2) for bias in found)
        q, k, v = (x.flatten(0, 3).flatten(1, 2) for x in (q, k, v))
        ctx.save_for_backward(q, table)
        ctx.grid, ctx.size, ctx.shape, ctx.d = grid, size, qkv.shape, d
        return q, k, v, *biases

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, table = ctx.saved_tensors
        grid, d = ctx.grid, ctx.d
        _, rows, columns = grid
        d_q, d_k, d_v, *d_biases = gradients
        d_products = q.new_zeros(q.shape[0] * q.shape[1], len(table))
        places = _diagonals(d_products.view(-1, rows, columns, len(table)))
        for place, bias in zip(places, d_biases or _biases_in(d_q, d, grid), strict=True):
            place.copy_(bias.view(place.shape))
        d_flat = torch.addmm(d_q[..., :d].reshape(-1, d), d_products, table)
        d_table = None
        if ctx.needs_input_grad[2]:
            d_table = d_products.t() @ q[..., :d].reshape(-1, d)
        d_qkv = q.new_empty(ctx.shape)
        d_beyond = q.new_zeros(3, grid.heads, d) if ctx.needs_input_grad[1] else None
        height, width = ctx.shape[1:3]
        source = d_qkv.unflatten(3, (3, grid.heads, d))
        for number, (x, factor) in enumerate(((d_flat, d**-0.5), (d_k, 1.0), (d_v, 1.0))):
            tiles = _tiles(x.view(*ctx.size, -1)[..., :d])
            for tokens, part in _matching(source[:, :, :, number], tiles):
                torch.mul(part, factor, out=tokens) if factor != 1 else tokens.copy_(part)
            if d_beyond is not None:
                for part in _beyond(tiles, height, width):
                    d_beyond[number] += part.sum(tuple(range(part.ndim - 2))) * factor
        return d_qkv, None if d_beyond is None else d_beyond.flatten(), d_table, None, None


class _Join(torch.autograd.Function):
    """Windows of heads ``(n, N, d)`` put together to ``(B, H, W, heads * d)``, in one pass."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, shape: Sequence[int], grid: Grid) -> Tensor:
        heads, rows, columns = grid
        batch, height, width, _ = shape
        size = (batch, -(-height // rows), -(-width // columns), heads, rows, columns)
        ctx.size, ctx.shape = size, windows.shape
        out = windows.new_empty(batch, height, width, heads, windows.shape[-1])
        for tokens, part in _matching(out, _tiles(windows.view(*size, -1))):
            tokens.copy_(part)
        return out.flatten(3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        windows = gradient.new_zeros(*ctx.size, ctx.shape[-1])
        source = gradient.unflatten(3, (ctx.size[3], -1))
        for tokens, part in _matching(source, _tiles(windows)):
            part.copy_(tokens)
        return windows.view(ctx.shape), None, None


def _tiles(x: Tensor) -> Tensor:
    """View ``(B, down, across, heads, rows, columns, d)`` in the order of tokens.

    That is ``(B, down, rows, across, columns, heads, d)``.
    """
    return x.permute(0, 1, 4, 2, 5, 3, 6)


def _matching(tokens: Tensor, tiles: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield equal parts of tokens ``(B, H, W, heads, d)`` and of their `_tiles`, as views."""
    height, width = tokens.shape[1:3]
    for down, rows, y in _cuts(height, tiles.shape[2]):
        for across, columns, x in _cuts(width, tiles.shape[4]):
            part = tiles[:, down, rows, across, columns]
            yield tokens[:, y, x].unflatten(2, part.shape[3:5]).unflatten(1, part.shape[1:3]), part


def _cuts(length: int, side: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield windows, their part within the grid, and its tokens: whole ones, then the last."""
    whole, rest = divmod(length, side)
    if whole:
        yield slice(whole), slice(side), slice(whole * side)
    if rest:
        yield slice(whole, whole + 1), slice(rest), slice(whole * side, length)


def _beyond(tiles: Tensor, height: int, width: int) -> Iterator[Tensor]:
    """Yield views of `_tiles` that together are what lies beyond the grid, each token once."""
    bottom, right = (-n % side for n, side in ((height, tiles.shape[2]), (width, tiles.shape[4])))
    if bottom:
        yield tiles[:, -1, -bottom:]
    if right:
        edge = tiles[:, :, :, -1, -right:]
        yield edge[:, :-1]
        yield edge[:, -1, : tiles.shape[2] - bottom]


def _diagonals(products: Tensor) -> tuple[Tensor, Tensor]:
    """View products ``(n, rows, columns, 2 rows - 1 + 2 columns - 1)`` of queries by key.

    The last axis is that of relative positions, see `position_attention`; the views are
    ``(n, rows, columns, rows)`` for the rows of keys and ``(n, rows, columns, columns)``.
    """
    n, rows, columns, _ = products.shape
    whole, row, column, _ = products.stride()
    start = products.storage_offset()
    return (
        products.as_strided(
            (n, rows, columns, rows), (whole, row - 1, column, 1), start + rows - 1
        ),
        products.as_strided(
            (n, rows, columns, columns),
            (whole, row, column - 1, 1),
            start + 2 * rows - 1 + columns - 1,
        ),
    )


def _biases_in(q: Tensor, d: int, grid: Grid) -> tuple[Tensor, ...]:
    """View the biases of rows and of columns among the channels of folded queries."""
    _, rows, columns = grid
    channels = q.view(-1, rows, columns, q.shape[-1])[..., d:]
    return channels[..., :rows], channels[..., rows : rows + columns]


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
            torch.bmm(probability, v[batch], out=out[batch, rows])
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
        self._logits, self._probability = (q.new_empty(together, rows, tokens) for _ in range(2))

    def spare(self, part: tuple[slice, slice]) -> Tensor:
        """Return memory for the logits of a part; the next call returns the same."""
        return _fitting(self._logits, part)

    def probability(
        self, q: Tensor, k: Tensor, biases: Sequence[Tensor], part: tuple[slice, slice]
    ) -> Tensor:
        """Return how much each query of a part takes of each key; the next call overwrites it."""
        keys, logits = k[part[0]].transpose(1, 2), self.spare(part)
        if biases:
            rows, columns = (bias[part] for bias in biases)
            torch.add(rows[..., None], columns[..., None, :], out=_pairs(logits, biases))
            torch.baddbmm(logits, q[part], keys, out=logits)
        else:
            torch.bmm(q[part], keys, out=logits)
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
