"""Endless random crops with a few prompted objects each, from generator and real images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import IterableDataset, get_worker_info

from napari_peftsam.errors import ImageError
from napari_peftsam.normalisation import normalise
from napari_peftsam.pretraining.synthetic import generate_any
from napari_peftsam.training.dense import dense_target
from napari_peftsam.types import LabelArray, PixelArray

_PART, _WHOLE, _GROUP = range(3)
_LEVEL_SHARES = (0.35, 0.4, 0.25)  # how often each level of nested objects is prompted
_SMALLEST = 16  # pixels of a crop: smaller objects are not prompted
# Zoom of native pixels, and diameter of objects in model pixels, as in a whole image in the
# model's frame. Larger objects, which fill a crop, teach a click to spread over neighbours.
_LEAST, _MOST = np.log((0.6, 7.0)), np.log((1.8, 80.0))


@dataclass(frozen=True, eq=False)
class Batch:
    """Crops of one size and `K` objects each.

    Attributes
    ----------
    images
        ``(B, 3, H, W)`` in [0, 255].
    masks
        ``(B, K, H, W)`` boolean; all False in a crop without an object.
    levels
        ``(B, K, 3, H, W)`` boolean: part, whole and group that each object stands for; all False
        where objects are not nested.
    dense
        ``(B, 3, H, W)``: foreground, depth (the distance to the object's border divided by its
        maximum in the object), boundary.
    """

    images: Tensor
    masks: Tensor
    levels: Tensor
    dense: Tensor

    def to(self, device: str) -> Batch:
        """Return the batch on a torch device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class CropStream(IterableDataset[Batch]):
    """Batches without end; options as in `PretrainingConfig`.

    Every batch depends only on the seed and its own number, so that a resumed run sees the
    same batches as an uninterrupted one, with any number of workers of a `DataLoader`.
    Larger crops are fewer per batch, for an equal area.
    """

    sides: Sequence[int]
    images: int
    objects: int
    seed: int
    real: Sequence[tuple[PixelArray, LabelArray]] = ()  # pixels and labels to mix in
    real_share: float = 0.25
    first: int = 0  # number of the first batch

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        turn, turns = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in count(self.first + turn, turns):
            rng = np.random.default_rng((self.seed, number))
            side = int(rng.choice(self.sides))
            images = max(1, round(self.images * (min(self.sides) / side) ** 2))
            crops = [self._crop(side, rng) for _ in range(images)]
            yield Batch(*(torch.stack(parts) for parts in zip(*crops, strict=True)))

    def _crop(self, side: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Return the parts of a `Batch` for one crop."""
        while True:
            pixels, maps = self._source(side, rng)
            labels = maps[_WHOLE]
            numbers, counts = np.unique(labels[labels > 0], return_counts=True)
            large = numbers[counts >= _SMALLEST]
            if numbers.size and not large.size:
                continue
            try:
                rgb = normalise(pixels)
            except ImageError:
                continue
            masks, levels = _objects(maps, large, self.objects, rng)
            image = torch.from_numpy(jitter(rgb, rng)).permute(2, 0, 1).contiguous()
            dense = torch.from_numpy(dense_target(labels))
            return image, torch.from_numpy(masks), torch.from_numpy(levels), dense

    def _source(self, side: int, rng: np.random.Generator) -> tuple[PixelArray, LabelArray]:
        """Return a crop of random native size, zoomed to `side`; labels ``(3, side, side)``."""
        zoom, diameter = np.exp(rng.uniform(_LEAST, _MOST)).tolist()
        native = max(32, round(side / zoom))
        if self.real and rng.random() < self.real_share:
            pixels, labels = self.real[int(rng.integers(len(self.real)))]
            native = min(native, *labels.shape)
            top = rng.integers(labels.shape[0] - native + 1)
            left = rng.integers(labels.shape[1] - native + 1)
            window = np.s_[top : top + native, left : left + native]
            pixels, labels = pixels[window], labels[window]
            nothing = np.zeros_like(labels)
            maps = np.stack([nothing, labels, nothing])
        else:
            made = generate_any((native, native), rng=rng, mean_diameter=diameter / zoom)
            nothing = np.zeros_like(made.labels)
            parts, groups = (nothing if m is None else m for m in (made.parts, made.groups))
            pixels, maps = made.image, np.stack([parts, made.labels, groups])
        return _dihedral(*_zoom(pixels, maps, side), rng)


def _objects(
    maps: LabelArray, numbers: LabelArray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Choose `count` objects and return the prompted masks and the levels they stand for.

    Of nested objects a random level is prompted; a part or a group that is too small, or not
    there, leaves the object itself.
    """
    side = maps.shape[-1]
    masks = np.zeros((count, side, side), bool)
    levels = np.zeros((count, len(maps), side, side), bool)
    if not numbers.size:
        return masks, levels
    nested = bool(maps[_PART].any())
    chosen = rng.choice(numbers, count, replace=numbers.size < count)
    for index, number in enumerate(chosen):
        whole = maps[_WHOLE] == number
        masks[index] = whole
        if not nested:
            continue
        group = maps[_GROUP] == np.bincount(maps[_GROUP][whole]).argmax()
        levels[index] = maps[_PART] == number, whole, group & (maps[_GROUP] > 0)
        prompted = levels[index, rng.choice(len(maps), p=_LEVEL_SHARES)]
        if prompted.sum() >= _SMALLEST:
            masks[index] = prompted
    return masks, levels


def _zoom(pixels: PixelArray, maps: LabelArray, side: int) -> tuple[PixelArray, LabelArray]:
    x = torch.from_numpy(np.atleast_3d(pixels).astype(np.float32)).permute(2, 0, 1)[None]
    x = functional.interpolate(x, (side, side), mode="bilinear", antialias=True)
    zoomed = x[0].permute(1, 2, 0).numpy()
    index = ((np.arange(side) + 0.5) * (maps.shape[-1] / side)).astype(int)
    return (zoomed[..., 0] if pixels.ndim == 2 else zoomed), maps[:, index[:, None], index]


def _dihedral(
    pixels: PixelArray, maps: LabelArray, rng: np.random.Generator
) -> tuple[PixelArray, LabelArray]:
    turns = int(rng.integers(4))
    pixels, maps = np.rot90(pixels, turns), np.rot90(maps, turns, axes=(1, 2))
    if rng.random() < 0.5:
        pixels, maps = pixels[::-1], maps[:, ::-1]
    return np.ascontiguousarray(pixels), np.ascontiguousarray(maps)


def jitter(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Vary gamma, contrast and polarity, which normalisation leaves different."""
    unit = rgb / 255
    if rng.random() < 0.5:
        unit = unit ** np.exp(rng.uniform(-0.6, 0.6))
    if rng.random() < 0.1:
        unit = 1 - unit
    if rng.random() < 0.3:
        unit = unit * rng.uniform(0.6, 1) + rng.uniform(0, 0.3)
    return np.asarray(np.clip(unit * 255, 0, 255), np.float32)
