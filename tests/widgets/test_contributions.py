"""What napari.yaml promises exists and does what it says."""

from __future__ import annotations

from collections.abc import Callable

import napari
import numpy as np
import pytest

from napari_peftsam.widgets import contributions

SAMPLES = ("histology", "fluorescence", "phase", "membranes")


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_images_that_a_viewer_takes(
    make_napari_viewer: Callable[..., napari.Viewer], name: str
) -> None:
    layers = getattr(contributions, f"sample_{name}")()
    viewer = make_napari_viewer()
    for data, options, kind in layers:
        assert kind == "image"
        viewer.add_image(data, **options)
    assert sum(layer.visible for layer in viewer.layers) == 1


@pytest.mark.parametrize("name", SAMPLES[1:])
def test_synthetic_samples_are_always_the_same(name: str) -> None:
    first, second = (getattr(contributions, f"sample_{name}")()[0][0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
