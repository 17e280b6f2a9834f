"""LoRA on slices of the fused attention projection (Hu et al. 2021) and its variants.

The update acts on q and v separately, as SAM-specific papers do; a common LoRA on the fused layer
would share A between q, k and v and be another model. rsLoRA divides its factor by the root of the
rank (Kalajdzievski 2023), DoRA learns direction and length of each weight row apart (Liu et al.
2024), PiSSA starts from the principal part of the weights (Meng et al. 2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from napari_peftsam.peft.cobot import CobotOptions
from napari_peftsam.peft.low_rank import (
    AdaptedLinear,
    Factors,
    FrozenLinear,
    LowRankUpdate,
    RowUpdate,
    TargetSite,
    add_to_rows,
    exact,
    install_low_rank,
)
from napari_peftsam.peft.placement import TargetModulesField, targets
from napari_peftsam.peft.protocol import ParameterHint, PlacedConfig
from napari_peftsam.peft.surgery import Surgery

__all__ = ["CobotLoraConfig", "LoraConfig"]


class LowRankConfig(PlacedConfig):
    """Options of the methods that add a low-rank update to each chosen matrix.

    `alpha` is the scale of the update, HF's ``lora_alpha / r``: 1 is ``lora_alpha = r``. rsLoRA's
    `alpha` is HF's ``lora_alpha``. `layer` is the class of the layers that replace linear ones.
    """

    low_rank = True
    layer: ClassVar[type[AdaptedLinear]] = AdaptedLinear

    rank: int = Field(
        default=8,
        ge=1,
        title="Rank",
        description="Inner dimension of the update; more can learn more and weighs more.",
    )
    alpha: float = Field(
        default=1.0,
        gt=0,
        title="Alpha",
        description="Factor on the update (1 here equals lora_alpha = rank elsewhere).",
    )
    matrices: TargetModulesField = Field(
        default="attention",
        title="Matrices",
        description="attention: q and v; all-linear: q, k, v and both layers of the MLP; or a "
        "list of q, k, v, lin1, lin2.",
    )
    lora_plus_ratio: float = Field(
        default=1.0,
        ge=1,
        title="LoRA+",
        description="Factor on the learning rate of B, the half of the update that starts as 0 "
        "(Hayou et al. 2024 use 16).",
    )

    @property
    def factor(self) -> float:
        """Factor on the update."""
        return self.alpha

    def install(self, surgery: Surgery) -> None:
        """Replace the chosen linear layers."""
        chosen = targets(self.placement.blocks(surgery.depth), self.matrices)
        install_low_rank(surgery, chosen, self.rank, self.update, layer=self.layer)

    def update(self, site: TargetSite) -> RowUpdate:
        """Make the update of one matrix."""
        return LowRankUpdate(site.shape, self.rank, self.factor)

    def hint(self, parameter: str) -> ParameterHint:
        """Give the B of LoRA+ a group with its own rate."""
        if parameter.endswith(".B") and self.lora_plus_ratio != 1:
            return ParameterHint("B", self.lora_plus_ratio)
        return super().hint(parameter)


class LoraConfig(LowRankConfig):
    """Plain LoRA."""

    title = "LoRA"
    description = (
        "Learns a small low-rank update of the attention weights in the chosen blocks; "
        "a sound first choice."
    )
    changes = "a low-rank update of q and v (k, MLP on request)"
    use_when = "a sound first choice; read by other software"
    cobot = "cobot-lora"

    method: Literal["lora"] = "lora"


class _RsLoraConfig(LowRankConfig):
    """LoRA with rank-stabilised scaling."""

    title = "rsLoRA"
    description = "LoRA whose updates keep their size at high ranks; for ranks of 32 and more."
    changes = "as LoRA, scaled by alpha / sqrt(rank)"
    use_when = "ranks of 32 and more"

    method: Literal["rslora"] = "rslora"
    alpha: float = Field(
        default=4.0,
        gt=0,
        title="Alpha",
        description="The factor is alpha / sqrt(rank), so that higher ranks learn as fast.",
    )

    @property
    def factor(self) -> float:
        """Factor on the update."""
        return self.alpha / sqrt(self.rank)


class CobotLoraConfig(CobotOptions, LowRankConfig):
    """LoRA whose updates are orchestrated by COBOT."""

    title = "LoRA + COBOT"
    description = (
        "LoRA whose updates are related across blocks by few shared coefficients; "
        "gains on microscopy are unproven, so compare it with plain LoRA."
    )
    changes = "as LoRA, with coefficients shared across blocks"
    use_when = "instead of LoRA of the same rank"

    method: Literal["cobot-lora"] = "cobot-lora"
    rank: int = Field(
        default=8,
        ge=4,
        multiple_of=4,
        title="Rank",
        description="Inner dimension of the update; divisible by 4, the parts of a quaternion.",
    )

    def install(self, surgery: Surgery) -> None:
        """Add the hub to the encoder and replace the chosen linear layers."""
        chosen = targets(self.placement.blocks(surgery.depth), self.matrices)
        mixer = self.mixers(surgery, self.rank, len(chosen))

        def make(site: TargetSite) -> LowRankUpdate:
            return LowRankUpdate(site.shape, self.rank, self.factor, mixer(site.number))

        install_low_rank(surgery, chosen, self.rank, make)


class _DoraLinear(AdaptedLinear):
    """``W -> m (W + alpha B A) / |W + alpha B A|``, row by row; m starts as ``|W|``.

    The rows are those of the whole layer, as in the paper; where q and v are adapted, those of
    k keep their direction, and their length is learned, too. As in the paper (section 4.3),
    no gradient flows through the norm.
    """

    def __init__(
        self,
        base: FrozenLinear,
        updates: Mapping[str, RowUpdate],
        rows: Mapping[str, tuple[int, int]],
    ) -> None:
        super().__init__(base, updates, rows)
        self.magnitude = nn.Parameter(base.weight.detach().norm(dim=1).clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        out: Tensor = self.base(x)
        quotient = self.magnitude / self._norm()
        linear = out if self.base.bias is None else out - self.base.bias
        changes: dict[tuple[int, int], Tensor] = {}
        for name, update in self.slots.items():
            rows = slice(*self.rows[name])
            changes[self.rows[name]] = quotient[rows] * update(x, out[..., rows])
        return add_to_rows(out + (quotient - 1) * linear, changes)

    def _norm(self) -> Tensor:
        """Return the lengths of the rows before they get those that are learned."""
        # In full precision, so that the untrained quotient is exactly 1.
        with torch.no_grad(), torch.autocast(self.magnitude.device.type, enabled=False):
            direction = self.base.weight.clone()
            for name, update in self.slots.items():
                assert isinstance(update, LowRankUpdate)
                direction[slice(*self.rows[name])] += update.alpha * (update.B @ update.A)
            return _without_zeros(direction.norm(dim=1))

    def folded_weight(self) -> Tensor:
        """Return the recomposed rows, float64."""
        direction = super().folded_weight()
        length = _without_zeros(direction.norm(dim=1))
        recomposed: Tensor = direction * (exact(self.magnitude) / length)[:, None]
        return recomposed

    def lengths(self) -> Tensor:
        """Return the learned lengths of all rows."""
        return self.magnitude.detach().cpu()


def _without_zeros(norm: Tensor) -> Tensor:
    """Keep rows of zeros: no direction could be given a length."""
    return norm.clamp_min(torch.finfo(torch.float32).tiny)


class DoraConfig(LowRankConfig):
    """LoRA for the direction of each row of the weights, and a magnitude of its own."""

    title = "DoRA"
    description = (
        "LoRA plus a learned length of each weight row; slower, may do better at low ranks."
    )
    changes = "as LoRA, and the length of each weight row"
    use_when = "low ranks, if training may take longer"
    scalable = False
    layer = _DoraLinear
    undecayed = (r"\.magnitude$", "magnitudes")

    method: Literal["dora"] = "dora"


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

    def low_rank(self) -> Factors:
        """Return both products as one of twice the rank."""
        down, up = torch.cat([self.A, self.A0]), torch.cat([self.B, -self.B0], dim=1)
        return Factors(exact(down), exact(up), self.alpha)


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


class _PissaConfig(LowRankConfig):
    """LoRA on the most important directions of the weights themselves."""

    title = "PiSSA"
    description = (
        "LoRA that starts from the principal directions of the weights; learns faster, so use "
        "a lower learning rate."
    )
    changes = "as LoRA, from the principal directions of the weights"
    use_when = "few steps, at a lower learning rate"

    method: Literal["pissa"] = "pissa"

    def update(self, site: TargetSite) -> _PissaUpdate:
        """Make the change of the principal part."""
        return _PissaUpdate(site, self.rank, self.factor)

    def hint(self, parameter: str) -> ParameterHint:
        """Exempt the principal part, which decay would pull out of the weights."""
        hint = super().hint(parameter)
        own = parameter.startswith("encoder.")
        return replace(hint, group=f"principal {hint.group}", decay=False) if own else hint


LORA_METHODS: tuple[type[LowRankConfig], ...] = (
    LoraConfig,
    CobotLoraConfig,
    _RsLoraConfig,
    DoraConfig,
    _PissaConfig,
)
