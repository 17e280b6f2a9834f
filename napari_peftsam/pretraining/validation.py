"""Figures of weights: on held-out real images, fixed synthetic ones, and other domains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_peftsam.errors import InputFileError
from napari_peftsam.evaluation import EvaluationConfig, EvaluationReport, LabelledImage, evaluate
from napari_peftsam.files import pair_folders
from napari_peftsam.models import SamModel, build
from napari_peftsam.pretraining.synthetic import MODALITIES, generate
from napari_peftsam.types import LabelArray, PixelArray

Figures = dict[str, float]

OTHER_DOMAINS = ("dsb_histo", "phase_cells", "em_axons")
"""Domains that no run trains on, and that no weights are chosen by."""

_DOMAIN_OBJECTS = 150  # of each domain, a random sample, always the same one
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
            name: _figures(model, images, self.objects * len(images))
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


def measure_domains(model: str | Path, data: Path) -> Iterator[tuple[str, Figures]]:
    """Yield the figures of a model (a name or the path of a checkpoint) on `OTHER_DOMAINS`.

    `data` holds a folder of each domain, with ``images`` and ``labels``.

    Raises
    ------
    InputFileError
        If the folder of a domain is missing.
    """
    built = build(model)
    for domain in OTHER_DOMAINS:
        folder = data / domain
        if not folder.is_dir():
            raise InputFileError(f"{data} holds no folder {domain}")
        pairs = pair_folders(folder / "images", folder / "labels")
        images: list[LabelledImage] = [(pair.name, *pair.read()) for pair in pairs]
        yield domain, _figures(built, images, _DOMAIN_OBJECTS)


def _figures(model: SamModel, images: Sequence[LabelledImage], objects: int) -> Figures:
    """Return the figures on a random sample of `objects`, always the same one."""
    config = EvaluationConfig(max_objects=objects, clicks=_CLICKS, rounds=1)
    *_, report = evaluate(model, images, config)
    assert isinstance(report, EvaluationReport)
    return {
        "box": report.box_iou,
        "click": report.iou_at_clicks[0],
        "clicks5": report.iou_at_clicks[-1],
        "score": report.score_correlation or 0.0,
        "ranking": report.score_ranking or 0.0,
        "area_ranking": report.area_ranking or 0.0,
    }


def quality(validation: dict[str, Figures]) -> float:
    """Return the figure by which weights are chosen: the mean IoU over sets and prompts."""
    return float(np.mean([figures[name] for figures in validation.values() for name in _CHOOSING]))
