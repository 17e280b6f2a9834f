"""Numbers of trainable parameters, counted without real weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from napari_peftsam.models import Architecture, SamModel, construct
from napari_peftsam.peft.inject import inject
from napari_peftsam.peft.protocol import MethodConfig

__all__ = ["ParameterCounts", "count_parameters"]


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of trainable parameters.

    Attributes
    ----------
    encoder
        In the image encoder.
    total
        Together with the mask decoder and prompt encoder, where these are trained.
    """

    encoder: int
    total: int


def count_parameters(architecture: Architecture, config: MethodConfig) -> ParameterCounts:
    """Count the trainable parameters by an injection on torch's meta device (no memory)."""
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            sam = construct(architecture)
        injection = inject(SamModel(architecture.name, architecture, sam, ""), config)
    sizes = {name: p.numel() for name, p in injection.trainable_parameters().items()}
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder."))
    return ParameterCounts(encoder, sum(sizes.values()))
