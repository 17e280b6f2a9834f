"""The prior of proposal scores is fitted on synthetic images, and measured on others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_peftsam.models import SamModel, build
from napari_peftsam.pretraining.__main__ import main
from napari_peftsam.pretraining.scorer import (
    DOMAINS,
    ProposedImage,
    fit_prior,
    synthetic_images,
    write_prior,
)
from napari_peftsam.pretraining.synthetic import generate
from napari_peftsam.segmentation.automatic import ProposalScorer, ScorerPrior


@pytest.fixture(scope="module")
def model() -> SamModel:
    return build("builtin", "cpu")


@pytest.fixture(scope="module")
def images(model: SamModel) -> list[ProposedImage]:
    return [*synthetic_images(model, 6, sides=[128])]


@pytest.fixture(scope="module")
def prior(images: list[ProposedImage]) -> ScorerPrior:
    return fit_prior(images)


def test_an_image_depends_on_the_seed_and_its_number_alone(
    model: SamModel, images: list[ProposedImage]
) -> None:
    _, second = synthetic_images(model, 2, sides=[128])
    np.testing.assert_array_equal(second.features, images[1].features)
    np.testing.assert_array_equal(second.ious, images[1].ious)


def test_good_proposals_score_higher(prior: ScorerPrior, images: list[ProposedImage]) -> None:
    features = np.concatenate([each.features for each in images])
    ious = np.concatenate([each.ious for each in images])
    scores = ProposalScorer(prior).scores(features).iou
    assert np.corrcoef(scores, ious)[0, 1] > 0.6


def test_a_prior_in_half_precision_says_nearly_the_same(
    prior: ScorerPrior, images: list[ProposedImage], tmp_path: Path
) -> None:
    write_prior(prior, tmp_path / "prior.npz")
    with np.load(tmp_path / "prior.npz") as content:
        read = ScorerPrior({name: content[name].astype(float) for name in content.files})
    exact, half = (ProposalScorer(each).scores(images[0].features) for each in (prior, read))
    np.testing.assert_allclose(half.iou, exact.iou, atol=0.01)


def test_labelled_images_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = generate("fluorescence", (128, 128), rng=np.random.default_rng(1), mean_diameter=24)
    for domain in DOMAINS:
        for kind, pixels in (("images", made.image), ("labels", made.labels.astype(np.uint16))):
            (tmp_path / domain / kind).mkdir(parents=True)
            tifffile.imwrite(tmp_path / domain / kind / "a.tif", pixels)
    assert main(["scorer", str(tmp_path), str(tmp_path / "prior.npz"), "--images", "2"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [found["domain"] for found in lines] == [*DOMAINS]
    for found in lines:
        assert found["images"] == 1
        assert 0 < found["msa"] <= found["ap50"] <= 1


@pytest.mark.parametrize(
    ("output", "images", "message"),
    [
        pytest.param("prior.npz", 2, "no such folder", id="no domain"),
        pytest.param("prior.npz", 0, "--images must be 1 or more, got 0", id="no image"),
        pytest.param("a/prior.npz", 2, "there is no folder", id="nowhere to write"),
        pytest.param("prior.txt", 2, "end its name in .npz", id="another format"),
    ],
)
def test_wrong_input_is_said_before_the_long_work(
    output: str, images: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["scorer", str(tmp_path), str(tmp_path / output), "--images", str(images)]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
