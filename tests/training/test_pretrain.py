"""Pretraining of the built-in model: resumable, loadable, right about crops."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from napari_peftsam.errors import TrainingError
from napari_peftsam.models import build, build_random
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training.pretrain import PretrainingConfig, pretrain
from napari_peftsam.training.pretrain._data import CropStream
from tests.training._world import make_plane


def _config(folder: Path, steps: int) -> PretrainingConfig:
    return PretrainingConfig(folder, steps, sides=(64,), images=2, objects=2, save_every=1)


def test_a_run_can_be_stopped_and_resumed(tmp_path: Path) -> None:
    interrupted = pretrain(_config(tmp_path, 3))
    assert next(interrupted).step == 1
    interrupted.close()
    assert [s.step for s in pretrain(_config(tmp_path, 3))] == [2, 3]
    assert list(pretrain(_config(tmp_path, 3))) == []


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole, parts = _config(tmp_path / "whole", 3), _config(tmp_path / "parts", 3)
    list(pretrain(whole))
    interrupted = pretrain(parts)
    next(interrupted)
    interrupted.close()
    list(pretrain(parts))
    expected, found = (
        load_file(config.folder / "builtin.safetensors") for config in (whole, parts)
    )
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_run_of_other_options_is_not_resumed(tmp_path: Path) -> None:
    list(pretrain(_config(tmp_path, 1)))
    with pytest.raises(TrainingError, match=r"learning_rate 0\.0008.*another output folder"):
        list(pretrain(replace(_config(tmp_path, 1), learning_rate=1e-4)))


def test_its_weights_load_with_the_dense_head(tmp_path: Path) -> None:
    list(pretrain(_config(tmp_path, 1)))
    path = tmp_path / "builtin.safetensors"
    model = build(path)
    assert model.architecture.name == "builtin"
    assert model.dense_head is not None
    assert path.stat().st_size <= 25e6
    logits = model.dense_head(torch.zeros(1, 128, 4, 4))
    assert logits.shape == (1, 3, 16, 16)


def test_its_weights_tell_how_they_were_made(tmp_path: Path) -> None:
    list(pretrain(replace(_config(tmp_path, 1), start="builtin")))
    with safe_open(tmp_path / "builtin.safetensors", "pt") as file:
        recipe = json.loads(file.metadata()["training"])
    assert recipe["start"] == build("builtin").weights_hash
    assert (recipe["steps"], recipe["sides"], recipe["seed"]) == (1, "(64,)", 0)


@pytest.mark.parametrize(
    ("sides", "crops"),
    [pytest.param((32, 64), {32: 4, 64: 1}, id="fewer of the larger"),
     pytest.param((32, 96), {32: 4, 96: 1}, id="at least one")],
)  # fmt: skip
def test_batches_of_all_sides(sides: tuple[int, ...], crops: dict[int, int]) -> None:
    stream = CropStream(sides, 4, 1, seed=0)
    seen = {batch.images.shape[-1]: len(batch.images) for batch in islice(stream, 8)}
    assert seen == crops


def test_crops_of_the_stream_hold_their_objects() -> None:
    plane = make_plane("real")
    stream = CropStream((64,), 4, 3, seed=0, real=[(plane.pixels, plane.labels)], real_share=0.5)
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
