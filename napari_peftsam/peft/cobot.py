"""SAM-COBOT: cross-block orchestration of parameter-efficient modules (Peng et al. 2024).

Every adapted matrix (slot) scales and mixes its rank space by coefficients that are
related to the other slots (inter-block communication) and by a quaternion
projection (intra-block enhancement).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from napari_peftsam.peft.protocol import ParameterHint, PlacedConfig
from napari_peftsam.peft.surgery import Surgery

CobotInit = Literal["neutral", "official"]
_HUB_PATH = "image_encoder.cobot_hub"


class CobotOptions(PlacedConfig):
    """Options of all methods that COBOT orchestrates."""

    init: CobotInit = Field(
        default="neutral",
        title="Start",
        description="neutral: starts as the plain method; official: as the published code does.",
    )
    coefficient_lr_multiplier: float = Field(
        default=10.0,
        gt=0,
        title="Coefficient learning rate factor",
        description="Factor on the learning rate of the orchestrating coefficients, which "
        "are of order 1 where other weights are of order 0.01.",
    )

    def mixers(self, surgery: Surgery, width: int, slots: int) -> Callable[[int], CobotMixer]:
        """Add the hub to the encoder; return the maker of the mixer of slot ``t``."""
        hub = CobotHub(width, slots, self.init)
        reference = next(surgery.encoder.parameters())
        surgery.add(_HUB_PATH, hub.to(reference.device, reference.dtype))
        return lambda slot: CobotMixer(hub, slot, self.init)

    def hint(self, parameter: str) -> ParameterHint:
        """Give coefficients their own group; decay would pull S from the identity to 0."""
        if parameter.rpartition(".")[2] in ("C", "S", "gamma", "quaternion"):
            return ParameterHint("coefficients", self.coefficient_lr_multiplier, decay=False)
        return super().hint(parameter)


class CobotHub(nn.Module):
    """Parameters shared by all slots: C ``(V, T)`` coefficients and S ``(T, T)`` relations."""

    def __init__(self, width: int, slots: int, init: CobotInit) -> None:
        super().__init__()
        start = torch.zeros if init == "neutral" else torch.ones
        self.C = nn.Parameter(start(width, slots, device="cpu"))
        self.S = nn.Parameter(torch.eye(slots, device="cpu"))

    def coefficients(self, slot: int) -> Tensor:
        """Return ``(V,)``: ``sum_m C[:, m] S[m, slot]``.

        Spelt as a product and a sum because autocast would round a matmul to bf16.
        """
        return (self.C * self.S[:, slot]).sum(dim=1)


class CobotMixer(nn.Module):
    """One slot's map of rank space: ``M^T diag(gamma + lambda)``.

    Parameters
    ----------
    hub
        The shared coefficients. It is referred to but not registered here, so that
        state dicts, optimisers and files see its tensors once.
    slot
        Number of this slot.
    init
        ``neutral`` (identity) or ``official`` (r = 0 and i, j, k uniform in [0, 1)).
    """

    hub: CobotHub

    def __init__(self, hub: CobotHub, slot: int, init: CobotInit) -> None:
        super().__init__()
        width = hub.C.shape[0]
        quarter = width // 4
        self.__dict__["hub"] = hub  # past nn.Module's registration
        self.slot = slot
        self.gamma = nn.Parameter(torch.ones(width, device="cpu"))
        if init == "neutral":
            parts = torch.zeros(4, quarter, quarter, device="cpu")
            parts[0] = torch.eye(quarter, device="cpu")
        else:
            parts = torch.rand(4, quarter, quarter, device="cpu")
            parts[0] = 0
        self.quaternion = nn.Parameter(parts)

    def scale(self) -> Tensor:
        """Return ``gamma_t + lambda_t``, ``(V,)``."""
        return self.gamma + self.hub.coefficients(self.slot)

    def projection(self) -> Tensor:
        """Return M ``(V, V)``: ``h M`` is the quaternion product of W with row vector h."""
        r, i, j, k = self.quaternion.unbind()
        rows = ((r, i, j, k), (-i, r, k, -j), (-j, -k, r, i), (-k, j, -i, r))
        return torch.cat([torch.cat(row, dim=1) for row in rows], dim=0)

    def matrix(self) -> Tensor:
        """Return ``M^T diag(gamma + lambda)``, ``(V, V)``."""
        return self.projection().T * self.scale()
