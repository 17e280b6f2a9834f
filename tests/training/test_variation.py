"""Pictures are varied while they are learned from, and only then."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from napari_peftsam.models import SamModel, build_tiny
from napari_peftsam.training.dataset import split_objects
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.samples import prepare_planes, varied
from tests.training._world import make_plane


@pytest.fixture
def model() -> SamModel:
    """A tiny model that computes in single precision on every machine."""
    return replace(build_tiny(), precision="fp32")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("is_grey", [True, False], ids=["grey", "colour"])
def test_a_picture_is_varied_by_the_seed(seed: int, is_grey: bool) -> None:
    picture = torch.rand(1, 1 if is_grey else 3, 32, 32).expand(1, 3, 32, 32)

    def made() -> torch.Tensor:
        torch.manual_seed(seed)
        return varied(picture, 0.25)

    found = made()
    assert found.shape == picture.shape
    assert torch.equal(found, made())
    assert not torch.allclose(found, picture)
    assert torch.equal(found[:, 0], found[:, 1]) == is_grey


@pytest.mark.parametrize(
    ("first", "learns", "differs"),
    [
        pytest.param(0, True, True, id="while it is learned from"),
        pytest.param(0, False, False, id="not while it is validated"),
        pytest.param(2, True, False, id="not where a part is kept"),
    ],
)
def test_only_what_is_learned_from_is_varied(
    model: SamModel, first: int, learns: bool, differs: bool
) -> None:
    plane = make_plane("a")
    prepared = prepare_planes([plane], split_objects([plane], 0.2, 0).training, model)
    plain = PlaneEncoder(model, prepared, first)
    with torch.set_grad_enabled(learns):
        found = replace(plain, variation=0.25).features(0)
        assert torch.equal(found, plain.features(0)) != differs
