"""Generator of synthetic microscopy images with exact instance labels, from a seed.

Every modality draws its objects first, and then an image of them: labels follow the true outlines
and not the blurred ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ._electron import electron, nested, organelles
from ._fields import IntArray, Rng, Shape, log_uniform
from ._grey import branching, dark_on_light, empty, fluorescence, textured
from ._packed import membranes, tissue
from ._render import Pixels, Rendered, imperfect
from ._transmitted import flat_phase, histology, phase, smear

__all__ = [
    "MODALITIES",
    "SyntheticImage",
    "generate",
    "generate_any",
    "generate_empty",
    "imperfect",
]

_Renderer = Callable[[Rng, Shape, float], Rendered]

_RENDERERS: dict[str, _Renderer] = {
    "fluorescence": fluorescence,
    "dark_on_light": dark_on_light,
    "histology": histology,
    "phase": phase,
    "membranes": membranes,
    "texture": textured,
    "electron": electron,
    "nested": nested,
    "smear": smear,
    "flat_phase": flat_phase,
    "tissue": tissue,
    "organelles": organelles,
    "branching": branching,
}

MODALITIES: tuple[str, ...] = tuple(_RENDERERS)

# What "any" modality is drawn from: those that models find hardest come twice or more often.
_ANY: tuple[str, ...] = (*MODALITIES, "phase", "flat_phase", "histology", "histology", "electron")

_EMPTY_SHARE = 0.03
_IMPERFECT_SHARE = 0.3

# Object diameters in pixels when the caller does not ask for one.
_DIAMETERS = (6.0, 100.0)


@dataclass(frozen=True)
class SyntheticImage:
    """An image and its instances.

    Attributes
    ----------
    image
        (H, W), or (H, W, 3) for "histology" and some of "smear" and "tissue"; uint8 or uint16.
    labels
        (H, W) int32: 0 = background, objects 1..n, each 4-connected.
    modality
        One of `MODALITIES`, or "empty".
    parts, groups
        (H, W) int32 for "nested": the nucleus of each cell, with the cell's id, and the
        cluster it belongs to, with ids of its own. Otherwise None.
    """

    image: Pixels
    labels: IntArray
    modality: str
    parts: IntArray | None = None
    groups: IntArray | None = None


def generate(
    modality: str,
    shape: tuple[int, int] = (256, 256),
    *,
    rng: Rng,
    mean_diameter: float | None = None,
) -> SyntheticImage:
    """Draw an image of one of `MODALITIES`; the same state of `rng` gives the same image.

    Parameters
    ----------
    modality
        One of `MODALITIES`.
    shape
        (H, W) in pixels.
    rng
        Source of all randomness.
    mean_diameter
        Equivalent diameter of the objects in pixels; None draws it log-uniformly from 6..100.
        Overlaps and the image edge make some objects smaller. Modalities whose structure needs
        room raise it: "electron" and "membranes" to 8, "organelles", "smear" and "tissue" to 10,
        "texture" to 16, "nested" to 20, "phase" and "flat_phase" to 24. Objects of "branching"
        are thin: it sets their length.

    Raises
    ------
    ValueError
        If the modality is unknown, the shape empty or the diameter not positive.
    """
    if modality not in _RENDERERS:
        raise ValueError(f"unknown modality {modality!r}; use one of {', '.join(MODALITIES)}")
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive numbers of pixels, not {shape!r}")
    if mean_diameter is not None and not mean_diameter > 0:
        raise ValueError(f"mean_diameter must be positive, not {mean_diameter!r}")
    diameter = log_uniform(rng, *_DIAMETERS) if mean_diameter is None else mean_diameter
    height, width = (int(n) for n in shape)
    image, scene = _RENDERERS[modality](rng, (height, width), float(diameter))
    return SyntheticImage(image, scene.labels, modality, scene.parts, scene.groups)


def generate_any(
    shape: tuple[int, int], *, rng: Rng, mean_diameter: float | None = None
) -> SyntheticImage:
    """Draw one image of a random modality, sometimes empty or with faults of a camera.

    Phase contrast, histology and electron microscopy come most often. Parameters and errors
    are those of `generate`.
    """
    if rng.random() < _EMPTY_SHARE:
        made = generate_empty(shape, rng=rng)
    else:
        modality = _ANY[rng.integers(len(_ANY))]
        made = generate(modality, shape, rng=rng, mean_diameter=mean_diameter)
    if rng.random() < _IMPERFECT_SHARE:
        made = replace(made, image=imperfect(rng, made.image))
    return made


def generate_empty(shape: tuple[int, int], *, rng: Rng) -> SyntheticImage:
    """Draw an image without an object: a bare ground, or one with debris."""
    image, scene = empty(rng, shape, log_uniform(rng, *_DIAMETERS))
    return SyntheticImage(image, scene.labels, "empty")
