"""IoU on held-out objects at the same simulated prompts every time: a box, and clicks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from napari_peftsam.embeddings import Embedding, embedding_key
from napari_peftsam.evaluation import Target, box_ious, click_ious
from napari_peftsam.segmentation import Predictor
from napari_peftsam.training._encoder import PlaneEncoder
from napari_peftsam.training.dataset import AnnotatedPlane, TrainingObject

__all__ = ["HeldOut", "validation_iou"]

# A model that answers the first click well and corrections badly costs the user clicks, so
# corrections count too; only three of them, since a validation takes time from the training.
_CLICKS = 3


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out objects by plane."""

    targets: Mapping[int, tuple[Target, ...]]

    @classmethod
    def draw(
        cls,
        objects: Sequence[TrainingObject],
        planes: Sequence[AnnotatedPlane],
        at_most: int,
        seed: int,
    ) -> HeldOut:
        """Choose at most so many of the objects at random."""
        rng = np.random.default_rng(seed)
        targets: dict[int, tuple[Target, ...]] = {}
        for index in sorted(rng.permutation(len(objects))[:at_most].tolist()):
            item = objects[index]
            target = Target.from_mask(planes[item.plane].labels == item.label)
            targets[item.plane] = (*targets.get(item.plane, ()), target)
        return cls(targets)


def validation_iou(encoder: PlaneEncoder, held_out: HeldOut) -> float:
    """Return the mean IoU over the objects: of a tight box, and after 1, 2 and 3 clicks."""
    predictor = Predictor(encoder.model)
    found: list[float] = []
    with torch.inference_mode():
        for index, targets in held_out.targets.items():
            embedding = _embedding(encoder, index)
            found += box_ious(predictor, embedding, targets).tolist()
            for ious in click_ious(predictor, embedding, targets, _CLICKS):
                found += ious.tolist()
    return float(np.mean(found))


def _embedding(encoder: PlaneEncoder, index: int) -> Embedding:
    plane = encoder.planes[index]
    key = embedding_key(encoder.model, plane.source.pixels, limits=plane.source.limits)
    features = encoder.features(index)[0].float().cpu().numpy()
    return Embedding(key, plane.frame, features)
