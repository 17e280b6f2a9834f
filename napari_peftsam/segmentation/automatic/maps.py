"""Dense maps of an image: where objects are, how deep inside them, and where they end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import nn

from napari_peftsam.embeddings import Embedding
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import SamModel
from napari_peftsam.models.orientations import mean_turned_back
from napari_peftsam.segmentation.region_labels import to_image_logits
from napari_peftsam.types import FloatArray, Frame

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["DenseMaps", "working_frame"]

_SMOOTHING = 1.0  # pixels


@dataclass(frozen=True, eq=False)
class DenseMaps:
    """Maps ``(H, W)`` in [0, 1] of one embedding, one convention whatever made them.

    They are in pixels of the image, or of the model's frame where the image is larger than it:
    the maps know no more than the frame.

    Attributes
    ----------
    foreground
        Probability that a pixel is part of an object.
    depth
        Distance to the object's border as a share of its largest: 1 where it is deepest.
    boundary
        Probability that a pixel is at an object's border, to background and neighbours alike.
    frame
        Of the maps; as high and wide as they are.
    """

    foreground: FloatArray
    depth: FloatArray
    boundary: FloatArray
    frame: Frame

    @classmethod
    def of(cls, model: SamModel, embedding: Embedding, head: nn.Module | None = None) -> Self:
        """Compute the maps.

        Parameters
        ----------
        head
            Maps an embedding ``(1, C, h, w)`` to logits ``(1, 3, 4 h, 4 w)``; default: the
            model's own.

        Raises
        ------
        ConfigurationError
            If there is no head.
        """
        head = head or model.dense_head
        if head is None:
            raise ConfigurationError(
                f"{model.name} has no head for automatic segmentation: finetune it on a few "
                "labelled objects first, or load the built-in model"
            )
        frame = working_frame(embedding.frame)
        with torch.inference_mode():
            seen = embedding.tensors(model.device)
            logits = mean_turned_back([head(one).float() for one in seen])
            maps = to_image_logits(logits, frame)[0].sigmoid().cpu()
            return cls.smoothed(maps.numpy(), frame)

    @classmethod
    def smoothed(cls, maps: npt.NDArray[np.float32], frame: Frame) -> Self:
        """Smooth maps ``(3, H, W)`` by a pixel; else the seeds of neighbours fall apart."""
        from scipy.ndimage import gaussian_filter

        foreground, depth, boundary = (gaussian_filter(each, _SMOOTHING) for each in maps)
        return cls(foreground, depth, boundary, frame)

    @property
    def landscape(self) -> FloatArray:
        """What is flooded from the seeds: low where an object is deep, high at borders."""
        return 0.5 * (1 - self.depth) + 0.5 * self.boundary


def working_frame(frame: Frame) -> Frame:
    """Return the frame of maps: the image's, scaled down to the model's if it is larger."""
    return frame if frame.scale >= 1 else Frame(*frame.inner, frame.size)


def steps_of(frame: Frame, work: Frame) -> tuple[float, float]:
    """Return pixels of the image per pixel of the maps, along rows and columns."""
    return frame.height / work.height, frame.width / work.width
