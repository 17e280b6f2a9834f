"""Evaluation without prompts: agreement, mistakes, and what a person has to do."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.evaluation import AutomaticEvaluation, compare_instances, evaluate_automatic
from napari_peftsam.models import SamModel, build

ROWS, COLS = np.mgrid[:40, :60]


def squares(*corners: tuple[int, int, int]) -> np.ndarray:
    """Return labels of squares by row, column and side."""
    labels = np.zeros((40, 60), int)
    for number, (row, col, side) in enumerate(corners, start=1):
        labels[row : row + side, col : col + side] = number
    return labels


TWO = squares((5, 5, 10), (5, 15, 10))
THREE = squares((5, 5, 10), (5, 15, 10), (5, 25, 10))


@pytest.mark.parametrize(
    ("true", "predicted", "counts"),
    [
        pytest.param(TWO, TWO, (0, 0, 0, 0), id="all right"),
        pytest.param(TWO, squares((5, 5, 10)), (0, 0, 1, 0), id="one missed"),
        pytest.param(
            TWO, squares((5, 5, 10), (5, 15, 10), (25, 25, 8)), (0, 0, 0, 1), id="one invented"
        ),
        pytest.param(THREE, (THREE > 0).astype(int), (0, 3, 0, 0), id="three are one"),
        pytest.param(
            (TWO > 0).astype(int), TWO, (0, 0, 0, 0), id="halves of one: the first half matches"
        ),
        pytest.param(
            squares((0, 0, 30)),
            np.where(COLS < 10, 1, np.where(COLS < 20, 2, 3)) * (squares((0, 0, 30)) > 0),
            (1, 0, 0, 0),
            id="one in three pieces",
        ),
        pytest.param(np.zeros_like(TWO), np.zeros_like(TWO), (0, 0, 0, 0), id="nothing at all"),
    ],
)
def test_mistakes_have_kinds(
    true: np.ndarray, predicted: np.ndarray, counts: tuple[int, int, int, int]
) -> None:
    found = compare_instances(true, predicted)
    assert (found.split, found.merged, found.missed, found.invented) == counts


def test_panoptic_quality_is_the_product_of_its_parts() -> None:
    found = compare_instances(TWO, squares((5, 5, 10), (25, 25, 8)))
    assert found.sq == 1
    assert found.rq == pytest.approx(0.5)
    assert found.pq == pytest.approx(0.5)
    assert found.ap50 == pytest.approx(1 / 3)


# --- whole images -------------------------------------------------------------------


@pytest.fixture(scope="module")
def builtin() -> SamModel:
    return build("builtin", "cpu")


def discs() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:200, :200]
    pixels, labels = np.full((200, 200), 20.0, np.float32), np.zeros((200, 200), int)
    for number, (row, col) in enumerate([(50, 50), (50, 140), (140, 50), (140, 140)], start=1):
        inside = (y - row) ** 2 + (x - col) ** 2 <= 16**2
        pixels[inside], labels[inside] = 200, number
    return pixels + np.random.default_rng(0).normal(0, 3, pixels.shape), labels


def evaluated(
    model: SamModel, *images: tuple[str, np.ndarray, np.ndarray], **options: object
) -> AutomaticEvaluation:
    *_, report = evaluate_automatic(model, images, **options)  # type: ignore[arg-type]
    assert isinstance(report, AutomaticEvaluation)
    return report


def test_what_is_found_costs_one_action_for_all(builtin: SamModel) -> None:
    pixels, labels = discs()
    found = evaluated(builtin, ("discs", pixels, labels)).to_dict()
    assert found["objects"] == 4
    assert found["ap50"] == 1
    assert (found["split"], found["merged"], found["missed"], found["invented"]) == (0, 0, 0, 0)
    assert found["effort_per_object"] == pytest.approx(1 / 4)
    assert found["effort_prompting_only"] >= 2  # a click and the acceptance
    assert found["per_image"][0]["name"] == "discs"


def test_what_is_not_found_is_prompted(builtin: SamModel) -> None:
    pixels, labels = discs()
    found = evaluated(builtin, ("discs", pixels, labels), config=AutomaticConfig(eager=0)).to_dict()
    assert found["missed"] == 4
    assert found["effort_per_object"] == found["effort_prompting_only"]


def test_an_invented_object_costs_its_deletion(builtin: SamModel) -> None:
    pixels, labels = discs()
    labels[labels == 4] = 0
    found = evaluated(builtin, ("discs", pixels, labels)).to_dict()
    assert found["invented"] == 1
    assert found["effort_per_object"] == pytest.approx(2 / 3)


def test_sparse_labels_allow_few_figures(builtin: SamModel) -> None:
    pixels, labels = discs()
    labels[labels > 2] = 0
    found = evaluated(builtin, ("discs", pixels, labels), labels_are="sparse").to_dict()
    assert found["recall50"] == 1
    assert "msa" not in found
    assert "invented" not in found


def test_an_image_without_objects_has_no_effort(builtin: SamModel) -> None:
    pixels, labels = discs()
    found = evaluated(
        builtin, ("discs", pixels, labels), ("noise", pixels[::-1] * 0 + np.eye(200), labels * 0)
    ).to_dict()
    assert found["per_image"][1]["effort_per_object"] is None
    assert found["effort_per_object"] == pytest.approx(1 / 4)


def test_a_large_image_is_measured_as_a_whole(builtin: SamModel) -> None:
    """Objects at the borders of tiles are neither cut nor counted twice."""
    y, x = np.mgrid[:200, :1300]
    labels = np.zeros((200, 1300), int)
    for number, col in enumerate(range(60, 1300, 100), start=1):
        labels[(y - 100) ** 2 + (x - col) ** 2 <= 16**2] = number
    pixels = np.where(labels > 0, 200.0, 20.0) + np.random.default_rng(0).normal(0, 3, labels.shape)
    found = evaluated(builtin, ("slide", pixels, labels)).to_dict()
    assert (found["images"], found["objects"]) == (1, 13)
    assert (found["missed"], found["invented"], found["split"]) == (0, 0, 0)
    assert found["ap50"] == 1
    assert found["effort_per_object"] < found["effort_prompting_only"]
    nothing = AutomaticConfig(eager=0)
    found = evaluated(builtin, ("slide", pixels, labels), config=nothing).to_dict()
    assert found["effort_per_object"] == found["effort_prompting_only"]
