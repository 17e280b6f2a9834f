"""The commands for many images: their keys, their errors, and Ctrl-C amid the work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_peftsam.files import read_labels
from tests.cli._cases import Inputs, Program

HERE = ("--workers", "0", "--json")


@pytest.fixture
def prompted(inputs: Inputs) -> Inputs:
    """Return inputs with a folder of prompts for the images."""
    (inputs / "prompts").mkdir()
    for image in (inputs / "images").iterdir():
        shutil.copy(inputs / "prompts.json", inputs / f"prompts/{image.stem}.json")
    return inputs


def segment(inputs: Inputs, *more: str) -> tuple[str, ...]:
    return (
        "segment-batch", "--images", str(inputs / "images"), "--prompts", str(inputs / "prompts"),
        "--output", str(inputs / "out"), "--store", str(inputs / "store"), *inputs.model(), *more,
    )  # fmt: skip


def test_labels_are_written_for_each_image(prompted: Inputs, program: Program) -> None:
    outcome = program(*segment(prompted, *HERE))
    assert outcome.code == 0, outcome.err
    assert list(outcome.json) == ["total", "images", "failed", "output", "objects", "empty"]
    assert (outcome.json["images"], outcome.json["objects"]) == (3, 6)
    assert read_labels(prompted / "out/a1.ome.zarr").shape == (40, 48)


def test_an_image_that_fails_is_told_and_the_others_are_finished(
    prompted: Inputs, program: Program
) -> None:
    (prompted / "images/a1.tif").write_bytes(b"nothing")
    outcome = program(*segment(prompted, *HERE))
    assert outcome.code == 2
    assert list(outcome.json["failed"]) == ["a1"]
    assert sorted(path.name for path in (prompted / "out").iterdir()) == [
        "a0.ome.zarr", "a2.ome.zarr",
    ]  # fmt: skip
    *_, last = outcome.err.splitlines()
    assert last.startswith(f"error: a1: {prompted / 'images/a1.tif'}")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--workers", "-1"), "--workers"),
        (("--workers", "2", "--scheduler", "tcp://a:1"), "give only one of them"),
        (("--scheduler", "nonsense://a"), "no dask scheduler answers at nonsense://a"),
        (("--model", "none.pth"), "none.pth"),
        (("--space", "inf"), "--space must be a number of GB, got inf"),
        (("--space", "nan"), "--space"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_bad_options_end_with_one_line(
    more: tuple[str, ...], message: str, prompted: Inputs, program: Program
) -> None:
    outcome = program(*segment(prompted, *more))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_nothing_is_reported_before_the_only_error(prompted: Inputs, program: Program) -> None:
    arguments = ("--images", prompted / "nothere", "--output", prompted / "out", *HERE[:2])
    outcome = program("segment-batch", *arguments, *prompted.model())
    assert (outcome.code, outcome.out) == (2, "")
    assert "nothere" in outcome.err


def test_a_damaged_chunk_is_told_without_tracebacks(prompted: Inputs) -> None:
    image = prompted / "damaged.zarr"
    values = np.random.default_rng(0).integers(0, 255, (2000, 2000), np.uint8)
    zarr.create_array(image, data=values, chunks=(128, 128))
    (image / "c/0/0").write_bytes(b"damaged")
    ended = subprocess.run(
        [sys.executable, "-m", "napari_peftsam", "embed", str(image), *HERE, *prompted.model()],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"error: {image}: cannot be read")
    assert "Traceback" not in ended.stderr


def test_a_missing_distributed_is_named(
    prompted: Inputs, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    outcome = program(*segment(prompted, "--workers", "1"))
    assert outcome.code == 2
    assert 'pip install "napari-peftsam[distributed]"' in outcome.err


@pytest.mark.skipif(os.name == "nt", reason="a terminal's Ctrl-C is a signal on POSIX only")
def test_ctrl_c_ends_the_workers_and_keeps_what_is_finished(
    prompted: Inputs, program: Program
) -> None:
    for number in range(60):
        for name, suffix in (("images", "tif"), ("prompts", "json")):
            shutil.copy(prompted / f"{name}/a0.{suffix}", prompted / f"{name}/b{number}.{suffix}")
    # In a session of its own: as from a terminal, all of its processes get the signal.
    running = subprocess.Popen(
        [sys.executable, "-m", "napari_peftsam", *segment(prompted, "--workers", "1", "--json")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    waiting = threading.Event()
    while not list(prompted.root.glob("out/[ab]*")) and running.poll() is None:
        waiting.wait(0.02)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate()
    assert running.returncode == 130, err
    # A slow machine has shown progress before.
    assert any(line.startswith("stopping; what is finished is kept") for line in err.splitlines())
    assert "Traceback" not in err
    finished = sorted((prompted / "out").iterdir())
    assert 0 < len(finished) < 63
    assert all(read_labels(path).shape == (40, 48) for path in finished)
    # One may have been finished while its news was on the way.
    assert len(finished) - 1 <= json.loads(out)["images"] <= len(finished)
