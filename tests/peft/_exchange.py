"""Trained adapters in the formats of other programs, and what they compute."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from napari_peftsam.models import SamModel
from napari_peftsam.peft import (
    Adapter,
    MethodConfig,
    apply_adapter,
    capture,
    export_hf_peft,
    inject,
)
from tests.peft._cases import image, outputs, perturb, tiny

CONFIG, WEIGHTS, OWN = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "napari_peftsam.safetensors",
)
BLOCK = "image_encoder.blocks."


def trained(config: MethodConfig, model: SamModel | None = None) -> tuple[Adapter, Tensor]:
    """Return an adapter that training has moved, and what the model computes with it."""
    model = model or tiny()
    with inject(model, config) as injection:
        perturb(injection.trainable_parameters(), 0.05)
        return capture(injection, {"images": 3}, {"val_iou": 0.5}), outputs(model, image())


def exported(config: MethodConfig, folder: Path) -> tuple[Path, Tensor]:
    """Export such an adapter; return the folder, and what the model computes with it."""
    adapter, expected = trained(config)
    export_hf_peft(tiny(), adapter, folder / "hf")
    return folder / "hf", expected


def assert_equal(found: Tensor, expected: Tensor) -> None:
    """Check that outputs differ by rounding only."""
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def assert_same(found: Adapter, expected: Tensor) -> None:
    """Check that an adapter computes the same but for rounding."""
    model = tiny()
    apply_adapter(model, found)
    assert_equal(outputs(model, image()), expected)
