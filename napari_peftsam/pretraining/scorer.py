"""The general prior of proposal scores, fitted on synthetic images.

``python -m napari_peftsam.pretraining scorer DATA OUTPUT`` proposes objects in synthetic images,
fits the prior on them, and writes it. Then it prints what the prior reaches in the labelled images
of each domain in ``DATA``, of which it saw none. A prior that is fitted on real images of a few
domains knows these, and is worse in others than one of synthetic images (``docs/automatic.md``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_peftsam.embeddings import encode_one
from napari_peftsam.models import SamModel
from napari_peftsam.normalisation import normalise
from napari_peftsam.pretraining.data import jitter
from napari_peftsam.pretraining.synthetic import generate_any
from napari_peftsam.segmentation import Predictor
from napari_peftsam.segmentation.automatic import (
    FEATURES,
    ScorerPrior,
    best_ious,
    features_of,
    propose_in_frame,
)
from napari_peftsam.types import LabelArray, PixelArray

Floats = npt.NDArray[np.float64]

DOMAINS = ("dsb_fluo", "dsb_histo", "phase_cells", "em_axons")
IMAGES = 260

_DIAMETERS = np.log((10.0, 60.0))  # of objects, in pixels of the model's frame
_NETWORKS = 3  # one alone differs from seed to seed by 0.02 in AP50
_HIDDEN = 32
_STEPS, _BATCH, _RATE, _DECAY = 2000, 1024, 3e-3, 1e-2
_DROPOUT = 0.2


@dataclass(frozen=True, eq=False)
class ProposedImage:
    """The proposals of a labelled image; `ious` are those with the best true object."""

    features: Floats = field(repr=False)
    ious: Floats = field(repr=False)

    @classmethod
    def of(cls, model: SamModel, pixels: PixelArray, labels: LabelArray) -> Self:
        """Propose objects in an image."""
        proposals, _ = propose_in_frame(Predictor(model), encode_one(model, pixels))
        features = features_of(proposals).astype(np.float64)
        return cls(features, best_ious(proposals, labels))


def synthetic_images(
    model: SamModel, count: int = IMAGES, seed: int = 0, sides: Sequence[int] = (256, 384, 512)
) -> Iterator[ProposedImage]:
    """Propose objects in synthetic images, one by one; each depends on the seed and its number.

    They are square, of one of the `sides` in pixels.
    """
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        side, diameter = int(rng.choice(sides)), float(np.exp(rng.uniform(*_DIAMETERS)))
        scale = side / model.architecture.image_size
        made = generate_any((side, side), rng=rng, mean_diameter=diameter * scale)
        # To embed it normalises it again: of the jitter, gamma and polarity stay.
        yield ProposedImage.of(model, jitter(normalise(made.image), rng), made.labels)


def fit_prior(images: Sequence[ProposedImage], seed: int = 0) -> ScorerPrior:
    """Fit networks of two hidden layers to the IoU, and to whether it is at least one half.

    The prior is one network that gives the mean of their logits. Every image counts the same,
    however many proposals it has.
    """
    known = [image for image in images if len(image.features)]
    features = np.concatenate([image.features for image in known])
    ious = np.concatenate([image.ious for image in known])
    weights = np.concatenate([np.full(len(i.features), 1 / len(i.features)) for i in known])
    tensors = {"mean": features.mean(axis=0), "deviation": features.std(axis=0) + 1e-3}
    inputs = torch.from_numpy(ScorerPrior(tensors).standardised(features)).float()
    targets = torch.from_numpy(np.stack([ious, ious >= 0.5], axis=1)).float()
    weight = torch.from_numpy(weights / weights.mean()).float()
    networks = [_fitted(inputs, targets, weight, seed + each) for each in range(_NETWORKS)]
    first, *middle, last = zip(*networks, strict=True)
    layers = [
        (torch.cat([each.weight for each in first]), [each.bias for each in first]),
        *(
            (torch.block_diag(*(each.weight for each in m)), [each.bias for each in m])
            for m in middle
        ),
        (
            torch.cat([each.weight for each in last], dim=1) / _NETWORKS,
            [sum(each.bias for each in last) / _NETWORKS],
        ),
    ]
    for number, (matrix, biases) in enumerate(layers):
        tensors[f"weight{number}"] = matrix.detach().double().numpy().T
        tensors[f"bias{number}"] = torch.cat(biases).detach().double().numpy()
    return ScorerPrior(tensors)


def _fitted(inputs: Tensor, targets: Tensor, weight: Tensor, seed: int) -> list[nn.Linear]:
    """Return the layers of one network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(len(FEATURES), _HIDDEN),
            nn.ReLU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, 2),
        )
        optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=_DECAY)
        for step in range(_STEPS):
            optimiser.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
            chosen = torch.randint(len(inputs), (_BATCH,), generator=generator)
            loss = functional.binary_cross_entropy_with_logits(
                network(inputs[chosen]), targets[chosen], reduction="none"
            )
            optimiser.zero_grad()
            (loss.sum(1) * weight[chosen]).mean().backward()
            optimiser.step()
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def write_prior(prior: ScorerPrior, path: Path) -> None:
    """Write a prior in half precision, a few kilobytes."""
    exact = ("mean", "deviation")
    small: dict[str, Any] = {
        name: values.astype(np.float32 if name in exact else np.float16)
        for name, values in prior.tensors.items()
    }
    np.savez_compressed(path, **small)
