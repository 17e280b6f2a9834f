"""The synthetic images: reproducible, well-formed labels, sizes as asked."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import label

from napari_peftsam.pretraining.synthetic import MODALITIES, SyntheticImage, generate, generate_any

SHAPE = (96, 120)  # not square: catches swapped axes
SEEDS = range(6)


@pytest.fixture(params=MODALITIES)
def modality(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def draw(modality: str, seed: int, diameter: float | None = None) -> SyntheticImage:
    return generate(modality, SHAPE, rng=np.random.default_rng(seed), mean_diameter=diameter)


def test_same_seed_same_image(modality: str) -> None:
    first, again, other = draw(modality, 3), draw(modality, 3), draw(modality, 4)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.image.dtype != other.image.dtype or not np.array_equal(first.image, other.image)


def test_types_and_shapes(modality: str) -> None:
    channels = (3,) if modality == "histology" else ()
    for seed in SEEDS:
        made = draw(modality, seed)
        assert made.modality == modality
        assert made.image.shape == SHAPE + channels
        assert made.image.dtype in (np.uint8, np.uint16)
        assert made.image.std() > 0
        assert made.labels.shape == SHAPE
        assert made.labels.dtype == np.int32


def test_ids_run_from_one_without_gaps(modality: str) -> None:
    for seed in SEEDS:
        ids = np.unique(draw(modality, seed).labels)
        np.testing.assert_array_equal(ids[ids > 0], np.arange(1, ids[-1] + 1))
        assert ids[-1] >= 1


@pytest.mark.parametrize("diameter", [6.0, 15.0, 60.0, None], ids=str)
def test_objects_are_single_pieces_of_some_size(modality: str, diameter: float | None) -> None:
    for seed in SEEDS:
        labels = draw(modality, seed, diameter).labels
        assert label(labels, connectivity=1).max() == labels.max()
        assert np.bincount(labels.ravel())[1:].min() >= 8


@pytest.mark.parametrize("diameter", [18.0, 36.0], ids=str)
def test_diameters_follow_the_mean_asked_for(modality: str, diameter: float) -> None:
    found: list[float] = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        labels = generate(modality, (160, 160), rng=rng, mean_diameter=diameter).labels
        areas = np.bincount(labels.ravel())
        # The image edge cuts objects: these say nothing about sizes.
        areas[labels[[0, -1]]] = areas[labels[:, [0, -1]]] = areas[0] = 0
        found.extend(2 * np.sqrt(areas[areas > 0] / np.pi))
    assert 0.6 * diameter < np.median(found) < 1.4 * diameter


def test_objects_meet_and_stay_apart_in_a_share_of_the_images() -> None:
    """Both sparse and crowded fields occur."""
    rng = np.random.default_rng(0)
    filled = [np.mean(generate("phase", SHAPE, rng=rng).labels > 0) for _ in range(40)]
    assert min(filled) < 0.15
    assert max(filled) > 0.6


def test_any_modality_in_turn() -> None:
    rng = np.random.default_rng(0)
    assert {generate_any((40, 40), rng=rng).modality for _ in range(80)} == set(MODALITIES)


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (64, 1), (7, 300)], ids=str)
def test_odd_shapes(modality: str, shape: tuple[int, int]) -> None:
    for seed in SEEDS:
        made = generate(modality, shape, rng=np.random.default_rng(seed))
        assert made.image.shape[:2] == made.labels.shape == shape


def test_unknown_modality_names_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match=r"'xray'.*fluorescence.*membranes"):
        generate("xray", rng=np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(0, 10), (10, -1), (10, 10, 3), ()], ids=str)
def test_bad_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        generate("phase", shape, rng=np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.mark.parametrize("diameter", [0.0, -3.0, float("nan")], ids=str)
def test_bad_diameter(diameter: float) -> None:
    with pytest.raises(ValueError, match="mean_diameter"):
        generate("phase", SHAPE, rng=np.random.default_rng(0), mean_diameter=diameter)
