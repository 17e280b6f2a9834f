"""SAM-COBOT: cross-block orchestration of parameter-efficient modules (Peng et al. 2024).

Every adapted matrix (slot) scales and mixes its rank space by coefficients that are
related to the other slots (inter-block communication) and by a quaternion
projection (intra-block enhancement).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from napari_peftsam.peft.protocol import ParameterHint, PlacedConfig
from napari_peftsam.peft.surgery import Surgery

CobotInit = Literal["neutral", "official"]
CobotRelations = Literal["learned", "fixed", "none"]
CobotProjection = Literal["hyper-complex", "linear", "none"]
_HUB_PATH = "image_encoder.cobot_hub"
_OLD_RATE = "coefficient_lr_multiplier"  # its name before rates could be absolute
_FAST = ("C", "S", "quaternion", "linear")


def _read_rate(value: object) -> str:
    """Return the canonical text of a rate, see `CobotOptions.coefficient_rate`."""
    text = str(value).strip().lower()
    try:
        number = float(text.removesuffix("x"))
    except ValueError:
        number = 0.0
    if not 0 < number < (float("inf") if text.endswith("x") else 1):
        raise ValueError("use a factor on the learning rate as 10x, or a rate below 1 as 1.25e-4")
    return f"{number:.12g}{'x' if text.endswith('x') else ''}"


class CobotOptions(PlacedConfig):
    """Options of all methods that COBOT orchestrates.

    `relations` and `projection` are the switches of the paper's ablations (Tables 1 to 3).
    """

    init: CobotInit = Field(
        default="neutral",
        title="Start",
        description="neutral: starts as the plain method; official: coefficients start as in the "
        "published code. B of LoRA starts as 0 in both, so that training starts as the base; the "
        "published code draws it (Xavier).",
    )
    coefficient_rate: Annotated[str, BeforeValidator(_read_rate)] = Field(
        default="10x",
        title="Coefficient learning rate",
        description="Peak learning rate of the orchestrating coefficients: a factor on the "
        "learning rate as 10x, or a rate of its own as 1.25e-4. Coefficients are of order 1 where "
        "other weights are of order 0.01.",
    )
    fast_gamma: bool = Field(
        default=True,
        title="Fast gamma",
        description="Let gamma learn at the coefficients' rate, too; in the published code it "
        "learns at that of the adapters.",
        json_schema_extra={"expert": True},
    )
    relations: CobotRelations = Field(
        default="learned",
        title="Relations of blocks",
        description="learned: the relation matrix S is trained; fixed: S is random and stays so "
        "(Table 2 of the paper); none: the coefficient sets alone, without S (Table 1).",
        json_schema_extra={"expert": True},
    )
    projection: CobotProjection = Field(
        default="hyper-complex",
        title="Projection",
        description="hyper-complex: its weights come from a quaternion layer; linear: from a "
        "plain one with four times the weights (Table 3 of the paper); none: no projection "
        "(Table 1).",
        json_schema_extra={"expert": True},
    )

    @model_validator(mode="before")
    @classmethod
    def _read_old_name(cls, values: Any) -> Any:
        """Read the factor under its old name, which adapter files may have."""
        if not isinstance(values, Mapping) or _OLD_RATE not in values:
            return values
        others = {name: value for name, value in values.items() if name != _OLD_RATE}
        return {**others, "coefficient_rate": f"{values[_OLD_RATE]}x"}

    def mixers(self, surgery: Surgery, width: int, slots: int) -> Callable[[int], CobotMixer]:
        """Add the hub to the encoder; return the maker of the mixer of slot ``t``."""
        hub = CobotHub(width, slots, self.init, self.relations)
        reference = next(surgery.encoder.parameters())
        surgery.add(_HUB_PATH, hub.to(reference.device, reference.dtype))
        return lambda slot: CobotMixer(hub, slot, self.init, self.projection)

    def hint(self, parameter: str) -> ParameterHint:
        """Give coefficients their own group; decay would pull S from the identity to 0."""
        kind = parameter.rpartition(".")[2]
        if kind in _FAST or (kind == "gamma" and self.fast_gamma):
            number = float(self.coefficient_rate.removesuffix("x"))
            if self.coefficient_rate.endswith("x"):
                return ParameterHint("coefficients", number, decay=False)
            return ParameterHint("coefficients", rate=number, decay=False)
        if kind == "gamma":
            return ParameterHint("gamma", decay=False)
        return super().hint(parameter)


class CobotHub(nn.Module):
    """Parameters shared by all slots: C ``(V, T)`` coefficients and S ``(T, T)`` relations.

    Without relations there is no S. A fixed S is a buffer of normal random numbers with variance
    1 / T, so that what it makes of C is as large as C; the paper does not say what it drew.
    """

    S: Tensor | None

    def __init__(
        self, width: int, slots: int, init: CobotInit, relations: CobotRelations = "learned"
    ) -> None:
        super().__init__()
        start = torch.zeros if init == "neutral" else torch.ones
        self.C = nn.Parameter(start(width, slots, device="cpu"))
        if relations == "learned":
            self.S = nn.Parameter(torch.eye(slots, device="cpu"))
        elif relations == "fixed":
            self.register_buffer("S", torch.randn(slots, slots, device="cpu") / sqrt(slots))
        else:
            self.S = None

    def coefficients(self, slot: int) -> Tensor:
        """Return ``(V,)``: ``sum_m C[:, m] S[m, slot]``, or ``C[:, slot]`` without S.

        Spelt as a product and a sum because autocast would round a matmul to bf16.
        """
        if self.S is None:
            return self.C[:, slot]
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
        ``neutral`` (identity) or ``official`` (of the quaternion layer: r = 0 and i, j, k uniform
        in [0, 1); of a linear one: that of `torch.nn.Linear`).
    projection
        What M is: a quaternion's matrix, any matrix, or the identity.
    """

    hub: CobotHub

    def __init__(
        self,
        hub: CobotHub,
        slot: int,
        init: CobotInit,
        projection: CobotProjection = "hyper-complex",
    ) -> None:
        super().__init__()
        width = hub.C.shape[0]
        quarter = width // 4
        self.__dict__["hub"] = hub  # past nn.Module's registration
        self.slot, self.kind = slot, projection
        self.gamma = nn.Parameter(torch.ones(width, device="cpu"))
        if projection == "hyper-complex":
            if init == "neutral":
                parts = torch.zeros(4, quarter, quarter, device="cpu")
                parts[0] = torch.eye(quarter, device="cpu")
            else:
                parts = torch.rand(4, quarter, quarter, device="cpu")
                parts[0] = 0
            self.quaternion = nn.Parameter(parts)
        elif projection == "linear":
            weight = torch.eye(width, device="cpu")
            if init == "official":
                nn.init.kaiming_uniform_(weight, a=sqrt(5))
            self.linear = nn.Parameter(weight)

    def scale(self) -> Tensor:
        """Return ``gamma_t + lambda_t``, ``(V,)``."""
        return self.gamma + self.hub.coefficients(self.slot)

    def projection(self) -> Tensor:
        """Return M ``(V, V)``: ``h M`` is the product of W with row vector h."""
        if self.kind == "none":
            return torch.eye(len(self.gamma), dtype=self.gamma.dtype, device=self.gamma.device)
        if self.kind == "linear":
            return self.linear.T
        r, i, j, k = self.quaternion.unbind()
        rows = ((r, i, j, k), (-i, r, k, -j), (-j, -k, r, i), (-k, j, -i, r))
        return torch.cat([torch.cat(row, dim=1) for row in rows], dim=0)

    def matrix(self) -> Tensor:
        """Return ``M^T diag(gamma + lambda)``, ``(V, V)``."""
        return self.projection().T * self.scale()
