"""Validation: fixed images, kept weights, the chain of runs, the log as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from tifffile import imwrite

from napari_peftsam.errors import InputFileError
from napari_peftsam.models import build_tiny
from napari_peftsam.pretraining import PretrainingConfig, PretrainingStep, Validation, pretrain
from napari_peftsam.pretraining.__main__ import main, read_log
from napari_peftsam.pretraining.synthetic import MODALITIES
from napari_peftsam.pretraining.validation import (
    OTHER_DOMAINS,
    measure_domains,
    quality,
    synthetic_set,
)
from tests.training._world import make_plane

PLANE = make_plane("held out")
REAL = Validation([(PLANE.pixels, PLANE.labels)], synthetic=0, objects=1)
FIGURES = {"box", "click", "clicks5", "score", "ranking", "area_ranking"}


def test_the_synthetic_set_is_fixed_and_holds_all_modalities() -> None:
    first, again = synthetic_set(20), synthetic_set(14)
    assert {name.split()[0] for name, *_ in first} == set(MODALITIES)
    for one, other in zip(first, again, strict=False):
        np.testing.assert_array_equal(one[1], other[1])


def test_each_set_has_figures() -> None:
    validation = replace(REAL, synthetic=2)
    found = validation.run(build_tiny())
    assert set(found) == {"real", "synthetic"}
    assert all(set(figures) == FIGURES for figures in found.values())
    assert found == validation.run(build_tiny())
    chosen = [found[name][key] for name in found for key in ("box", "click", "clicks5")]
    assert quality(found) == pytest.approx(np.mean(chosen))


def _config(folder: Path, steps: int = 2) -> PretrainingConfig:
    return PretrainingConfig(
        folder, steps, sides=(64,), images=1, objects=1, validate_every=2, save_every=1,
        start="builtin",
        device="cpu", workers=0, commit="abc", command="the command",
    )  # fmt: skip


def test_a_run_is_validated_from_its_start_on(tmp_path: Path) -> None:
    steps = list(pretrain(_config(tmp_path), validation=REAL))
    assert [step.step for step in steps] == [0, 1, 2]
    validated = [(step.step, quality(step.validation)) for step in steps if step.validation]
    assert [number for number, _ in validated] == [0, 2]
    best = max(validated, key=lambda pair: pair[1])
    with safe_open(tmp_path / "best.safetensors", "pt") as file:
        kept = json.loads(file.metadata()["training"])
    assert (kept["step"], kept["quality"]) == best


def test_validation_does_not_change_the_run(tmp_path: Path) -> None:
    begun = pretrain(_config(tmp_path / "a"), validation=REAL)
    assert next(begun).step == 0
    assert next(begun).loss == next(pretrain(_config(tmp_path / "b"))).loss


def test_weights_tell_all_runs_that_made_them(tmp_path: Path) -> None:
    first = replace(_config(tmp_path / "first", 1), start=None, seed=7)
    list(pretrain(first))
    second = replace(_config(tmp_path / "second", 2), start=first.weights, commit="def")
    next(pretrain(second))
    list(pretrain(replace(second, commit="ghi")))
    with safe_open(second.weights, "pt") as file:
        chain = json.loads(file.metadata()["chain"])
    assert [run["seed"] for run in chain] == [7, 0]
    assert [run["step"] for run in chain] == [1, 2]
    assert chain[0]["start"] == ""
    assert chain[1]["command"] == "the command"
    assert chain[0]["commits"] == {"abc": 0}
    assert set(chain[1]["commits"]) == {"def", "ghi"}


def test_the_log_is_drawn(tmp_path: Path) -> None:
    with (tmp_path / "log.jsonl").open("a") as log:
        for number in (0, 1, 2, 2):  # the last one again, after an interruption
            figures = {"real": dict.fromkeys(FIGURES, 0.5)} if number % 2 == 0 else None
            parts = {"first": 1 / number, "dense": 0.5} if number else {}
            step = PretrainingStep(number, 1.0, parts, 0.1, figures)
            log.write(json.dumps(asdict(step)) + "\n")
    assert [step["step"] for step in read_log(tmp_path / "log.jsonl")] == [0, 1, 2]
    assert main(["curve", str(tmp_path / "curve.png"), "--run", str(tmp_path)]) == 0
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (900, 320)


def test_a_run_without_a_log_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curve", str(tmp_path / "curve.png"), "--run", str(tmp_path)]) == 2
    assert "is no log of a run" in capsys.readouterr().err


def test_other_domains_are_measured_by_a_command_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for domain in OTHER_DOMAINS:
        for kind, array in (("images", PLANE.pixels), ("labels", PLANE.labels)):
            (tmp_path / domain / kind).mkdir(parents=True)
            imwrite(tmp_path / domain / kind / "a.tif", array)
    assert main(["domains", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["domain"] for line in lines] == list(OTHER_DOMAINS)
    assert all(set(line) == {"domain", *FIGURES} for line in lines)


def test_a_missing_domain_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="holds no folder dsb_histo"):
        next(measure_domains("builtin", tmp_path))
