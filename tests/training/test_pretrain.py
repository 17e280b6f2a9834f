"""Pretraining of the built-in model: resumable, loadable, right about crops."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch

from napari_peftsam.models import build, build_random
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training.pretrain import PretrainingConfig, pretrain
from napari_peftsam.training.pretrain._data import CropStream
from tests.training._world import make_plane


def _config(folder: Path, steps: int) -> PretrainingConfig:
    return PretrainingConfig(folder, steps, side=64, images=2, objects=2, save_every=1)


def test_a_run_can_be_stopped_and_resumed(tmp_path: Path) -> None:
    interrupted = pretrain(_config(tmp_path, 3))
    assert next(interrupted).step == 1
    interrupted.close()
    assert [s.step for s in pretrain(_config(tmp_path, 3))] == [2, 3]
    assert list(pretrain(_config(tmp_path, 3))) == []


def test_its_weights_load_with_the_dense_head(tmp_path: Path) -> None:
    list(pretrain(_config(tmp_path, 1)))
    path = tmp_path / "builtin.safetensors"
    model = build(path)
    assert model.architecture.name == "builtin"
    assert model.dense_head is not None
    assert path.stat().st_size <= 25e6
    logits = model.dense_head(torch.zeros(1, 128, 4, 4))
    assert logits.shape == (1, 3, 16, 16)


def test_crops_of_the_stream_hold_their_objects() -> None:
    plane = make_plane("real")
    stream = CropStream(64, 4, 3, seed=0, real=[(plane.pixels, plane.labels)], real_share=0.5)
    first, second = (next(iter(stream)) for _ in range(2))
    for batch in islice(stream, 3):
        assert batch.images.shape == (4, 3, 64, 64)
        assert batch.masks.shape == (4, 3, 64, 64)
        assert batch.masks.flatten(2).sum(-1).min() >= 16
        assert batch.images.min() >= 0
        assert batch.images.max() <= 255
        foreground = batch.dense[:, 0].bool()
        assert (batch.masks.any(1) <= foreground).all()
    torch.testing.assert_close(first.images, second.images)


def test_prompts_in_a_crop_are_seen_where_they_are_in_the_frame() -> None:
    model = build_random("builtin")
    seen: list[torch.Tensor] = []
    decoder = model.sam.mask_decoder
    decoder.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    prompts = PromptTensors(points=torch.tensor([[[200.0, 120.0]]]), labels=torch.ones(1, 1))
    with torch.inference_mode():
        logits, _ = decode(model.sam, torch.zeros(1, 128, 16, 16), prompts, offset=(8, 20))
        frame = model.sam.prompt_encoder.get_dense_pe()
    assert logits.shape == (1, 4, 64, 64)
    torch.testing.assert_close(seen[0], frame[..., 8:24, 20:36])
