"""The command of the pretraining: what it says, and what it refuses in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from tifffile import imwrite

from napari_peftsam.folders import pretraining_folder
from napari_peftsam.pretraining.__main__ import main
from napari_peftsam.samples import SyntheticName, shipped_synthetic
from tests.training._world import make_plane

_TINY = (
    *("--steps", "1", "--sides", "64", "--images", "1", "--objects", "1"),
    *("--device", "cpu", "--workers", "0", "--validate-every", "0"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pairs, an image without labels, and a file that is no image."""
    for kind in ("images", "labels"):
        (tmp_path / "real" / kind).mkdir(parents=True)
    for seed, name in enumerate(("a", "b", "alone")):
        plane = make_plane(name, seed)
        imwrite(tmp_path / "real/images" / f"{name}.tif", plane.pixels)
        if name != "alone":
            imwrite(tmp_path / "real/labels" / f"{name}.ome.tif", plane.labels)
    (tmp_path / "real/images/notes.txt").write_text("no image")
    return tmp_path / "real"


@pytest.fixture
def error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs the command and returns the one line of its error."""

    def run(*options: str) -> str:
        assert main(["--output", str(tmp_path / "run"), *_TINY, *options]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert not (tmp_path / "run").exists()
        return said.err

    return run


@pytest.mark.parametrize(
    ("names", "count"),
    [pytest.param([], 2, id="all that have labels"),
     pytest.param(["--real-names", "b"], 1, id="the named one")],
)  # fmt: skip
def test_real_images_are_paired_by_name(
    folder: Path, tmp_path: Path, names: list[str], count: int
) -> None:
    run = tmp_path / "run"
    assert main(["--output", str(run), *_TINY, "--real", str(folder), *names]) == 0
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1]
    assert f'"real_images\\": {count},'.encode() in (run / "builtin.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("names", "message"),
    [pytest.param(["a", "x", "y"], "is called x, y; choose from a, b", id="no such image"),
     pytest.param(["alone"], "is called alone; choose from a, b", id="no labels")],
)  # fmt: skip
def test_unknown_names_are_refused(
    error: Callable[..., str], folder: Path, names: list[str], message: str
) -> None:
    assert message in error("--real", str(folder), "--real-names", *names)


@pytest.mark.parametrize(
    ("options", "message"),
    [pytest.param(["--real-names", "a"], "give it with --real", id="names without a folder"),
     pytest.param(["--real", "nowhere"], "images: no such folder", id="no folder"),
     pytest.param(["--sides", "100"], "multiples of 8", id="an option out of range"),
     pytest.param(["--start", "nothing"], "unknown model 'nothing'", id="unknown start")],
)  # fmt: skip
def test_errors_of_the_user_are_one_line(
    error: Callable[..., str], options: list[str], message: str
) -> None:
    assert message in error(*options)


def test_stacks_are_refused(error: Callable[..., str], folder: Path) -> None:
    for kind, dtype in (("images", np.float32), ("labels", np.uint8)):
        imwrite(folder / kind / "c.tif", np.ones((5, 32, 32), dtype), metadata={"axes": "ZYX"})
    message = error("--real", str(folder), "--real-names", "c")
    assert "real image 1 has labels of the shape (5, 32, 32): give single planes" in message


def test_a_finished_run_tells_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    weights = run / "builtin.safetensors"
    assert main(["--output", str(run), *_TINY]) == 0
    assert "nothing to do" not in capsys.readouterr().out
    assert main(["--output", str(run), *_TINY]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "has finished with step 1:" in said
    assert f"its weights are in {weights}" in said
    assert f"another --output and --start {weights}" in said
    on = ["--output", str(tmp_path / "next"), *_TINY, "--start", str(weights)]
    assert main(on) == 0


def test_options_are_not_abbreviated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exiting:
        main(["--output", str(tmp_path), "--side", "64"])
    assert exiting.value.code == 2
    assert "unrecognized arguments: --side" in capsys.readouterr().err


def test_a_run_without_a_folder_stays_in_the_cache_of_the_user() -> None:
    assert main(list(_TINY)) == 0
    assert (pretraining_folder() / "builtin.safetensors").is_file()


def test_the_samples_of_the_package_are_drawn_again(tmp_path: Path) -> None:
    assert main(["samples", str(tmp_path)]) == 0
    for name in get_args(SyntheticName):
        with Image.open(tmp_path / f"{name}.png") as image:
            drawn = np.asarray(image)
        # Other versions of the libraries may round a grey value differently.
        assert (np.abs(drawn.astype(int) - shipped_synthetic(name)) <= 1).mean() > 0.999
