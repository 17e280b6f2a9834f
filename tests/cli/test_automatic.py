"""Segmentation without prompts from the command line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_peftsam.embeddings import encode_one
from napari_peftsam.files import read_labels
from napari_peftsam.models import build
from napari_peftsam.peft import LoraConfig, capture, inject, save_adapter
from napari_peftsam.segmentation import Predictor
from napari_peftsam.segmentation.automatic import features_of, propose_in_frame
from tests.cli._cases import Inputs, Program

FIGURES = {
    "msa", "ap50", "ap75", "pq", "sq", "rq", "split", "merged", "missed", "invented",
    "effort_per_object", "effort_prompting_only", "seconds_per_image",
}  # fmt: skip
STAGES = {
    "seeded", "empty", "cut", "elsewhere", "below", "overlapped", "too_small", "left_out",
    "coarse", "objects",
}  # fmt: skip


def discs(count: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:160, :160]
    pixels, labels = np.full((160, 160), 20.0), np.zeros((160, 160), np.uint16)
    for number, (row, col) in enumerate([(45, 45), (45, 115), (115, 80)][:count], start=1):
        inside = (y - row) ** 2 + (x - col) ** 2 <= 15**2
        pixels[inside], labels[inside] = 200, number
    noisy = pixels + np.random.default_rng(0).normal(0, 3, pixels.shape)
    return noisy.clip(0, 255).astype(np.uint8), labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Return folders of two images and of their labels."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for name, count in (("a", 2), ("b", 3)):
        pixels, true = discs(count)
        tifffile.imwrite(images / f"{name}.tif", pixels)
        tifffile.imwrite(labels / f"{name}.tif", true)
    return images, labels


def test_segment_finds_the_objects(
    folders: tuple[Path, Path], program: Program, tmp_path: Path
) -> None:
    output = tmp_path / "out.tif"
    outcome = program("segment", folders[0] / "b.tif", "--output", output, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["objects"] == 3
    assert outcome.json["output"] == str(output)
    assert outcome.json["stages"].keys() == STAGES
    true, found = discs(3)[1], tifffile.imread(output)
    assert np.unique(found).tolist() == [0, 1, 2, 3]
    for label in (1, 2, 3):
        under = found[true == label]
        assert (under == np.bincount(under).argmax()).mean() > 0.8


@pytest.mark.parametrize(
    ("options", "objects", "note"),
    [
        pytest.param(
            ("--eager", "0"),
            0,
            r"\d proposals? less certain than --eager 0 asks for$",
            id="certain",
        ),
        pytest.param(
            ("--min-size", "5000"), 0, ": 3 proposals smaller than --min-size 5000$", id="large"
        ),
        pytest.param(("--fast",), 3, "^$", id="one threshold"),
    ],
)
def test_options(
    options: tuple[str, ...],
    objects: int,
    note: str,
    folders: tuple[Path, Path],
    program: Program,
    tmp_path: Path,
) -> None:
    outcome = program(
        "segment", folders[0] / "b.tif", "--output", tmp_path / "out.tif", "--json", *options
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["objects"] == objects
    assert ("no object was found: " in outcome.err) == (objects == 0)
    assert re.search(note, outcome.err.strip())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(("--eager", "1.5"), "eager", id="more than eager"),
        pytest.param(("--eager", "-2"), "-2", id="less than eager"),
        pytest.param(
            ("--prompts", "{root}/prompts.json", "--eager", "0.3"),
            "--eager is for",
            id="with prompts",
        ),
    ],
)
def test_bad_input(
    options: tuple[str, ...], message: str, shared: Inputs, program: Program, tmp_path: Path
) -> None:
    given = [each.format(root=shared.root) for each in options]
    outcome = program("segment", shared / "image.tif", "--output", tmp_path / "out.tif", *given)
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "out.tif").exists()


def test_without_a_head_a_grid_of_clicks_is_looked_at(
    shared: Inputs, program: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = (shared / "image.tif", *shared.model(), "--output", tmp_path / "out.tif", "--json")
    outcome = program("segment", *arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.json["stages"]["coarse"] == 1
    assert "has no head for automatic segmentation" in caplog.text


def test_segment_batch_does_a_folder(
    folders: tuple[Path, Path], program: Program, tmp_path: Path
) -> None:
    outcome = program(
        "segment-batch", "--images", folders[0], "--output", tmp_path / "out", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["objects"] == 5
    found = read_labels(tmp_path / "out" / "a.ome.zarr")
    assert len(np.unique(found)) == 3
    each = outcome.json["per_image"]
    assert [(image["name"], image["objects"]) for image in each] == [("a", 2), ("b", 3)]
    assert [image["stages"].keys() for image in each] == [STAGES] * 2


@pytest.mark.parametrize(
    ("options", "second_line"),
    [
        pytest.param(
            ("--min-size", "5000"), r"left out: 5 proposals smaller than --min-size 5000$", id="all"
        ),
        pytest.param(("--eager", "1"), "$", id="none"),
    ],
)
def test_a_batch_says_what_was_left_out(
    options: tuple[str, ...],
    second_line: str,
    folders: tuple[Path, Path],
    program: Program,
    tmp_path: Path,
) -> None:
    outcome = program("segment-batch", "--images", folders[0], "--output", tmp_path, *options)
    assert outcome.code == 0, outcome.err
    assert re.search(rf"in 2 of 2 images: .*\n{second_line}", outcome.out)


def test_evaluate_without_prompts(folders: tuple[Path, Path], program: Program) -> None:
    images, labels = folders
    arguments = ("evaluate", "--images", images, "--labels", labels, "--automatic", "--json")
    outcome = program(*arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.json.keys() >= FIGURES | {"images", "objects", "intervals", "per_image"}
    assert outcome.json["ap50"] == 1
    assert outcome.json["effort_per_object"] < outcome.json["effort_prompting_only"]
    sparse = program(*arguments, "--labels-are", "sparse").json
    assert sparse["recall50"] == 1
    assert "msa" not in sparse


def test_figures_that_are_unknown_have_no_line(
    folders: tuple[Path, Path], program: Program
) -> None:
    images, labels = folders
    given = ("--labels-are", "sparse", "--eager", "0")  # finds nothing to match
    outcome = program("evaluate", "--images", images, "--labels", labels, "--automatic", *given)
    assert outcome.code == 0, outcome.err
    assert "recall50: 0.000" in outcome.out
    assert "matched_iou" not in outcome.out
    assert "None" not in outcome.out


@pytest.mark.parametrize("option", [("--max-objects", "3"), ("--seed", "1")])
def test_a_segmentation_without_prompts_takes_no_sample(
    option: tuple[str, str], shared: Inputs, program: Program
) -> None:
    outcome = program("evaluate", *shared.folders(), *shared.model(), "--automatic", *option)
    assert outcome.code == 2
    assert f"{option[0]} is for a sample of objects to prompt: leave it out" in outcome.err


@pytest.mark.parametrize("option", [("--labels-are", "sparse"), ("--eager", "0.3"), ("--fast",)])
def test_options_of_automatic_alone_are_refused(
    option: tuple[str, ...], shared: Inputs, program: Program
) -> None:
    outcome = program("evaluate", *shared.folders(), *shared.model(), *option)
    assert outcome.code == 2
    assert f"{option[0]} is for a segmentation without prompts" in outcome.err


@pytest.mark.parametrize("command", ["segment", "segment-batch", "evaluate"])
def test_an_adapter_brings_its_judgements(
    command: str, folders: tuple[Path, Path], program: Program, tmp_path: Path
) -> None:
    """Nothing is found where all that the adapter's project proposed was wrong."""
    model = build("builtin", "cpu")
    embedding = encode_one(model, discs(3)[0].astype(np.float32))
    found, _ = propose_in_frame(Predictor(model), embedding, head=model.dense_head)
    features = np.repeat(features_of(found), 80, axis=0)
    adapter = capture(inject(model, LoraConfig(rank=2))).with_judged(features, features[:, 0] * 0)
    save_adapter(adapter, tmp_path / "wrong.safetensors")
    arguments = {
        "segment": (folders[0] / "b.tif", "--output", tmp_path / "out.tif"),
        "segment-batch": ("--images", folders[0], "--output", tmp_path / "out"),
        "evaluate": ("--images", folders[0], "--labels", folders[1], "--automatic"),
    }[command]
    options = ("--adapter", tmp_path / "wrong.safetensors", "--json")
    outcome = program(command, *arguments, *options)
    assert outcome.code == 0, outcome.err
    assert outcome.json.get("missed", 5 - outcome.json["objects"]) >= 5


def test_an_adapter_brings_its_head(
    folders: tuple[Path, Path], shared: Inputs, program: Program, tmp_path: Path
) -> None:
    """A model without a head segments after a finetuning."""
    adapter = tmp_path / "adapter.safetensors"
    outcome = program(
        "finetune", *shared.folders(), *shared.model(), "--output", adapter,
        "--labels-are", "complete", "--steps", "3", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    outcome = program(
        "segment", shared / "image.tif", *shared.model(), "--adapter", adapter, "--output",
        tmp_path / "out.tif", "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.json["stages"]["objects"] == outcome.json["objects"]
