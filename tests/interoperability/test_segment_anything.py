"""Checkpoints go to the original package and come from it, and mean the same there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from napari_peftsam.app.exchange import export_model_file
from napari_peftsam.models import build, to_model_input
from napari_peftsam.peft import MethodConfig
from tests.interoperability._cases import (
    CONFIGS,
    adapt,
    assert_equal,
    assert_moved,
    embedding,
    image,
)


@pytest.mark.slow
def test_its_checkpoint_loads_here(checkpoint: Path) -> None:
    theirs = sam_model_registry["vit_b"](checkpoint=checkpoint)
    assert_equal(embedding(build(checkpoint).sam), embedding(theirs))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_merged_export_loads_there(
    config: MethodConfig, checkpoint: Path, tmp_path: Path
) -> None:
    adapter, merged = tmp_path / "adapter.safetensors", tmp_path / "merged.pth"
    adapted = adapt(checkpoint, config, adapter)
    export_model_file(checkpoint, adapter, merged)
    theirs = sam_model_registry["vit_b"](checkpoint=merged)
    assert_equal(embedding(theirs), embedding(adapted.sam))
    assert_moved(embedding(theirs), embedding(build(checkpoint).sam))


def test_its_predictor_feeds_an_image_in_as_we_do(checkpoint: Path) -> None:
    model, predictor = build(checkpoint), SamPredictor(sam_model_registry["vit_b"](checkpoint))
    pixels = torch.from_numpy(predictor.transform.apply_image(image())).permute(2, 0, 1)[None]
    torch.testing.assert_close(to_model_input(image(), model), predictor.model.preprocess(pixels))
