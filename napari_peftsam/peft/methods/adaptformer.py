"""AdaptFormer: a bottleneck beside the MLP of each block (Chen et al., NeurIPS 2022).

COBOT orchestrates it on request (Peng et al. 2024).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft.cobot import CobotMixer, CobotOptions
from napari_peftsam.peft.protocol import PlacedConfig
from napari_peftsam.peft.surgery import Replacement, Surgery


class _ParallelAdapter(Replacement):
    """``mlp(z) + s * W_up ReLU(R (W_down z + b_down)) + s * b_up``; R the mixer or identity.

    Dropout acts after the ReLU, in training only. W_down starts Kaiming-uniform, everything else
    of the branch as zeros, so that it adds 0.
    """

    def __init__(
        self,
        base: nn.Module,
        width: int,
        config: _BottleneckConfig,
        mixer: CobotMixer | None = None,
    ) -> None:
        super().__init__()
        self.base = base
        self.norm = nn.LayerNorm(width, device="cpu") if config.input_norm else None
        self.down = nn.Linear(width, config.bottleneck, device="cpu")
        self.up = nn.Linear(config.bottleneck, width, device="cpu")
        self.mixer, self.dropout = mixer, config.dropout
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)
        nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
        scale = torch.tensor(config.scale, device="cpu")
        self.scale = nn.Parameter(scale) if config.learn_scale else scale.item()

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., D)``."""
        inner: Tensor = self.down(z if self.norm is None else self.norm(z))
        if self.mixer is not None:
            inner = F.linear(inner, self.mixer.matrix().to(inner.dtype))
        kept = F.dropout(F.relu(inner), self.dropout, self.training)
        branch: Tensor = self.up(kept)
        out: Tensor = self.base(z)
        return out + branch * self.scale * self.strength


class _BottleneckConfig(PlacedConfig):
    """Options of the methods with a bottleneck beside the MLP."""

    mergeable = False
    undecayed = (r"\.mlp\.scale$", "scales")

    bottleneck: int = Field(
        default=64,
        ge=1,
        title="Bottleneck",
        description="Inner width of the adapter; more can learn more and weighs more.",
    )
    scale: float = Field(
        default=1.0, gt=0, title="Scale", description="Factor on the adapter, or where it starts."
    )
    learn_scale: bool = Field(
        default=True, title="Learn the scale", description="Train that factor, one per block."
    )
    input_norm: bool = Field(
        default=False,
        title="Normalise the input",
        description="Put a layer norm before the bottleneck.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="Dropout",
        description="Share of the bottleneck left out at random in each training step; the "
        "published adapters have 0.1.",
    )

    def install(self, surgery: Surgery) -> None:
        """Put a branch beside each chosen MLP."""
        blocks = self.placement.blocks(surgery.depth)
        mixer = None
        if isinstance(self, CobotOptions):
            mixer = self.mixers(surgery, self.bottleneck, len(blocks))
        for slot, block in enumerate(blocks):
            path = f"image_encoder.blocks.{block}.mlp"
            first = surgery.layer(f"{path}.lin1")
            if self.bottleneck > first.in_features:
                raise ConfigurationError(
                    f"the bottleneck {self.bottleneck} is wider than the {first.in_features} "
                    f"channels of {path}: choose at most {first.in_features}"
                )
            adapter = _ParallelAdapter(
                surgery.root.get_submodule(path),
                first.in_features,
                self,
                None if mixer is None else mixer(slot),
            )
            for name, child in adapter.named_children():
                if name != "base":
                    child.to(first.weight.device, first.weight.dtype)
            if isinstance(adapter.scale, nn.Parameter):
                scale = adapter.scale.detach().to(first.weight.device, first.weight.dtype)
                adapter.scale = nn.Parameter(scale)
            surgery.replace(path, adapter)


class AdaptFormerConfig(_BottleneckConfig):
    """A small branch beside each MLP."""

    title = "AdaptFormer"
    description = (
        "A small branch beside each block's MLP; ahead of LoRA in the SAM-COBOT paper, but it "
        "cannot be merged."
    )
    changes = "a bottleneck beside the MLP"
    use_when = "instead of LoRA, if nothing must be merged"
    cobot = "cobot-adaptformer"

    method: Literal["adaptformer"] = "adaptformer"


class _CobotAdaptFormerConfig(CobotOptions, _BottleneckConfig):
    """AdaptFormer whose bottlenecks are orchestrated by COBOT."""

    title = "AdaptFormer + COBOT"
    description = (
        "AdaptFormer whose branches are related across blocks by few shared coefficients; "
        "gains on microscopy are unproven."
    )
    changes = "as AdaptFormer, with coefficients shared across blocks"
    use_when = "instead of AdaptFormer of the same bottleneck"

    method: Literal["cobot-adaptformer"] = "cobot-adaptformer"
    bottleneck: int = Field(
        default=16,
        ge=4,
        multiple_of=4,
        title="Bottleneck",
        description="Inner width of the adapter; divisible by 4, the parts of a quaternion.",
    )


ADAPTFORMER_METHODS: tuple[type[PlacedConfig], ...] = (AdaptFormerConfig, _CobotAdaptFormerConfig)
