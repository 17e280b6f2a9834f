"""The recommended first model, by the image and by the device."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import (
    REGISTRY,
    ImageKind,
    device_memory,
    guess_image_kind,
    recommend,
)
from napari_peftsam.pretraining.synthetic import generate
from napari_peftsam.types import PixelArray

GB = 10**9


@pytest.mark.parametrize(
    ("kind", "memory", "name"),
    [
        pytest.param("light", None, "builtin", id="no GPU"),
        pytest.param("electron", None, "builtin", id="no GPU, electron microscopy"),
        pytest.param("light", 4 * GB, "builtin", id="tiny GPU"),
        pytest.param("light", 8 * GB, "vit_b_lm", id="small GPU"),
        pytest.param("electron", 8 * GB, "vit_b_em_organelles", id="small GPU, EM"),
        pytest.param("colour", 8 * GB, "vit_b", id="small GPU, colour"),
        pytest.param("light", 24 * GB, "vit_l_lm", id="large GPU"),
        pytest.param("electron", 24 * GB, "vit_l_em_organelles", id="large GPU, EM"),
        pytest.param("colour", 24 * GB, "vit_l", id="large GPU, colour"),
    ],
)
def test_the_recommendation_fits_image_and_device(
    kind: ImageKind, memory: int | None, name: str
) -> None:
    found, reason = recommend(kind, memory)
    assert found == name
    assert name in REGISTRY
    assert reason


def test_the_cpu_has_no_memory_of_its_own() -> None:
    assert device_memory("cpu") is None
    with pytest.raises(ConfigurationError, match="unknown device"):
        device_memory("tpu")


def _synthetic(modality: str) -> PixelArray:
    return generate(modality, (300, 400), rng=np.random.default_rng(3), mean_diameter=30).image


def _grey(pixels: PixelArray) -> PixelArray:
    return np.repeat(pixels[..., None], 3, axis=-1)


@pytest.mark.parametrize(
    ("pixels", "rgb", "kind"),
    [
        pytest.param(_synthetic("fluorescence"), False, "light", id="fluorescence"),
        pytest.param(_grey(_synthetic("fluorescence")), True, "light", id="grey saved as colour"),
        pytest.param(_synthetic("histology"), True, "colour", id="histology"),
        pytest.param(_synthetic("phase"), False, None, id="phase contrast"),
        pytest.param(_synthetic("electron"), False, None, id="electron microscopy"),
        pytest.param(np.full((20, 20), 7, np.uint8), False, None, id="constant"),
        pytest.param(np.full((20, 20), np.nan), False, None, id="not a number"),
    ],
)
def test_the_kind_of_an_image_is_guessed_only_if_it_shows(
    pixels: PixelArray, rgb: bool, kind: ImageKind | None
) -> None:
    assert guess_image_kind(pixels, rgb) == kind
