"""IoU on held-out objects at fixed prompts: one click each, and one box each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from napari_peftsam.embeddings import encode_one
from napari_peftsam.evaluation import first_click, iou, tight_box
from napari_peftsam.models import SamModel
from napari_peftsam.segmentation import Predictor
from napari_peftsam.training._samples import ModelPlane
from napari_peftsam.training.dataset import AnnotatedPlane, TrainingObject
from napari_peftsam.types import BoolArray, Prompts

__all__ = ["HeldOut", "validation_iou"]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out objects with their masks and prompts, by plane."""

    masks: Mapping[int, tuple[BoolArray, ...]]
    prompts: Mapping[int, tuple[Prompts, ...]]

    @classmethod
    def draw(
        cls,
        objects: Sequence[TrainingObject],
        planes: Sequence[AnnotatedPlane],
        at_most: int,
        seed: int,
    ) -> HeldOut:
        """Fix the prompts of at most so many of the objects, drawn at random."""
        rng = np.random.default_rng(seed)
        chosen = sorted(rng.permutation(len(objects))[:at_most].tolist())
        masks: dict[int, list[BoolArray]] = {}
        for index in chosen:
            item = objects[index]
            mask = planes[item.plane].labels == item.label
            masks.setdefault(item.plane, []).append(mask)
        prompts = {
            plane: (
                *(Prompts(points=(first_click(mask),)) for mask in group),
                *(Prompts(box=tight_box(mask)) for mask in group),
            )
            for plane, group in masks.items()
        }
        return cls({plane: tuple(group) for plane, group in masks.items()}, prompts)


def validation_iou(model: SamModel, planes: Mapping[int, ModelPlane], held_out: HeldOut) -> float:
    """Return the mean IoU over held-out objects, of a click's and of a box's best mask."""
    predictor = Predictor(model)
    found: list[float] = []
    with torch.inference_mode():
        for index, masks in held_out.masks.items():
            embedding = encode_one(model, planes[index].source.pixels)
            predictions = predictor.predict_many(embedding, held_out.prompts[index], candidates=1)
            found += [
                iou(prediction.masks[0], mask)
                for prediction, mask in zip(predictions, (*masks, *masks), strict=True)
            ]
    return float(np.mean(found))
