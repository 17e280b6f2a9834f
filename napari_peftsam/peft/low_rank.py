"""Low-rank updates on row ranges of a frozen linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from math import sqrt
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft.cobot import CobotMixer
from napari_peftsam.peft.placement import Target
from napari_peftsam.peft.surgery import Replacement, Surgery


@dataclass(frozen=True, eq=False)
class Factors:
    """A low-rank change of some rows of a linear layer, on the CPU.

    The rows become ``W + scale * up @ down``; with lengths, those of the layer are scaled to them.

    Attributes
    ----------
    down
        ``(r, in)``.
    up
        ``(rows, r)``.
    scale
        Factor on the product.
    magnitude
        ``(out,)``, the lengths of all rows of the layer afterwards (DoRA); None leaves them as
        they come.
    """

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Inner dimension of the product."""
        return len(self.down)


class RowUpdate(nn.Module):
    """An update of one range of the output rows of a frozen linear layer."""

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Return the change of `out` ``(..., rows)``, the frozen layer's output for `x`."""
        raise NotImplementedError

    def low_rank(self) -> Factors:
        """Return the equivalent plain low-rank update, float64."""
        raise NotImplementedError

    def folded(self, weight: Tensor) -> Tensor:
        """Return the frozen rows `weight` ``(rows, in)`` with the update added, float64."""
        factors = self.low_rank()
        return weight + factors.scale * (factors.up @ factors.down)


class LowRankUpdate(RowUpdate):
    """``x -> alpha * B R A x`` with ``R`` the mixer's matrix, or the identity.

    `A` is ``(r, in)``, Kaiming-uniform with a = sqrt(5); `B` is ``(out, r)``, zeros,
    so the update starts as exactly 0. Source: Hu et al. 2021, LoRA.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        rank: int,
        alpha: float,
        mixer: CobotMixer | None = None,
    ) -> None:
        super().__init__()
        out_features, in_features = shape
        self.alpha = alpha
        self.A = nn.Parameter(random_start(rank, in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank, device="cpu"))
        self.mixer = mixer

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Return the update ``(..., rows)``, in the dtype of `x` or of autocast."""
        inner = F.linear(x, self.A.to(x.dtype))
        if self.mixer is not None:
            inner = F.linear(inner, self.mixer.matrix().to(inner.dtype))
        return F.linear(inner * self.alpha, self.B.to(inner.dtype))

    def low_rank(self) -> Factors:
        """Return A and B, the mixer multiplied into A."""
        down = exact(self.A)
        if self.mixer is not None:
            down = exact(self.mixer.matrix()) @ down
        return Factors(down, exact(self.B), self.alpha)


class FrozenLinear(Protocol):
    """The part of `nn.Linear` that an `AdaptedLinear` needs of its base."""

    @property
    def weight(self) -> Tensor:
        """``(out, in)``."""

    @property
    def bias(self) -> Tensor | None:
        """``(out,)``, if there is one."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""


class AdaptedLinear(Replacement):
    """A frozen linear layer plus one update per chosen range of its output rows.

    Parameters
    ----------
    base
        The layer itself; it stays the same object and keeps its keys under ``base.``.
    updates
        Updates by name; an update's output is added to its rows.
    rows
        Half-open row range of each update.
    """

    def __init__(
        self,
        base: FrozenLinear,
        updates: Mapping[str, RowUpdate],
        rows: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__()
        self.base = base
        self.slots = nn.ModuleDict(updates)
        self.rows = dict(rows)
        self.slots.to(device=base.weight.device, dtype=base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        out: Tensor = self.base(x)
        changes: dict[tuple[int, int], Tensor] = {}
        for name, update in self.slots.items():
            start, stop = self.rows[name]
            change = update(x, out[..., start:stop])
            changes[start, stop] = change if self.strength == 1 else change * self.strength
        return add_to_rows(out, changes)

    def folded_weight(self) -> Tensor:
        """Return the weight ``(out, in)`` of the equivalent plain layer, float64, CPU."""
        weight = exact(self.base.weight).clone()
        for name, update in self.slots.items():
            assert isinstance(update, RowUpdate)
            rows = slice(*self.rows[name])
            weight[rows] += self.strength * (update.folded(weight[rows]) - weight[rows])
        return weight

    def folded_state(self) -> dict[str, Tensor]:
        """Return weight and bias of the plain layer that computes the same."""
        state = {"weight": self.folded_weight().to(self.base.weight.dtype)}
        return state if self.base.bias is None else state | {"bias": self.base.bias.detach().cpu()}

    def lengths(self) -> Tensor | None:
        """Return the learned lengths ``(out,)`` of all rows; None if lengths are not learned."""
        return None


@dataclass(frozen=True, eq=False)
class TargetSite:
    """The place of one update in the model.

    Attributes
    ----------
    number
        Index of the target in the model.
    base, rows
        The frozen layer, and the half-open range of its output rows.
    loading
        Whether the update's tensors will be overwritten, see `Surgery`.
    """

    number: int
    base: nn.Linear
    rows: tuple[int, int]
    loading: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)`` of the update."""
        return self.rows[1] - self.rows[0], self.base.in_features


