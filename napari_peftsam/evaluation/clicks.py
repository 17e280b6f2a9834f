"""The simulated user: clicks until the mask is right, for many objects at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from napari_peftsam.embeddings import Embedding
from napari_peftsam.evaluation.prompts import Target
from napari_peftsam.types import FloatArray, Prediction, Prompts

__all__ = ["BatchPredictor", "box_ious", "click_ious", "clicks_to_reach"]

Floats = npt.NDArray[np.float64]


class BatchPredictor(Protocol):
    """What is evaluated: `napari_peftsam.segmentation.Predictor`, or another one."""

    def predict_many(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompts],
        previous: Sequence[FloatArray | None] | None = None,
        candidates: int = 3,
    ) -> list[Prediction]:
        """Return one `Prediction` per object, its best candidate first."""
        ...


def box_ious(predictor: BatchPredictor, embedding: Embedding, targets: Sequence[Target]) -> Floats:
    """Return the IoU of every object when prompted with its tight box, ``(objects,)``."""
    prompts = [Prompts(box=target.box) for target in targets]
    predictions = predictor.predict_many(embedding, prompts, candidates=1)
    return np.array([t.iou(p.masks[0]) for t, p in zip(targets, predictions, strict=True)])


def click_ious(
    predictor: BatchPredictor, embedding: Embedding, targets: Sequence[Target], clicks: int
) -> Iterator[Floats]:
    """Yield the IoU of every object after 1, 2, …, `clicks` clicks, each ``(objects,)``.

    The first click is `first_click`; each further one is `next_click` on the candidate of
    the highest predicted score, whose logits are fed back as the previous mask. A mask
    without an error keeps its IoU of 1 and gets no more clicks.
    """
    prompts = [Prompts((target.first_click(),)) for target in targets]
    previous: list[FloatArray | None] = [None] * len(targets)
    ious = np.zeros(len(targets))
    active = list(range(len(targets)))
    for count in range(1, clicks + 1):
        predictions = predictor.predict_many(
            embedding, [prompts[i] for i in active], [previous[i] for i in active], candidates=1
        )
        wrong = []
        for i, prediction in zip(active, predictions, strict=True):
            mask = prediction.masks[0]
            ious[i] = targets[i].iou(mask)
            click = targets[i].next_click(mask) if count < clicks else None
            if click is not None:
                prompts[i] = prompts[i].with_point(click)
                previous[i] = prediction.logits[0]
                wrong.append(i)
        active = wrong
        yield ious.copy()


def clicks_to_reach(curves: Floats, threshold: float) -> Floats:
    """Return how many clicks every object needs to reach an IoU.

    Parameters
    ----------
    curves
        ``(objects, clicks)`` IoU after every click.
    threshold
        The IoU to reach.

    Returns
    -------
    numpy.ndarray
        ``(objects,)`` in [1, clicks]; objects that never reach it count with all clicks.
    """
    reached = curves >= threshold
    first = np.argmax(reached, axis=1) + 1.0
    counts: Floats = np.where(reached.any(axis=1), first, float(curves.shape[1]))
    return counts
