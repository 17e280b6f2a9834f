"""FacT-TT: updates of all blocks from shared factors (Jie and Deng, AAAI 2023)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from napari_peftsam.peft.low_rank import (
    Factors,
    RowUpdate,
    TargetSite,
    exact,
    install_low_rank,
    random_start,
)
from napari_peftsam.peft.placement import targets
from napari_peftsam.peft.protocol import PlacedConfig
from napari_peftsam.peft.surgery import Surgery

_FACTORS_PATH = "image_encoder.fact"


class _FactFactors(nn.Module):
    """The outer factors: U ``(r, D)``, Kaiming-uniform, and V ``(D, r)``, zeros."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.U = nn.Parameter(random_start(rank, width))
        self.V = nn.Parameter(torch.zeros(width, rank, device="cpu"))


class _FactUpdate(RowUpdate):
    """``x -> alpha * V Sigma U x`` with factors that may serve several slots.

    They are referred to but not registered here, so that state dicts, optimisers and files
    see them once.
    """

    factors: _FactFactors

    def __init__(self, factors: _FactFactors, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.__dict__["factors"] = factors  # past nn.Module's registration
        self.alpha, self.dropout = alpha, dropout
        self.Sigma = nn.Parameter(random_start(rank, rank))

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Return the update ``(..., D)``."""
        inner = F.linear(F.linear(x, self.factors.U.to(x.dtype)), self.Sigma.to(x.dtype))
        inner = F.dropout(inner, self.dropout, self.training)
        return F.linear(inner * self.alpha, self.factors.V.to(inner.dtype))

    def low_rank(self) -> Factors:
        """Return U, and V with the core multiplied into it."""
        up = exact(self.factors.V) @ exact(self.Sigma)
        return Factors(exact(self.factors.U), up, self.alpha)


class FactConfig(PlacedConfig):
    """Tensor-train updates of q and v."""

    title = "FacT-TT"
    description = "Updates of q and v built from factors that all blocks share; small files."
    changes = "an update of q and v from factors that blocks share"
    use_when = "small files"
    low_rank = True

    method: Literal["fact"] = "fact"
    rank: int = Field(
        default=16,
        ge=1,
        title="Rank",
        description="Inner dimension of the update; more can learn more and weighs more.",
    )
    alpha: float = Field(default=1.0, gt=0, title="Alpha", description="Factor on the update.")
    dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        title="Dropout",
        description="Share of the inner dimensions left out at random in each training step.",
    )
    shared: bool = Field(
        default=True,
        title="Share factors",
        description="One pair of outer factors for all blocks, as in the paper; else one a block.",
    )

    def install(self, surgery: Surgery) -> None:
        """Add the factors to the encoder and replace the attention projections."""
        blocks = self.placement.blocks(surgery.depth)
        factors: dict[str, _FactFactors] = {}

        def make(site: TargetSite) -> _FactUpdate:
            block = blocks[site.number // 2]  # q and v
            path = _FACTORS_PATH if self.shared else f"image_encoder.blocks.{block}.fact"
            if path not in factors:
                weight = site.base.weight
                factors[path] = _FactFactors(site.base.in_features, self.rank)
                surgery.add(path, factors[path].to(weight.device, weight.dtype))
            return _FactUpdate(factors[path], self.rank, self.alpha, self.dropout)

        install_low_rank(surgery, targets(blocks, "attention"), self.rank, make)
