"""Recommendation of a model by kind of image and device."""

from __future__ import annotations

from typing import Literal

import numpy as np

from napari_peftsam.types import PixelArray

__all__ = ["IMAGE_KINDS", "ImageKind", "guess_image_kind", "recommend", "recommend_frame"]

ImageKind = Literal["light", "electron", "colour"]
"""The kinds of images that models differ in: light microscopy (fluorescence, phase contrast,
brightfield), electron microscopy, colour images (stained tissue, photographs)."""

IMAGE_KINDS: dict[ImageKind, str] = {
    "light": "light microscopy", "electron": "electron microscopy", "colour": "histology, colour",
}  # fmt: skip
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
_SMALL_FRAME = 512  # pixels
_COLOURED = 6.0  # of 255: a mean difference between channels that is no compression artefact
_DARK = 0.25  # fluorescence leaves most of the image in this share of its range


def recommend(kind: ImageKind, gpu_memory: int | None) -> tuple[str, str]:
    """Return the name of the model to start with, and the reason in one sentence.

    Parameters
    ----------
    gpu_memory
        Bytes of the GPU that it will run on, see `napari_peftsam.models.device_memory`;
        None for the CPU.
    """
    what, base = IMAGE_KINDS[kind], _BASE[kind]
    if gpu_memory is None:
        return _OFFLINE, (
            "without a GPU the others take about ten seconds per image, and minutes for a few "
            f"steps of finetuning; to annotate only, {base} is worth the wait"
        )
    gigabytes = f"{gpu_memory / 1e9:.0f} GB"
    if gpu_memory < _BASE_BYTES:
        reason = f"{gigabytes} are little to finetune the others with; to annotate only, "
        return _OFFLINE, f"{reason}{base} is better for {what}"
    if gpu_memory < _LARGE_BYTES:
        return base, f"for {what}; finetuning the larger ones wants more than {gigabytes}"
    return _LARGE[kind], f"the best there is for {what}, for which {gigabytes} do"


def recommend_frame(shape: tuple[int, ...], gpu_memory: int | None) -> tuple[int | None, str]:
    """Return the frame to load Segment Anything with for planes of a shape, and the reason.

    None is the frame of the checkpoint. `gpu_memory` is as of `recommend`.
    """
    if gpu_memory is not None or max(shape) > _SMALL_FRAME:
        return None, ""
    return _SMALL_FRAME, (
        f"images up to {_SMALL_FRAME} pixels lose no detail in it, and without a GPU they are "
        "embedded about five times and finetuned about four times faster than at 1024; it "
        "was trained at 1024, so finetune it before you judge it"
    )


def guess_image_kind(pixels: PixelArray, rgb: bool = False) -> ImageKind | None:
    """Guess the kind of an image ``(H, W)``, with `rgb` ``(H, W, 3 or 4)``, from a sample.

    Colour, and the dark background of fluorescence, are recognised. Grey images in the
    middle of their range may be phase contrast or electron microscopy: None, ask the user.
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
