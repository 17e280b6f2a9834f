"""A whole label image from prompts of many objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_peftsam.embeddings import Embedding
from napari_peftsam.segmentation.predictor import Predictor
from napari_peftsam.types import LabelArray, Prompts

__all__ = ["segment"]


def segment(predictor: Predictor, embedding: Embedding, prompts: Sequence[Prompts]) -> LabelArray:
    """Segment prompted objects into one label image.

    Every object is its best candidate. Where objects overlap, a pixel goes to the one of
    the highest logit, the earlier one if they are equal; so the order of the prompts
    decides the numbers but not the shapes.

    Parameters
    ----------
    prompts
        One per object.

    Returns
    -------
    numpy.ndarray
        ``(H, W)`` int32; object ``i`` of the list has label ``i + 1``, 0 is background.
        The label of an object without a pixel stays unused.

    Raises
    ------
    PromptError, ConfigurationError
        As `Predictor.predict`.
    """
    shape = (embedding.frame.height, embedding.frame.width)
    labels = np.zeros(shape, np.int32)
    highest = np.zeros(shape, np.float32)  # logit 0 is where background begins
    for label, part in enumerate(predictor.best_parts(embedding, prompts), start=1):
        here = part.rows, part.cols
        logits, level = part.logits.numpy(), highest[here]
        higher = logits > level
        labels[here][higher] = label
        level[higher] = logits[higher]
    return labels
