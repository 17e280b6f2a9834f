"""SSF: scaling and shifting of features (Lian et al., NeurIPS 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from napari_peftsam.peft.low_rank import exact
from napari_peftsam.peft.protocol import PlacedConfig
from napari_peftsam.peft.surgery import Replacement, Surgery

_SITES = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.lin1", "mlp.lin2")


class ScaledShifted(Replacement):
    """``y = gamma * f(x) + beta`` per channel, gamma = 1 and beta = 0 at first.

    Parameters
    ----------
    base
        f: a linear layer, a layer norm (channels last) or a convolution (channels second).
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        weight = base.get_parameter("weight")
        self.gamma = nn.Parameter(torch.ones(len(weight), device="cpu"))
        self.beta = nn.Parameter(torch.zeros(len(weight), device="cpu"))
        self.to(weight.device, weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled and shifted answer of the frozen layer."""
        out: Tensor = self.base(x)
        shape = (-1, 1, 1) if isinstance(self.base, nn.Conv2d) else (-1,)
        gamma, beta = (v.view(shape) for v in self._weakened(self.gamma, self.beta))
        # In the precision of gamma: rounded to bfloat16, small changes of it would vanish.
        return (out * gamma + beta).to(out.dtype)

    def folded_state(self) -> dict[str, Tensor]:
        """Return weight and bias of the plain layer that computes the same."""
        state = {k: v.detach().cpu() for k, v in self.base.state_dict().items()}
        gamma, beta = self._weakened(exact(self.gamma), exact(self.beta))
        weight = exact(state["weight"])
        folded = {
            "weight": weight * gamma.view(-1, *(1,) * (weight.ndim - 1)),
            "bias": exact(state["bias"]) * gamma + beta,
        }
        return {name: value.to(state[name].dtype) for name, value in folded.items()}

    def _weakened(self, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        if self.strength == 1:
            return gamma, beta
        return 1 + self.strength * (gamma - 1), self.strength * beta


class SsfConfig(PlacedConfig):
    """A scale and a shift per channel after every layer of the chosen blocks."""

    title = "SSF"
    description = "Scales and shifts the features after each layer; small, mild, hard to overdo."
    changes = "a scale and a shift after every layer"
    use_when = "small files, a mild change of contrast or stain"
    # Decay would pull scales from 1 to 0.
    undecayed = (r"\.(gamma|beta)$", "scales")

    method: Literal["ssf"] = "ssf"
    patch_embedding: bool = Field(
        default=True,
        title="Patch embedding, too",
        description="Scale and shift the patch embedding as well where the first block is chosen.",
    )

    def install(self, surgery: Surgery) -> None:
        """Put a scale and a shift after each layer."""
        blocks = self.placement.blocks(surgery.depth)
        paths = [f"image_encoder.blocks.{block}.{site}" for block in blocks for site in _SITES]
        if self.first_changed_block(surgery.depth) == -1:
            paths.insert(0, _last_convolution(surgery))
        for path in paths:
            surgery.replace(path, ScaledShifted(surgery.root.get_submodule(path)))

    def first_changed_block(self, depth: int) -> int:
        """Return the first chosen block; the patch embedding precedes them all."""
        first = super().first_changed_block(depth)
        return -1 if self.patch_embedding and first == 0 else first


def _last_convolution(surgery: Surgery) -> str:
    """Return the path of the convolution that makes the tokens."""
    modules = surgery.encoder.get_submodule("patch_embed").named_modules()
    names = [name for name, module in modules if isinstance(module, nn.Conv2d)]
    return f"image_encoder.patch_embed.{names[-1]}"
