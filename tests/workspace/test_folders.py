"""Finetuning on folders: what is left of a training that breaks off."""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile

from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.folders import finetune_folders
from napari_peftsam.errors import TrainingError
from napari_peftsam.peft import LoraConfig, load_adapter
from napari_peftsam.training import TrainEvent, TrainingConfig, TrainingStep, Validated
from tests.training._world import make_plane


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two images and their labels."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for seed, name in enumerate("ab"):
        plane = make_plane(name, seed)
        tifffile.imwrite(images / f"{name}.tif", plane.pixels)
        tifffile.imwrite(labels / f"{name}.tif", plane.labels)
    return images, labels


BREAKS = [
    pytest.param(MemoryError(), "not enough memory on cpu to train .*late-25%", id="memory"),
    pytest.param(TrainingError("the training diverged"), "the training diverged", id="diverged"),
]


@pytest.mark.parametrize(("error", "message"), BREAKS)
def test_the_best_state_is_saved_when_a_training_breaks_off(
    folders: tuple[Path, Path],
    checkpoint: Path,
    tmp_path: Path,
    error: Exception,
    message: str,
) -> None:
    best: list[int] = []

    def watch(event: TrainEvent) -> None:
        if isinstance(event, Validated) and event.step > 0 and event.adapter is not None:
            best.append(event.step)
        elif isinstance(event, TrainingStep) and best:
            raise error

    config = TrainingConfig(
        steps=60, method=LoraConfig(rank=4), learning_rate=1e-2, validations=30, seed=0
    )
    output = tmp_path / "best.safetensors"
    with pytest.raises(TrainingError, match=rf"{message}.*; the best state until then, of step"):
        finetune_folders(*folders, output, config, ModelChoice(str(checkpoint)), watch)
    assert load_adapter(output).provenance["step"] == best[-1]


def test_nothing_is_written_before_there_is_anything(
    folders: tuple[Path, Path], checkpoint: Path, tmp_path: Path
) -> None:
    def watch(event: TrainEvent) -> None:
        raise MemoryError

    config = TrainingConfig(steps=2, method=LoraConfig(rank=4))
    output = tmp_path / "none.safetensors"
    with pytest.raises(TrainingError, match="not enough memory on cpu"):
        finetune_folders(*folders, output, config, ModelChoice(str(checkpoint)), watch)
    assert not output.exists()
