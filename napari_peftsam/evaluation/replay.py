"""Give recorded prompts to another model or adapter, and compare."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from napari_peftsam.embeddings import Embedding
from napari_peftsam.errors import LabelError
from napari_peftsam.evaluation._objects import targets_of
from napari_peftsam.evaluation.clicks import BatchPredictor
from napari_peftsam.types import LabelArray, Prompts

__all__ = ["replay"]

_OBJECTS_AT_ONCE = 32  # bounds the memory of the masks


def replay(
    predictor: BatchPredictor,
    embedding: Embedding,
    prompts_by_label: Mapping[int, Prompts],
    labels: LabelArray,
) -> dict[int, float]:
    """Replay the prompts of every object and return the IoU with its label.

    All prompts of an object are given at once, and the candidate of the highest predicted
    score counts, so that two models are compared at the same clicks.

    Parameters
    ----------
    predictor, embedding
        Model and image, the embedding made by that model.
    prompts_by_label
        What the user gave for the object of each label.
    labels
        ``(H, W)`` of the image.

    Returns
    -------
    dict
        IoU by label, ascending.

    Raises
    ------
    LabelError
        If the labels have another shape than the image, or an object is not in them.
    PromptError
        If an object has no prompts or they lie outside.
    """
    shape = (embedding.frame.height, embedding.frame.width)
    if labels.shape != shape:
        raise LabelError(f"labels of shape {labels.shape} do not fit the image of shape {shape}")
    missing = sorted(set(prompts_by_label) - set(np.unique(labels).tolist()))
    if missing:
        raise LabelError(f"there are prompts for labels {missing}, but no pixel has them")
    names = sorted(prompts_by_label)
    targets = targets_of(labels, names)
    ious: dict[int, float] = {}
    for start in range(0, len(names), _OBJECTS_AT_ONCE):
        part = slice(start, start + _OBJECTS_AT_ONCE)
        prompts = [prompts_by_label[name] for name in names[part]]
        predictions = predictor.predict_many(embedding, prompts, candidates=1)
        for name, target, prediction in zip(names[part], targets[part], predictions, strict=True):
            ious[name] = target.iou(prediction.masks[0])
    return ious
