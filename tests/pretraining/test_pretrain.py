"""Pretraining of the built-in model: resumable, loadable, right about crops."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from napari_peftsam import __version__
from napari_peftsam.errors import ConfigurationError, TrainingError
from napari_peftsam.models import DENSE_HEAD, build, build_random, checkpoint_state
from napari_peftsam.pretraining import PretrainingConfig, pretrain
from napari_peftsam.pretraining.data import CropStream
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.segmentation.two_way import two_way
from tests.training._world import make_plane

# torch thinks little of more workers than cores.
_ON_ONE_CORE = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def _config(folder: Path, steps: int) -> PretrainingConfig:
    return PretrainingConfig(
        folder, steps, sides=(64,), images=2, objects=2, save_every=1, device="cpu"
    )


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


@_ON_ONE_CORE
def test_a_run_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    one, other = _config(tmp_path / "one", 3), _config(tmp_path / "other", 3)
    expected = [(step.loss, step.parts) for step in pretrain(one)]
    begun = pretrain(other)
    assert next(begun).loss == expected[0][0]
    begun.close()
    resumed = pretrain(replace(other, workers=2))
    assert [(step.loss, step.parts) for step in resumed] == expected[1:]


@pytest.mark.gpu
def test_a_run_on_a_gpu_goes_on_without_one(tmp_path: Path) -> None:
    config = _config(tmp_path, 3)
    on_gpu = pretrain(replace(config, device="cuda", start="builtin"))
    steps = [next(on_gpu), next(on_gpu)]
    on_gpu.close()
    assert all(math.isfinite(step.loss) for step in steps)
    assert build(config.weights).dense_head is not None
    assert [step.step for step in pretrain(replace(config, start="builtin"))] == [3]
    on_cpu = next(pretrain(replace(_config(tmp_path / "cpu", 3), start="builtin")))
    for part in ("first", "dense"):  # the same crops and prompts; the second round may differ
        assert steps[0].parts[part] == pytest.approx(on_cpu.parts[part], rel=0.05)


def test_a_run_of_other_options_is_not_resumed(tmp_path: Path) -> None:
    list(pretrain(_config(tmp_path, 1)))
    with pytest.raises(TrainingError, match=r"learning_rate 0\.0008.*another output folder"):
        list(pretrain(replace(_config(tmp_path, 1), learning_rate=1e-4)))


def test_a_run_goes_on_after_the_shipped_weights_were_replaced(tmp_path: Path) -> None:
    config = replace(_config(tmp_path, 2), start="builtin")
    next(pretrain(config))
    state = torch.load(config.state, weights_only=True)
    state["recipe"]["start"] = "older weights"
    torch.save(state, config.state)
    assert [step.step for step in pretrain(config)] == [2]
    with safe_open(config.weights, "pt") as file:
        assert json.loads(file.metadata()["training"])["start"] == "older weights"


@pytest.mark.parametrize(
    "part", [pytest.param(0, id="another pixel"), pytest.param(1, id="another label")]
)
def test_a_run_is_not_resumed_with_other_real_images(tmp_path: Path, part: int) -> None:
    plane, config = make_plane("real"), _config(tmp_path, 1)
    pair = (plane.pixels, plane.labels)
    list(pretrain(config, [pair]))
    assert list(pretrain(config, [pair])) == []
    pair[part][5, 5] = 1
    with pytest.raises(TrainingError, match=r"begun with real_digest .[0-9a-f]{32}.; give"):
        list(pretrain(config, [pair]))


@pytest.mark.parametrize(
    ("lost", "message"),
    [pytest.param(("recipe",), "begun with options it does not tell; give", id="no recipe"),
     pytest.param(("recipe", "real_digest"), "begun with no real_digest; give", id="no digest")],
)  # fmt: skip
def test_a_run_that_does_not_tell_its_options_is_not_resumed(
    tmp_path: Path, lost: tuple[str, ...], message: str
) -> None:
    config = _config(tmp_path, 1)
    list(pretrain(config))
    state = torch.load(config.state, weights_only=True)
    holder = state if len(lost) == 1 else state[lost[0]]
    del holder[lost[-1]]
    torch.save(state, config.state)
    with pytest.raises(TrainingError, match=message):
        list(pretrain(config))


def test_the_refiner_alone_can_be_trained_on_weights_without_one(tmp_path: Path) -> None:
    config = replace(_config(tmp_path / "run", 3), start=_without_refiner(tmp_path), only="refiner")
    list(pretrain(config))
    start, end = load_file(config.start), load_file(config.weights)
    assert all(torch.equal(tensor, end[name]) for name, tensor in start.items())
    added = {name: tensor for name, tensor in end.items() if name not in start}
    assert all(name.startswith("mask_decoder.refiner.") for name in added)
    assert added["mask_decoder.refiner.layers.4.weight"].any()


def test_weights_without_a_refiner_are_trained_on_with_one(tmp_path: Path) -> None:
    config = replace(_config(tmp_path / "run", 1), start=_without_refiner(tmp_path))
    list(pretrain(config))
    assert build(config.start).architecture.refined_masks is False
    assert build(config.weights).architecture.refined_masks


def _without_refiner(folder: Path) -> Path:
    path = folder / "start.safetensors"
    shipped = build("builtin")
    head = {f"{DENSE_HEAD}{k}": v for k, v in shipped.dense_head.state_dict().items()}
    tensors = shipped.sam.state_dict() | head
    save_file({k: v.half() for k, v in tensors.items() if "refiner" not in k}, path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [pytest.param({"sides": ()}, "multiples of 8 from 8 to 384.*got none", id="no side"),
     pytest.param({"sides": (192, 100)}, "multiples of 8.*got 192, 100", id="no whole patches"),
     pytest.param({"sides": (512,)}, "from 8 to 384.*got 512", id="larger than the frame"),
     pytest.param({"sides": (0,)}, "from 8 to 384.*got 0", id="empty crops"),
     pytest.param({"steps": 0}, "steps must be at least 1, got 0", id="no step"),
     pytest.param({"images": 0}, "images must be at least 1, got 0", id="no image"),
     pytest.param({"objects": -1}, "objects must be at least 1, got -1", id="no object"),
     pytest.param({"warmup": 0}, "warmup must be at least 1, got 0", id="no warmup"),
     pytest.param({"save_every": 0}, "save_every must be at least 1, got 0", id="never saved"),
     pytest.param({"real_share": 1.5}, "real_share must be from 0 to 1, got 1.5", id="share"),
     pytest.param({"workers": -1}, "workers must be at least 0, got -1", id="workers"),
     pytest.param({"seed": -1}, "seed must be from 0 to .*, got -1", id="negative seed"),
     pytest.param({"only": "encoder"}, "only refiner can be trained alone, not encoder", id="part"),
     pytest.param({"only": "refiner"}, "give the weights that the refiner is for", id="no start"),
     pytest.param({"learning_rate": float("nan")}, "must be positive, got nan", id="rate")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PretrainingConfig(**{"folder": Path("run"), "steps": 1} | options)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [pytest.param("tiny", "another architecture", id="another architecture"),
     pytest.param("builtin", "no dense head", id="no dense head")],
)  # fmt: skip
def test_only_the_built_in_model_is_trained_on(
    tmp_path: Path, architecture: str, message: str
) -> None:
    model, path = build_random(architecture), tmp_path / "start.safetensors"
    save_file(checkpoint_state(model.architecture, model.sam.state_dict()), path)
    with pytest.raises(TrainingError, match=f"start.safetensors' has {message}: give the built-in"):
        next(pretrain(replace(_config(tmp_path, 1), start=path)))


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
    assert (recipe["version"], recipe["torch"]) == (__version__, torch.__version__)


@pytest.mark.parametrize(
    ("sides", "crops"),
    [pytest.param((32, 64), {32: 4, 64: 1}, id="fewer of the larger"),
     pytest.param((32, 96), {32: 4, 96: 1}, id="at least one")],
)  # fmt: skip
def test_batches_of_all_sides(sides: tuple[int, ...], crops: dict[int, int]) -> None:
    stream = CropStream(sides, 4, 1, seed=0)
    seen = {batch.images.shape[-1]: len(batch.images) for batch in islice(stream, 8)}
    assert seen == crops


@_ON_ONE_CORE
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    stream = CropStream((16, 32), 2, 1, seed=0, first=5)
    found = islice(DataLoader(stream, batch_size=None, num_workers=workers), 5)
    for expected, batch in zip(islice(stream, 5), found, strict=True):
        assert torch.equal(expected.images, batch.images)
        assert torch.equal(expected.masks, batch.masks)
        assert torch.equal(expected.dense, batch.dense)
        assert torch.equal(expected.levels, batch.levels)


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


def test_prompts_in_a_crop_are_seen_where_they_are_in_the_frame(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_random("builtin")
    seen: list[torch.Tensor] = []

    def noting(transformer: nn.Module, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend(inputs)
        return two_way(transformer, *inputs)

    monkeypatch.setattr(import_module(decode.__module__), "two_way", noting)
    prompts = PromptTensors(points=torch.tensor([[[200.0, 120.0]]]), labels=torch.ones(1, 1))
    with torch.inference_mode():
        logits, _ = decode(model.sam, torch.zeros(1, 128, 16, 16), prompts, offset=(8, 20))
        frame = model.sam.prompt_encoder.get_dense_pe()
    assert logits.shape == (1, 4, 64, 64)
    _, _, positions = seen
    torch.testing.assert_close(positions.mT, frame[..., 8:24, 20:36].flatten(2))
