"""SAM's attention with decomposed relative positions, exact and without its N x N matrices.

Every query ``q`` at token ``(i, j)`` adds ``q . Rh[i - i'] + q . Rw[j - j']`` to its logit
for the key at ``(i', j')`` (Li et al. 2021, MViTv2). SAM writes that sum out for all pairs
of tokens, 805 MB for a global block of ViT-B at 1024 pixels, several times over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["position_attention"]

# Logits computed at once: they should stay in the processor's caches between the products.
_CHUNK_BYTES = 4 << 20
_ROWS = 512
_LONG_ROW = 32  # of keys; along shorter ones adding a bias costs more than further channels


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
