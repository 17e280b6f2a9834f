"""Synthetic microscopy: images with exact instance labels, from a seed.

An endless training set for small promptable segmentation models. Every
modality draws its objects first (`_shapes`, `_tiling`), labels included, and
then an image of them, so that labels follow the true outlines and not the
blurred ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._electron import electron
from ._fields import IntArray, log_uniform
from ._histology import histology
from ._modalities import dark_on_light, fluorescence, membranes, textured
from ._phase import phase
from ._scene import Scene

__all__ = ["MODALITIES", "SyntheticImage", "generate", "generate_any"]

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
_Renderer = Callable[[np.random.Generator, tuple[int, int], float], tuple[Pixels, Scene]]

_RENDERERS: dict[str, _Renderer] = {
    "fluorescence": fluorescence,
    "dark_on_light": dark_on_light,
    "histology": histology,
    "phase": phase,
    "membranes": membranes,
    "texture": textured,
    "electron": electron,
}

MODALITIES: tuple[str, ...] = tuple(_RENDERERS)

# What "any" modality is drawn from: the two that models find hardest come twice.
_ANY: tuple[str, ...] = (*MODALITIES, "phase", "histology")

# Object diameters in px when the caller does not ask for one.
_DIAMETERS = (6.0, 100.0)


@dataclass(frozen=True)
class SyntheticImage:
    """An image and its instances.

    Attributes
    ----------
    image
        (H, W), or (H, W, 3) for "histology"; uint8 or uint16.
    labels
        (H, W) int32: 0 = background, objects 1..n, each 4-connected.
    modality
        One of `MODALITIES`.
    """

    image: Pixels
    labels: IntArray
    modality: str


def _check(modality: str, shape: tuple[int, int], mean_diameter: float | None) -> None:
    if modality not in _RENDERERS:
        raise ValueError(f"unknown modality {modality!r}; use one of {', '.join(MODALITIES)}")
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive numbers of pixels, not {shape!r}")
    if mean_diameter is not None and not mean_diameter > 0:
        raise ValueError(f"mean_diameter must be positive, not {mean_diameter!r}")


def generate(
    modality: str,
    shape: tuple[int, int] = (256, 256),
    *,
    rng: np.random.Generator,
    mean_diameter: float | None = None,
) -> SyntheticImage:
    """Draw one image.

    Parameters
    ----------
    modality
        One of `MODALITIES`.
    shape
        (H, W) in px.
    rng
        Source of all randomness: the same state gives the same image.
    mean_diameter
        Equivalent diameter of the objects in px; None draws it log-uniformly
        from 6..100 px. Overlaps and the image edge make some objects smaller.
        Modalities whose structure needs room raise it: "electron" and
        "membranes" to 8, "phase" to 24, "texture" to 16 px.

    Returns
    -------
    SyntheticImage
        Image, labels and modality.

    Raises
    ------
    ValueError
        Unknown modality, empty shape or a diameter that is not positive.
    """
    _check(modality, shape, mean_diameter)
    diameter = log_uniform(rng, *_DIAMETERS) if mean_diameter is None else mean_diameter
    height, width = (int(n) for n in shape)
    image, scene = _RENDERERS[modality](rng, (height, width), float(diameter))
    return SyntheticImage(image, scene.labels, modality)


def generate_any(
    shape: tuple[int, int], *, rng: np.random.Generator, mean_diameter: float | None = None
) -> SyntheticImage:
    """Draw one image of a random modality, phase contrast and histology most often.

    Parameters and errors as in `generate`.
    """
    modality = _ANY[rng.integers(len(_ANY))]
    return generate(modality, shape, rng=rng, mean_diameter=mean_diameter)