def install_low_rank(
    surgery: Surgery,
    modules: Iterable[Target],
    rank: int,
    make: Callable[[TargetSite], RowUpdate],
    *,
    layer: type[AdaptedLinear] = AdaptedLinear,
    hold: Callable[[nn.Linear], FrozenLinear] | None = None,
) -> None:
    """Replace the layers that hold the targets `modules`, which are grouped by layer.

    Parameters
    ----------
    make
        Maker of the update of one target.
    layer
        Class of the new layers.
    hold
        Maker of a substitute for a frozen layer; None keeps the layer itself.
    """
    numbered = groupby(enumerate(modules), key=lambda item: item[1].layer)
    for path, members in numbered:
        base = surgery.layer(path)
        updates, rows = {}, {}
        for number, target in members:
            rows[target.part] = target.rows(base.out_features)
            site = TargetSite(number, base, rows[target.part], surgery.loading)
            _check_rank(rank, site.shape, path)
            updates[target.part] = make(site)
        frozen = base if hold is None else hold(base)
        surgery.replace(path, layer(frozen, updates, rows), park=hold is not None)


def add_to_rows(out: Tensor, changes: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """Add `changes` to half-open, disjoint ranges of the last axis of `out`; return the sum.

    Without gradients `out` itself becomes the sum. With them it stays as it is: autograd may
    hold it as a leaf or as a view, neither of which may be changed in place.

    Parameters
    ----------
    out
        ``(..., width)``, used for nothing else.
    changes
        Tensors ``(..., stop - start)`` by their range.
    """
    if not torch.is_grad_enabled():
        for (start, stop), change in changes.items():
            out[..., start:stop].add_(change)
        return out
    # One split and one concatenation: the gradient of each single slice would be padded with zeros.
    ranges = list(pairwise(sorted({0, out.shape[-1], *chain.from_iterable(changes)})))
    parts = out.split([stop - start for start, stop in ranges], dim=-1)
    sums = [
        (part + changes[rows]).to(out.dtype) if rows in changes else part
        for rows, part in zip(ranges, parts, strict=True)
    ]
    return sums[0] if len(sums) == 1 else torch.cat(sums, dim=-1)


def random_start(rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """Return a matrix as LoRA's A starts: Kaiming-uniform with a = sqrt(5), on the CPU."""
    drawn = torch.empty(rows, columns, device="cpu")
    return nn.init.kaiming_uniform_(drawn, a=sqrt(5), generator=generator)


def _check_rank(rank: int, shape: tuple[int, int], layer: str) -> None:
    """Raise `ConfigurationError` if `rank` exceeds a matrix of this ``(out, in)``."""
    if rank > min(shape):
        raise ConfigurationError(
            f"rank {rank} is larger than the width {min(shape)} of {layer}: "
            f"choose at most {min(shape)}"
        )


def exact(tensor: Tensor) -> Tensor:
    """Return a float64 copy on the CPU, in which weights are folded."""
    return tensor.detach().cpu().double()  # CPU first: not every device has float64
