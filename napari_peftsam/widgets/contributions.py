"""Sample data for napari's File ▸ Open Sample ▸ PEFT-SAM."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_peftsam.samples import generate, shipped_samples
from napari_peftsam.types import PixelArray

__all__ = ["sample_fluorescence", "sample_histology", "sample_membranes", "sample_phase"]

LayerData = tuple[PixelArray, dict[str, Any], str]

_SHAPE = (384, 384)
_SEED = 1
_DIAMETER = 32.0  # px; large enough to click on without zooming in


def sample_histology() -> list[LayerData]:
    """Return the shipped H&E images to annotate; one at a time is visible."""
    return [
        (sample.read()[0], {"name": sample.name, "rgb": True, "visible": index == 0}, "image")
        for index, sample in enumerate(shipped_samples("train"))
    ]


def sample_fluorescence() -> list[LayerData]:
    """Return an image of fluorescent nuclei."""
    return _synthetic("fluorescence", "fluorescent nuclei")


def sample_phase() -> list[LayerData]:
    """Return a phase-contrast image of cells."""
    return _synthetic("phase", "phase-contrast cells")


def sample_membranes() -> list[LayerData]:
    """Return an image of stained membranes."""
    return _synthetic("membranes", "stained membranes")


def _synthetic(modality: str, name: str) -> list[LayerData]:
    rng = np.random.default_rng(_SEED)
    sample = generate(modality, _SHAPE, rng=rng, mean_diameter=_DIAMETER)
    return [(sample.image, {"name": name, "rgb": sample.image.ndim > 2}, "image")]
