"""Large planes are trained on in the tiles, and with the normalisation, of their use."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.embeddings import tiled_image
from napari_peftsam.models import SamModel, to_model_input
from napari_peftsam.peft import LoraConfig
from napari_peftsam.training import (
    AnnotatedPlane,
    TrainingConfig,
    TrainingStarted,
    cut_into_tiles,
    finetune,
)
from napari_peftsam.training.dataset import objects_of
from napari_peftsam.training.samples import prepare_planes
from napari_peftsam.types import Point, Prompts
from tests.segmentation._slides import Slide
from tests.training._world import finish

# The second one lies over a border of cores; the last two share a tile.
PLACES = [(40, 40, 8, 8), (100, 150, 9, 7), (260, 300, 8, 8), (285, 310, 7, 7)]


@pytest.fixture
def large() -> AnnotatedPlane:
    slide = Slide((400, 500), PLACES)
    labels = np.zeros(slide.shape, np.int32)
    whole = tiled_image("x", slide, _Frame).grid.window  # type: ignore[arg-type]
    for number in range(len(PLACES)):
        labels[slide.mask(number, whole)] = 10 + number
    prompts = {10: Prompts((Point(40, 40),)), 12: Prompts((Point(261, 301),))}
    return AnnotatedPlane("slide", "slide", slide[0:400, 0:500], labels, prompts)


class _Architecture:
    image_size, patch_size = 64, 8


class _Frame:
    image_size, architecture = 64, _Architecture


def test_small_planes_stay_as_they_are(tiny_model: SamModel, large: AnnotatedPlane) -> None:
    small = AnnotatedPlane("a", "a", large.pixels[:190, :190], large.labels[:190, :190])
    assert cut_into_tiles([small], tiny_model) == (small,)


def test_each_object_is_whole_in_exactly_one_tile(
    tiny_model: SamModel, large: AnnotatedPlane
) -> None:
    tiles = cut_into_tiles([large], tiny_model)
    found = [o.label for i, tile in enumerate(tiles) for o in objects_of(i, tile)]
    assert sorted(found) == [10, 11, 12, 13]
    assert len({tile.name for tile in tiles}) == len(tiles)
    assert {tile.image for tile in tiles} == {"slide"}
    for tile in tiles:
        assert tile.pixels.shape == tile.labels.shape == (64, 64)
        for label in set(np.unique(tile.labels).tolist()) - {0}:
            assert (tile.labels == label).sum() == (large.labels == label).sum()


def test_prompts_move_with_their_objects(tiny_model: SamModel, large: AnnotatedPlane) -> None:
    tiles = cut_into_tiles([large], tiny_model)
    given = {label: one for tile in tiles for label, one in tile.prompts.items()}
    assert sorted(given) == [10, 12]
    (tile,) = [tile for tile in tiles if 12 in tile.prompts]
    point = tile.prompts[12].points[0]
    assert tile.labels[round(point.row), round(point.col)] == 12


def test_training_sees_what_prompts_are_answered_from(
    tiny_model: SamModel, large: AnnotatedPlane
) -> None:
    """Pixel for pixel the same model input, by the limits of the whole image."""
    tiles = cut_into_tiles([large], tiny_model)
    prepared = prepare_planes(tiles, objects_of(0, tiles[0]), tiny_model)
    image = tiled_image("slide", large.pixels, tiny_model)
    request = image.request(image.grid.tile_at(40, 40))
    used = to_model_input(request.pixels, tiny_model, request.intensity_range)
    np.testing.assert_array_equal(prepared[0].image.numpy(), used.numpy())
    assert tiles[0].limits == image.intensity_range


def test_finetuning_on_a_large_plane(tiny_model: SamModel, large: AnnotatedPlane) -> None:
    config = TrainingConfig(method=LoraConfig(rank=2), steps=2, validations=1)
    events, report = finish(finetune(tiny_model, [large], config))
    assert any(isinstance(event, TrainingStarted) for event in events)
    assert report.steps == 2
