"""One training step: encode a plane, prompt its objects in rounds, sum the losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from napari_peftsam.models import SamModel, encode_tensor
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training._samples import Sample
from napari_peftsam.training.losses import promptable_loss
from napari_peftsam.training.prompts import PromptSimulator

__all__ = ["sample_loss"]

# Side of the grid on which an object and its surroundings are compared with the truth.
# It follows the object, so that small ones count as much as large ones, at a fixed cost.
_GRID = 96


def sample_loss(
    model: SamModel,
    sample: Sample,
    rounds: int,
    generator: torch.Generator,
    first: PromptTensors | None = None,
) -> Tensor:
    """Return the mean loss over the rounds of prompts.

    Parameters
    ----------
    first
        First prompts of all objects of the sample; default: simulated.
    """
    patch = model.architecture.patch_size
    features = encode_tensor(model.sam, sample.image)
    left, top = sample.corner
    user = PromptSimulator(generator, (float(left), float(top)))
    known = _inside(sample.windows, sample.masks.shape[-1])
    target = _resample(sample.masks[:, None].float(), sample.windows, 1.0)
    prompts = first or user.first(sample.masks)
    losses = []
    for index in range(rounds):
        low, scores = decode(model.sam, features, prompts, (top // patch, left // patch))
        scale = low.shape[-1] / sample.masks.shape[-1]
        losses.append(
            promptable_loss(_resample(low.float(), sample.windows, scale), scores, target)
        )
        if index + 1 < rounds:
            best = low.detach()[torch.arange(len(low)), scores.argmax(1)][:, None]
            answer = _upsample(best, sample.masks.shape[-1])[:, 0]
            prompts = user.correct(prompts, answer, best, sample.masks, known)
    return torch.stack(losses).mean()


def _resample(x: Tensor, windows: Tensor, scale: float) -> Tensor:
    """Sample ``(B, K, h, w)`` on a fixed grid in each object's own window."""
    index = torch.arange(len(windows), device=windows.device, dtype=windows.dtype)[:, None]
    boxes = torch.cat([index, windows], dim=1)
    grid: Tensor = roi_align(x, boxes, _GRID, spatial_scale=scale, sampling_ratio=1, aligned=True)
    return grid


def _upsample(low: Tensor, side: int) -> Tensor:
    return functional.interpolate(low.float(), (side, side), mode="bilinear", align_corners=False)


def _inside(windows: Tensor, side: int) -> Tensor:
    """Return ``(B, S, S)`` boolean: pixels within each window."""
    centre = torch.arange(side, device=windows.device) + 0.5
    x0, y0, x1, y1 = (edge[:, None] for edge in windows.unbind(1))
    columns = (centre >= x0) & (centre <= x1)
    rows = (centre >= y0) & (centre <= y1)
    return rows[:, :, None] & columns[:, None, :]
