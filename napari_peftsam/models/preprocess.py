"""The only way pixels enter a model: normalise, resize, pad."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from napari_peftsam.models.model import SamModel
from napari_peftsam.normalisation import Limits, normalise
from napari_peftsam.types import Frame, PixelArray

__all__ = ["frame_of", "resize_to_frame", "standardise", "to_model_input"]


def frame_of(pixels: PixelArray, model: SamModel) -> Frame:
    """Return how an image plane ``(H, W[, C])`` sits in the input of `model`."""
    return Frame(pixels.shape[0], pixels.shape[1], model.image_size)


def to_model_input(pixels: PixelArray, model: SamModel, limits: Limits | None = None) -> Tensor:
    """Return model input ``(1, 3, S, S)``, float32, on the model's device.

    `limits` are those of the whole image where `pixels` are a tile of a large one.

    Raises
    ------
    ImageError
        If the image cannot be normalised, see `napari_peftsam.normalisation.normalise`.
    """
    frame = frame_of(pixels, model)
    rgb = torch.from_numpy(normalise(pixels, limits)).permute(2, 0, 1)[None].to(model.device)
    return resize_to_frame(standardise(rgb, model), frame)


def standardise(rgb: Tensor, model: SamModel) -> Tensor:
    """Subtract SAM's channel means and divide by its deviations; ``(B, 3, H, W)``."""
    standardised: Tensor = (rgb - model.sam.pixel_mean) / model.sam.pixel_std
    return standardised


def resize_to_frame(x: Tensor, frame: Frame) -> Tensor:
    """Scale ``(B, C, H, W)`` to the frame's inner size and pad with zeros to the square."""
    height, width = frame.inner
    if x.shape[-2:] != (height, width):
        x = functional.interpolate(
            x, (height, width), mode="bilinear", antialias=True, align_corners=False
        )
    return functional.pad(x, (0, frame.size - width, 0, frame.size - height))
