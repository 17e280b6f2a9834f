"""The synthetic images: reproducible, well-formed labels, sizes as asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from skimage.measure import label

from napari_peftsam.pretraining.synthetic import (
    MODALITIES,
    SyntheticImage,
    generate,
    generate_any,
    generate_empty,
    imperfect,
)

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


KEPT = Path(__file__).parent / "data" / "synthetic.npz"


def drawn() -> dict[str, np.ndarray]:
    """Small images of every modality, and of any with faults of a camera."""
    images = {m: generate(m, (48, 40), rng=np.random.default_rng(0)) for m in MODALITIES}
    for seed in range(30):
        images[f"any {seed}"] = generate_any((32, 32), rng=np.random.default_rng(seed))
    return {key: np.dstack([made.image, made.labels]) for key, made in images.items()}


def test_a_seed_gives_the_images_that_it_gave_the_weights_in_the_package() -> None:
    kept = np.load(KEPT)
    found = drawn()
    assert set(found) == set(kept)
    for key, array in found.items():
        # Other versions of the libraries may round a grey value differently.
        assert (np.abs(array - kept[key].astype(int)) <= 1).mean() > 0.995, key


def test_types_and_shapes(modality: str) -> None:
    channels = {"histology": {(3,)}, "smear": {(), (3,)}, "tissue": {(), (3,)}}
    for seed in SEEDS:
        made = draw(modality, seed)
        assert made.modality == modality
        assert made.image.shape[:2] == SHAPE
        assert made.image.shape[2:] in channels.get(modality, {()})
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


@pytest.mark.parametrize("modality", [m for m in MODALITIES if m != "branching"], indirect=True)
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


def test_any_modality_in_turn_and_sometimes_none() -> None:
    rng = np.random.default_rng(0)
    found = {generate_any((40, 40), rng=rng).modality for _ in range(200)}
    assert found == {*MODALITIES, "empty"}


def test_a_field_can_be_empty() -> None:
    for seed in SEEDS:
        made = generate_empty(SHAPE, rng=np.random.default_rng(seed))
        assert made.image.shape == made.labels.shape == SHAPE
        assert made.image.std() > 0
        assert not made.labels.any()


def test_only_nested_objects_have_parts_and_groups(modality: str) -> None:
    made = draw(modality, 0)
    assert (made.parts is not None, made.groups is not None) == (modality == "nested",) * 2


def test_a_nucleus_lies_in_its_cell_and_a_cell_in_its_cluster() -> None:
    for seed in SEEDS:
        made = draw("nested", seed, 30.0)
        assert made.parts is not None
        assert made.groups is not None
        inside = made.parts > 0
        np.testing.assert_array_equal(made.parts[inside], made.labels[inside])
        assert inside.sum() < (made.labels > 0).sum()
        np.testing.assert_array_equal(made.groups > 0, made.labels > 0)
        for number in range(1, made.labels.max() + 1):
            assert len(np.unique(made.groups[made.labels == number])) == 1


def test_cells_of_dense_tissue_touch() -> None:
    labels = draw("tissue", 1, 30.0).labels
    across = (labels[:, 1:] != labels[:, :-1]) & (labels[:, 1:] > 0) & (labels[:, :-1] > 0)
    assert np.count_nonzero(across) > 100


def test_branching_objects_are_thin() -> None:
    for seed in SEEDS:
        labels = draw("branching", seed, 30.0).labels
        assert distance_transform_edt(labels > 0).max() < 12


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)], ids=["grey", "RGB"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_faults_of_a_camera_keep_type_shape_and_range(
    shape: tuple[int, ...], dtype: type[np.uint8] | type[np.uint16]
) -> None:
    image = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    faulty = [imperfect(np.random.default_rng(seed), image) for seed in range(20)]
    assert all((f.shape, f.dtype) == (shape, dtype) for f in faulty)
    assert all(f.std() > 0 for f in faulty)
    # A small image may have no hot pixel, and nothing to saturate.
    assert sum(not np.array_equal(f, image) for f in faulty) > 15
    again = imperfect(np.random.default_rng(3), image)
    np.testing.assert_array_equal(again, faulty[3])


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
