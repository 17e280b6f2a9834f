"""Recommendation of a model by kind of image and device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from napari_peftsam.types import PixelArray

__all__ = ["IMAGE_KINDS", "ImageKind", "Recommendation", "guess_image_kind", "recommend"]

ImageKind = Literal["light", "electron", "colour"]
"""The kinds of images that models differ in: light microscopy (fluorescence, phase contrast,
brightfield), electron microscopy, colour images (stained tissue, photographs)."""

IMAGE_KINDS: dict[ImageKind, str] = dict(
    zip(
        get_args(ImageKind),
        ("light microscopy", "electron microscopy", "histology, colour"),
        strict=True,
    )
)
"""Their names for people."""

# The larger and the smaller real checkpoint for each kind, names of the registry.
_LARGE: dict[ImageKind, str] = {
    "light": "vit_l_lm", "electron": "vit_l_em_organelles", "colour": "vit_l",
}  # fmt: skip
_BASE: dict[ImageKind, str] = {
    "light": "vit_b_lm", "electron": "vit_b_em_organelles", "colour": "vit_b",
}  # fmt: skip
_OFFLINE = "builtin"
# Below, a model can annotate but hardly be finetuned. micro-sam's users report ViT-B to be
# tight on 8 to 10 GB (its issues 893, 1015 and 1038).
_BASE_BYTES, _LARGE_BYTES = 7 * 10**9, 16 * 10**9
_SAMPLED = 256  # pixels of each side that a guess looks at
_COLOURED = 6.0  # of 255: a mean difference between channels that is no compression artefact
_DARK = 0.25  # fluorescence leaves most of the image in this share of its range


@dataclass(frozen=True)
class Recommendation:
    """A name of the registry, and why it is recommended, in one sentence."""

    name: str
    reason: str


def recommend(kind: ImageKind, gpu_memory: int | None) -> Recommendation:
    """Return the model to start with.

    Parameters
    ----------
    kind
        What the images are.
    gpu_memory
        Bytes of the GPU that it will run on, see `napari_peftsam.models.device_memory`;
        None for the CPU.
    """
    what = IMAGE_KINDS[kind]
    if gpu_memory is None:
        return Recommendation(
            _OFFLINE,
            "without a GPU the others take about ten seconds per image, and minutes for a few "
            f"steps of finetuning; to annotate only, {_BASE[kind]} is worth the wait",
        )
    gigabytes = f"{gpu_memory / 1e9:.0f} GB"
    if gpu_memory < _BASE_BYTES:
        return Recommendation(
            _OFFLINE,
            f"{gigabytes} are little to finetune the others with; to annotate only, "
            f"{_BASE[kind]} is better for {what}",
        )
    if gpu_memory < _LARGE_BYTES:
        return Recommendation(
            _BASE[kind], f"for {what}; finetuning the larger ones wants more than {gigabytes}"
        )
    return Recommendation(_LARGE[kind], f"the best there is for {what}, for which {gigabytes} do")


def guess_image_kind(pixels: PixelArray, rgb: bool = False) -> ImageKind | None:
    """Guess what an image is from a sample of its pixels; None if that cannot be told.

    Colour, and the dark background of fluorescence, are recognised. Grey images in the
    middle of their range may be phase contrast or electron microscopy: only the user knows.

    Parameters
    ----------
    pixels
        ``(H, W)``, or ``(H, W, 3 or 4)`` with `rgb`.
    rgb
        Whether the last axis is colour.
    """
    steps = tuple(max(1, side // _SAMPLED) for side in pixels.shape[:2])
    sample = np.asarray(pixels[:: steps[0], :: steps[1]], np.float32)
    finite = sample[np.isfinite(sample)]
    if finite.size == 0 or finite.min() == finite.max():
        return None
    low, high = (float(v) for v in np.percentile(finite, (1, 99.8)))
    if rgb:
        scale = 255 / max(high - low, 1e-6)
        channels = np.clip((sample[..., :3] - low) * scale, 0, 255)
        if float(np.ptp(channels, axis=-1).mean()) > _COLOURED:
            return "colour"
    return "light" if float(np.median(finite)) < low + _DARK * (high - low) else None
