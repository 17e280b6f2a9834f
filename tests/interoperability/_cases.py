"""What both libraries are compared on: an adapted ViT-B, and embeddings that cost little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.func import functional_call

from napari_peftsam.models import SamModel, build
from napari_peftsam.peft import CobotLoraConfig, LoraConfig, MethodConfig, capture, inject
from napari_peftsam.peft import save_adapter as write_adapter
from tests.peft._cases import perturb

CONFIGS: dict[str, MethodConfig] = {
    "lora": LoraConfig(rank=8),
    "cobot": CobotLoraConfig(rank=4, matrices="all-linear", placement="late-25%"),
}
PIXELS = 224  # one attention window; a frame of 1024 takes twenty times as long


def randomise_positions(sam: Sam) -> None:
    """Give positions, which start at zero, values that count."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def adapt(checkpoint: Path, config: MethodConfig, adapter: Path) -> SamModel:
    """Return the model with an adapter that training has moved, and write the adapter."""
    model = build(checkpoint)
    injection = inject(model, config)
    perturb(injection.trainable_parameters(), 0.02)
    write_adapter(capture(injection), adapter)
    return model


@torch.inference_mode()
def embedding(sam: Sam) -> Tensor:
    """Return the embedding of a crop by all layers of an image encoder, as it stands."""
    encoder = sam.image_encoder
    side = PIXELS // 16
    x = torch.randn(1, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(2))
    result: Tensor = functional_call(encoder, {"pos_embed": encoder.pos_embed[:, :side, :side]}, x)
    return result


def image() -> np.ndarray:
    """Return an RGB image of the frame's size that every program feeds in unchanged.

    Its percentiles are 0 and 255, so that our normalisation leaves it as it is, and it
    need not be resized, which is done in different ways.
    """
    return np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """Check that embeddings differ by rounding only."""
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def assert_moved(found: Tensor, base: Tensor) -> None:
    """Check that an adapter changes an embedding by far more than rounding."""
    assert (found - base).norm() > 1e-2 * base.norm()
