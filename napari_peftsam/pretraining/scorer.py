"""The general prior of proposal scores, fitted on labelled images of several domains.

``python -m napari_peftsam.pretraining scorer DATA`` proposes objects in every image, fits the prior
on all of them and writes it where the package reads it. Before, it prints for each domain what a
prior reaches that saw the other domains only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from napari_peftsam.embeddings import encode_one
from napari_peftsam.evaluation import InstanceAgreement, compare_instances
from napari_peftsam.files import pair_folders
from napari_peftsam.models import SamModel
from napari_peftsam.segmentation import Predictor
from napari_peftsam.segmentation.automatic import (
    FEATURES,
    Proposal,
    ProposalScorer,
    ScorerPrior,
    best_ious,
    features_of,
    merge,
    propose_in_frame,
)
from napari_peftsam.types import LabelArray

Floats = npt.NDArray[np.float64]

DOMAINS = ("dsb_fluo", "dsb_histo", "phase_cells", "em_axons")
THRESHOLD = 0.5

_HIDDEN = 32
_STEPS, _BATCH, _RATE, _DECAY = 2000, 1024, 3e-3, 1e-2
_DROPOUT = 0.2


@dataclass(frozen=True, eq=False)
class ProposedImage:
    """The proposals of a labelled image; `ious` are those with the best true object."""

    domain: str
    name: str
    labels: LabelArray = field(repr=False)
    proposals: list[Proposal] = field(repr=False)
    features: Floats = field(repr=False)
    ious: Floats = field(repr=False)

    def figures(self, scores: Floats, threshold: float = THRESHOLD) -> InstanceAgreement:
        """Merge the proposals by these scores, and compare with the labels."""
        found = np.zeros(self.labels.shape, np.int32)
        merge(self.proposals, scores, found, threshold=threshold)
        return compare_instances(self.labels, found)


def proposed_images(model: SamModel, data: Path) -> Iterator[ProposedImage]:
    """Propose objects in all images of the domains, one by one; slow."""
    for domain in DOMAINS:
        for pair in pair_folders(data / domain / "images", data / domain / "labels"):
            pixels, labels = pair.read()
            embedding = encode_one(model, pixels)
            proposals, _ = propose_in_frame(Predictor(model), embedding)
            yield ProposedImage(
                domain,
                pair.name,
                labels,
                proposals,
                features_of(proposals).astype(np.float64),
                best_ious(proposals, labels),
            )


def fit_prior(images: Sequence[ProposedImage], seed: int = 0) -> ScorerPrior:
    """Fit a network of two hidden layers to the IoU, and to whether it is at least one half.

    Every image counts the same, however many proposals it has.
    """
    known = [image for image in images if len(image.features)]
    features = np.concatenate([image.features for image in known])
    ious = np.concatenate([image.ious for image in known])
    weights = np.concatenate([np.full(len(i.features), 1 / len(i.features)) for i in known])
    tensors = {"mean": features.mean(axis=0), "deviation": features.std(axis=0) + 1e-3}
    inputs = torch.from_numpy(ScorerPrior(tensors).standardised(features)).float()
    targets = torch.from_numpy(np.stack([ious, ious >= 0.5], axis=1)).float()
    weight = torch.from_numpy(weights / weights.mean()).float()
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(len(FEATURES), _HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Dropout(_DROPOUT),
            torch.nn.Linear(_HIDDEN, _HIDDEN),
            torch.nn.ReLU(),
            torch.nn.Linear(_HIDDEN, 2),
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
    layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    for number, layer in enumerate(layers):
        tensors[f"weight{number}"] = layer.weight.detach().double().numpy().T
        tensors[f"bias{number}"] = layer.bias.detach().double().numpy()
    return ScorerPrior(tensors)


def figures_without(
    images: Sequence[ProposedImage], domain: str, held_out: Sequence[str]
) -> dict[str, float]:
    """Return the mean mSA and AP50 of images of a domain by a prior that saw the others only.

    Parameters
    ----------
    held_out
        Names of the images to measure; those that the model was trained on are left out.
    """
    prior = fit_prior([image for image in images if image.domain != domain])
    scorer = ProposalScorer(prior)
    measured = [image for image in images if image.domain == domain and image.name in held_out]
    found = [image.figures(scorer.scores(image.features).iou) for image in measured]
    return {
        "images": len(found),
        "msa": float(np.mean([each.msa for each in found])),
        "ap50": float(np.mean([each.ap50 for each in found])),
    }


def write_prior(prior: ScorerPrior, path: Path) -> None:
    """Write a prior in half precision, a few kilobytes."""
    exact = ("mean", "deviation")
    small: dict[str, Any] = {
        name: values.astype(np.float32 if name in exact else np.float16)
        for name, values in prior.tensors.items()
    }
    np.savez_compressed(path, **small)
