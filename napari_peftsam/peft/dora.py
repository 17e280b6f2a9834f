"""DoRA: direction and magnitude of each weight row are learned apart (Liu et al. 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from napari_peftsam.peft._low_rank import Factors, LowRankUpdate, exact, plain
from napari_peftsam.peft._low_rank_method import LowRankConfig, LowRankMethod, SlotSite
from napari_peftsam.peft._protocol import ParameterHint

__all__ = ["Dora", "DoraConfig", "DoraUpdate"]


class DoraConfig(LowRankConfig):
    """Options of `DoRA`."""

    method: Literal["dora"] = "dora"


class DoraUpdate(LowRankUpdate):
    """``W -> m (W + alpha B A) / |W + alpha B A|``, row by row; m starts as ``|W|``.

    As in the paper (section 4.3), no gradient flows through the norm. The frozen layer is
    referred to but not registered here, so that its tensors are seen once.
    """

    frozen: nn.Linear

    def __init__(self, site: SlotSite, rank: int, alpha: float) -> None:
        super().__init__(site.shape, rank, alpha)
        self.__dict__["frozen"] = site.base  # past nn.Module's registration
        self.rows = site.rows
        weight = self._weight()
        self.magnitude = nn.Parameter(weight.detach().norm(dim=1).clone())

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Return what turns the frozen rows' answer into that of the recomposed ones."""
        with torch.no_grad():
            # In full precision, so that the untrained quotient is exactly 1.
            norm = (self._weight() + self.alpha * (self.B @ self.A)).norm(dim=1)
        quotient = self.magnitude / norm
        bias = self._bias()
        linear = out if bias is None else out - bias
        update: Tensor = (quotient - 1) * linear + quotient * super().forward(x, out)
        return update

    def folded(self, weight: Tensor) -> Tensor:
        """Return the recomposed rows."""
        direction = weight + self.delta()
        length = direction.norm(dim=1, keepdim=True)
        recomposed: Tensor = direction * (exact(self.magnitude)[:, None] / length)
        return recomposed

    def low_rank(self) -> Factors:
        """Return A and B with the lengths of the rows."""
        return replace(super().low_rank(), magnitude=plain(self.magnitude))

    def _weight(self) -> Tensor:
        return self.frozen.weight[slice(*self.rows)]

    def _bias(self) -> Tensor | None:
        return None if self.frozen.bias is None else self.frozen.bias[slice(*self.rows)]


class Dora(LowRankMethod[DoraConfig]):
    """LoRA for the direction of each row of the weights, and a magnitude of its own."""

    name = "dora"
    title = "DoRA"
    description = (
        "LoRA plus a learned length of each weight row; slower, may do better at low ranks."
    )
    changes = "as LoRA, and the length of each weight row"
    use_when = "low ranks, if training may take longer"
    scalable = False
    config = DoraConfig

    def update(self, site: SlotSite, config: DoraConfig) -> DoraUpdate:
        """Make the update of direction and magnitude."""
        return DoraUpdate(site, config.rank, config.factor)

    def hint(self, parameter: str, config: DoraConfig) -> ParameterHint:
        """Magnitudes must not decay."""
        if parameter.endswith(".magnitude"):
            return ParameterHint("magnitudes", decay=False)
        return super().hint(parameter, config)
