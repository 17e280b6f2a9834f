"""PiSSA: LoRA that starts from the principal part of the weights (Meng et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_peftsam.peft.low_rank import Factors, RowUpdate, TargetSite, exact, plain
from napari_peftsam.peft.methods.lora import LowRankConfig, LowRankMethod
from napari_peftsam.peft.protocol import ParameterHint

__all__ = ["Pissa", "PissaConfig"]


class PissaConfig(LowRankConfig):
    """Options of `PiSSA`."""

    method: Literal["pissa"] = "pissa"


class _PissaUpdate(RowUpdate):
    """``x -> alpha (B A - B0 A0) x``; A and B start as the principal part A0, B0 of the rows.

    With ``W = U S V^T``: ``B0 = U_r sqrt(S_r / alpha)``, ``A0 = sqrt(S_r / alpha) V_r^T``. The
    paper takes the principal part out of the frozen weights; here they stay as they are and
    the part is subtracted, which is the same and leaves the base untouched. A0 and B0 are
    kept with the adapter: another machine's decomposition need not be the same.
    """

    def __init__(self, site: TargetSite, rank: int, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        down, up = _principal(site, rank, alpha)
        self.A, self.B = nn.Parameter(down.clone()), nn.Parameter(up.clone())
        self.register_buffer("A0", down)
        self.register_buffer("B0", up)
        self.A0: Tensor
        self.B0: Tensor

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Return the difference to the principal part that `out` holds."""
        trained = F.linear(F.linear(x, self.A.to(x.dtype)), self.B.to(x.dtype))
        start = F.linear(F.linear(x, self.A0.to(x.dtype)), self.B0.to(x.dtype))
        return (trained - start) * self.alpha

    def folded(self, weight: Tensor) -> Tensor:
        """Return the frozen rows, their principal part replaced."""
        change = exact(self.B) @ exact(self.A) - exact(self.B0) @ exact(self.A0)
        return weight + self.alpha * change

    def low_rank(self) -> Factors:
        """Return both products as one of twice the rank."""
        down, up = torch.cat([self.A, self.A0]), torch.cat([self.B, -self.B0], dim=1)
        return Factors(plain(down), plain(up), self.alpha)


def _principal(site: TargetSite, rank: int, alpha: float) -> tuple[Tensor, Tensor]:
    weight = site.base.weight.detach()
    rows, columns = site.shape
    if site.loading or weight.is_meta:  # on the meta device, parameters are counted only
        return torch.zeros(rank, columns, device="cpu"), torch.zeros(rows, rank, device="cpu")
    u, s, vh = torch.linalg.svd(exact(weight[slice(*site.rows)]), full_matrices=False)
    root = (s[:rank] / alpha).sqrt()
    # Laid out as when loaded, so that products round alike.
    down, up = root[:, None] * vh[:rank], u[:, :rank] * root
    return down.float().contiguous(), up.float().contiguous()


class Pissa(LowRankMethod[PissaConfig]):
    """LoRA on the most important directions of the weights themselves."""

    name = "pissa"
    title = "PiSSA"
    description = (
        "LoRA that starts from the principal directions of the weights; learns faster, so use "
        "a lower learning rate."
    )
    changes = "as LoRA, from the principal directions of the weights"
    use_when = "few steps, at a lower learning rate"
    config = PissaConfig

    def update(self, site: TargetSite, config: PissaConfig) -> _PissaUpdate:
        """Make the change of the principal part."""
        return _PissaUpdate(site, config.rank, config.factor)

    def hint(self, parameter: str, config: PissaConfig) -> ParameterHint:
        """Decay would pull the principal part out of the weights."""
        hint = super().hint(parameter, config)
        own = parameter.startswith("encoder.")
        return replace(hint, group=f"principal {hint.group}", decay=False) if own else hint
