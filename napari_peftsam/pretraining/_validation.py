"""Validation of a run: figures on held-out real images and on fixed synthetic ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from napari_peftsam.evaluation import (
    EvaluationConfig,
    EvaluationReport,
    LabelledImage,
    evaluate,
)
from napari_peftsam.models import SamModel
from napari_peftsam.pretraining.synthetic import MODALITIES, generate
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["Figures", "Validation", "figures_of", "quality", "synthetic_set"]

Figures = dict[str, float]

_SEED = 20_261_128  # of the fixed images; no run draws from it
_DIAMETERS = (10.0, 16.0, 24.0, 40.0)  # pixels, in turn
_SIDE = 256
_CLICKS = 5
_CHOOSING = ("box", "click", "clicks5")


@dataclass(frozen=True, eq=False)
class Validation:
    """The images on which a run is validated.

    Attributes
    ----------
    real
        Pixels and labels of the held-out images; none leaves the synthetic ones.
    synthetic
        Number of synthetic images.
    objects
        Evaluated objects per image, on average.
    """

    real: Sequence[tuple[PixelArray, LabelArray]] = ()
    synthetic: int = 20
    objects: int = 8
    _kept: dict[str, list[LabelledImage]] = field(default_factory=dict, init=False, repr=False)

    def run(self, model: SamModel) -> dict[str, Figures]:
        """Return the figures of each set by its name, ``real`` and ``synthetic``."""
        if not self._kept:
            if self.real:
                self._kept["real"] = [(f"real {n}", *pair) for n, pair in enumerate(self.real, 1)]
            if self.synthetic:
                self._kept["synthetic"] = synthetic_set(self.synthetic)
        return {
            name: figures_of(model, images, self.objects * len(images))
            for name, images in self._kept.items()
        }


def synthetic_set(count: int) -> list[LabelledImage]:
    """Return the first images of the fixed synthetic set, all modalities in turn."""
    images: list[LabelledImage] = []
    for number in range(count):
        modality = MODALITIES[number % len(MODALITIES)]
        diameter = _DIAMETERS[number // len(MODALITIES) % len(_DIAMETERS)]
        rng = np.random.default_rng((_SEED, number))
        made = generate(modality, (_SIDE, _SIDE), rng=rng, mean_diameter=diameter)
        images.append((f"{modality} {number}", made.image, made.labels))
    return images


def figures_of(
    model: SamModel, images: Sequence[LabelledImage], objects: int | None = None
) -> Figures:
    """Return the figures of a model on labelled images.

    Parameters
    ----------
    model
        The model.
    images
        Names, pixels and labels.
    objects
        Evaluate a random sample of this many objects, always the same one.
    """
    config = EvaluationConfig(max_objects=objects, clicks=_CLICKS)
    report = _last(evaluate(model, images, config))
    ranking = report.score_ranking
    return {
        "box": report.box_iou,
        "click": report.iou_at_clicks[0],
        "clicks5": report.iou_at_clicks[-1],
        "score": report.score_correlation or 0.0,
        "ranking": ranking or 0.0,
        "area_ranking": report.area_ranking or 0.0,
    }


def quality(validation: dict[str, Figures]) -> float:
    """Return the figure by which weights are chosen: the mean IoU over sets and prompts."""
    return float(np.mean([figures[name] for figures in validation.values() for name in _CHOOSING]))


def _last(events: Iterable[object]) -> EvaluationReport:
    *_, report = events
    assert isinstance(report, EvaluationReport)
    return report
