"""Endless random crops with a few prompted objects each, from generator and real images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from scipy import ndimage
from skimage.segmentation import find_boundaries
from torch import Tensor
from torch.nn import functional
from torch.utils.data import IterableDataset, get_worker_info

from napari_peftsam.errors import ImageError
from napari_peftsam.normalisation import normalise
from napari_peftsam.pretraining.synthetic import generate_any
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["Batch", "CropStream"]

_SMALLEST = 16  # pixels of a crop: smaller objects are not prompted
# What a whole image looks like in the model's frame: native pixels are enlarged up to so
# much, and objects are about so large. Larger ones, which fill a crop, teach a click to
# spread over neighbours.
_LEAST, _MOST = np.log((0.6, 7.0)), np.log((1.8, 80.0))  # zoom, diameter in model pixels


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops of `side` pixels and `K` objects each.

    Attributes
    ----------
    images
        ``(B, 3, side, side)`` in [0, 255].
    masks
        ``(B, K, side, side)`` boolean.
    dense
        ``(B, 3, side, side)``: foreground, normalised distance, boundary.
    """

    images: Tensor
    masks: Tensor
    dense: Tensor

    def to(self, device: str) -> Batch:
        """Return the batch on a torch device."""
        return Batch(self.images.to(device), self.masks.to(device), self.dense.to(device))


@dataclass(frozen=True, eq=False)
class CropStream(IterableDataset[Batch]):
    """Batches for `napari_peftsam.pretraining`.

    Every batch depends on the seed and its own number only, so that a resumed run sees
    what an uninterrupted one would have seen. Workers of a `DataLoader` take turns, as it
    does when it collects their batches: the sequence is the same for any number of them.

    Attributes
    ----------
    sides
        Crop sides in model pixels; each batch draws one of them.
    images
        Crops per batch of the smallest side; larger crops are fewer, for an equal area.
    objects
        Prompted objects per crop.
    seed
        Of everything that is drawn.
    real
        Pixels and labels of real images to mix in.
    real_share
        Probability that a crop comes from `real`.
    first
        Number of the first batch.
    """

    sides: Sequence[int]
    images: int
    objects: int
    seed: int
    real: Sequence[tuple[PixelArray, LabelArray]] = ()
    real_share: float = 0.25
    first: int = 0

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        turn, turns = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in count(self.first + turn, turns):
            rng = np.random.default_rng((self.seed, number))
            side = int(rng.choice(self.sides))
            images = max(1, round(self.images * (min(self.sides) / side) ** 2))
            crops = [self._crop(side, rng) for _ in range(images)]
            pixels, masks, dense = (torch.stack(parts) for parts in zip(*crops, strict=True))
            yield Batch(pixels, masks, dense)

    def _crop(self, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        while True:
            pixels, labels = self._source(side, rng)
            numbers, counts = np.unique(labels[labels > 0], return_counts=True)
            numbers = numbers[counts >= _SMALLEST]
            if numbers.size == 0:
                continue
            try:
                rgb = normalise(pixels)
            except ImageError:
                continue
            chosen = rng.choice(numbers, self.objects, replace=numbers.size < self.objects)
            masks = torch.from_numpy(labels[None] == chosen[:, None, None])
            image = torch.from_numpy(_jitter(rgb, rng)).permute(2, 0, 1)
            return image.contiguous(), masks, torch.from_numpy(_dense_target(labels))

    def _source(self, side: int, rng: np.random.Generator) -> tuple[PixelArray, LabelArray]:
        """Return a crop at model scale: a random native size, zoomed to `side`."""
        zoom, diameter = np.exp(rng.uniform(_LEAST, _MOST)).tolist()
        native = max(32, round(side / zoom))
        if self.real and rng.random() < self.real_share:
            pixels, labels = self.real[int(rng.integers(len(self.real)))]
            native = min(native, *labels.shape)
            top = rng.integers(labels.shape[0] - native + 1)
            left = rng.integers(labels.shape[1] - native + 1)
            window = np.s_[top : top + native, left : left + native]
            pixels, labels = pixels[window], labels[window]
        else:
            synthetic = generate_any((native, native), rng=rng, mean_diameter=diameter / zoom)
            pixels, labels = synthetic.image, synthetic.labels
        return _dihedral(*_zoom(pixels, labels, side), rng)


def _zoom(pixels: PixelArray, labels: LabelArray, side: int) -> tuple[PixelArray, LabelArray]:
    x = torch.from_numpy(np.atleast_3d(pixels).astype(np.float32)).permute(2, 0, 1)[None]
    x = functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    zoomed = x[0].permute(1, 2, 0).numpy()
    index = ((np.arange(side) + 0.5) * (labels.shape[0] / side)).astype(int)
    return (zoomed[..., 0] if pixels.ndim == 2 else zoomed), labels[np.ix_(index, index)]


def _dihedral(
    pixels: PixelArray, labels: LabelArray, rng: np.random.Generator
) -> tuple[PixelArray, LabelArray]:
    turns = int(rng.integers(4))
    pixels, labels = np.rot90(pixels, turns), np.rot90(labels, turns)
    if rng.random() < 0.5:
        pixels, labels = pixels[::-1], labels[::-1]
    return np.ascontiguousarray(pixels), np.ascontiguousarray(labels)


def _jitter(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary gamma, contrast and polarity: what normalisation leaves different."""
    unit = rgb / 255
    if rng.random() < 0.5:
        unit = unit ** np.exp(rng.uniform(-0.6, 0.6))
    if rng.random() < 0.1:
        unit = 1 - unit
    if rng.random() < 0.3:
        unit = unit * rng.uniform(0.6, 1) + rng.uniform(0, 0.3)
    return np.asarray(np.clip(unit * 255, 0, 255), np.float32)


def _dense_target(labels: LabelArray) -> np.ndarray:
    boundary = find_boundaries(labels, mode="inner")
    inside = (labels > 0) & ~boundary
    distance = ndimage.distance_transform_edt(inside)
    largest = ndimage.maximum(distance, labels, np.arange(labels.max() + 1))
    scale = np.maximum(np.asarray(largest, np.float32), 1)[labels]
    return np.stack([labels > 0, distance / scale, boundary]).astype(np.float32)
