"""Sample data for napari's File ▸ Open Sample ▸ PEFT-SAM."""

from __future__ import annotations

from typing import Any

from napari_peftsam.samples import SyntheticName, shipped_samples, shipped_synthetic
from napari_peftsam.types import PixelArray

__all__ = ["sample_fluorescence", "sample_histology", "sample_membranes", "sample_phase"]

LayerData = tuple[PixelArray, dict[str, Any], str]


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


def _synthetic(modality: SyntheticName, name: str) -> list[LayerData]:
    return [(shipped_synthetic(modality), {"name": name, "rgb": False}, "image")]
