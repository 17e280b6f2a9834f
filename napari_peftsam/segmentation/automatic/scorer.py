"""Scores of proposals: a general prior, and what one project's judgements add to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Self

import numpy as np
import numpy.typing as npt

from napari_peftsam.peft import Adapter
from napari_peftsam.segmentation.automatic.proposals import FEATURES

__all__ = ["ProposalScorer", "ScorerPrior", "Scores", "shipped_prior"]

Floats = npt.NDArray[np.float64]

_WAVES = 64  # random Fourier features of the residual
_WIDTH = 3.0  # standard deviations of the features over which judgements reach
_PENALTY = 1.0
_SHRINKAGE = 20  # judgements at which the residual has half its say
_NOISE = 0.3  # standard deviation of an IoU about what can be known from the features


@dataclass(frozen=True, eq=False)
class Scores:
    """What is expected of N proposals.

    Attributes
    ----------
    iou
        Expected IoU with a true object, in [0, 1]; 0 where there is none.
    probability
        That the IoU is at least one half.
    uncertainty
        How unlike the judged proposals each is: 0 like them, 1 nothing is known.
    """

    iou: Floats
    probability: Floats
    uncertainty: Floats


@dataclass(frozen=True, eq=False)
class ScorerPrior:
    """A small network, fitted on several kinds of images; numpy only.

    Attributes
    ----------
    tensors
        ``mean`` and ``deviation`` of the features, then ``weight0``, ``bias0``, ... of layers.
    """

    tensors: Mapping[str, Floats] = field(repr=False)

    def standardised(self, features: npt.NDArray[np.floating]) -> Floats:
        """Return features ``(N, F)`` of about zero mean and unit deviation, without outliers."""
        known = self.tensors
        found = (np.asarray(features, np.float64) - known["mean"]) / known["deviation"]
        return np.clip(found, -5, 5)

    def logits(self, features: npt.NDArray[np.floating]) -> Floats:
        """Return ``(N, 2)``: of the expected IoU, and of the probability that it is one half."""
        found = self.standardised(features)
        layers = sum(name.startswith("weight") for name in self.tensors)
        for layer in range(layers):
            found = found @ self.tensors[f"weight{layer}"] + self.tensors[f"bias{layer}"]
            if layer + 1 < layers:
                found = np.maximum(found, 0)
        return found


@cache
def shipped_prior() -> ScorerPrior:
    """Read the prior that comes with the package."""
    with (files("napari_peftsam.segmentation.automatic") / "prior.npz").open("rb") as file:
        content = np.load(file)
        return ScorerPrior({name: content[name].astype(np.float64) for name in content.files})


@dataclass(frozen=True, eq=False)
class ProposalScorer:
    """The prior and a residual, which ridge regression fits to a project's judgements.

    Attributes
    ----------
    prior
        What is known without any judgement.
    features, ious
        ``(N, F)`` and ``(N,)`` of the judged proposals: the IoU with what was accepted in their
        place, 0 for what was rejected.
    """

    prior: ScorerPrior = field(default_factory=shipped_prior)
    features: npt.NDArray[np.floating] = field(
        default_factory=lambda: np.zeros((0, len(FEATURES))), repr=False
    )
    ious: npt.NDArray[np.floating] = field(default_factory=lambda: np.zeros(0), repr=False)

    @classmethod
    def of(cls, adapter: Adapter | None) -> Self:
        """Return the shipped scorer with the judgements that an adapter brings along.

        Those of a version with other features are left out.
        """
        if adapter is None:
            return cls()
        features, ious = adapter.judged
        fits = features.shape[1:] == (len(FEATURES),)
        return cls(features=features, ious=ious) if fits else cls()

    def judged(self, features: npt.NDArray[np.floating], ious: npt.NDArray[np.floating]) -> Self:
        """Return the scorer that knows these judgements, too; a few milliseconds for 1,000.

        A proposal that it knew already counts once, as judged now.
        """
        again = {row.tobytes() for row in np.asarray(features, np.float32)}
        known = np.asarray(self.features, np.float32)
        kept = np.array([row.tobytes() not in again for row in known], np.bool_)
        return replace(
            self,
            features=np.concatenate([self.features[kept], features]),
            ious=np.concatenate([self.ious[kept], ious]),
        )

    def scores(self, features: npt.NDArray[np.floating]) -> Scores:
        """Return what is expected of proposals with these features, ``(N, F)``."""
        iou, probability = _sigmoid(self.prior.logits(features)).T
        if not len(self.ious):
            return Scores(iou, probability, np.ones(len(iou)))
        waves = self._waves(features)
        weights, precision = self._fitted
        share = len(self.ious) / (len(self.ious) + _SHRINKAGE)
        change = share * (waves @ weights)
        spread = np.einsum("nf,fg,ng->n", waves, precision, waves)
        unknown = np.sqrt(np.clip(spread * _PENALTY / (waves**2).sum(axis=1), 0, 1))
        corrected = np.clip(iou + change, 0, 1)
        return Scores(corrected, np.clip(probability + change, 0, 1), unknown)

    @cached_property
    def _fitted(self) -> tuple[Floats, Floats]:
        """Weights of the residual, and the inverse of the matrix that they come from."""
        waves = self._waves(self.features)
        missing = self.ious - _sigmoid(self.prior.logits(self.features))[:, 0]
        matrix = waves.T @ waves + _PENALTY * np.eye(waves.shape[1])
        inverse: Floats = np.asarray(np.linalg.inv(matrix), np.float64)
        return inverse @ (waves.T @ missing), inverse

    def _waves(self, features: npt.NDArray[np.floating]) -> Floats:
        """Return features whose products are about a Gaussian kernel (Rahimi and Recht 2007)."""
        rng = np.random.default_rng(0)
        count = len(FEATURES)
        directions = rng.normal(0, 1 / (_WIDTH * np.sqrt(count / 2)), (count, _WAVES))
        phases = rng.uniform(0, 2 * np.pi, _WAVES)
        waves = np.cos(self.prior.standardised(features) @ directions + phases)
        ones = np.full((len(features), 1), 0.5)
        return np.concatenate([ones, np.sqrt(2 / _WAVES) * waves], axis=1)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), np.float64)
