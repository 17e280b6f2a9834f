"""Simulated prompts of many objects at once: a box, or clicks until the mask is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_peftsam.embeddings import Embedding
from napari_peftsam.evaluation.targets import Target
from napari_peftsam.segmentation import Predictor
from napari_peftsam.types import FloatArray, Prediction, Prompts

__all__ = [
    "Candidates",
    "box_ious",
    "click_ious",
    "clicks_to_reach",
    "first_candidates",
    "given_ious",
]

Floats = npt.NDArray[np.float64]

CANDIDATES = 3
"""Number of candidates that `first_candidates` takes of each object, all in memory at once."""

_MOST_STEPS = 8


@dataclass(frozen=True, eq=False)
class Candidates:
    """All candidates after one click, each array ``(objects, candidates)``."""

    scores: Floats
    """Predicted IoU."""
    areas: Floats
    """Pixels of the mask."""
    ious: Floats
    """True IoU."""

    @property
    def score_correlation(self) -> float | None:
        """Pearson's correlation of score and IoU over all candidates of all objects."""
        return _correlation(self.scores, self.ious)

    @property
    def score_ranking(self) -> float | None:
        """Rank correlation of scores and IoU, ranks taken within each object.

        None if the candidates do not differ.
        """
        return _correlation(_ranks(self.scores), _ranks(self.ious))

    @property
    def area_ranking(self) -> float | None:
        """The same for the area in place of the score, which a score must surpass."""
        return _correlation(_ranks(self.areas), _ranks(self.ious))


def first_candidates(
    predictor: Predictor, embedding: Embedding, targets: Sequence[Target]
) -> Candidates:
    """Return the candidates of every object after its first click."""
    prompts = [Prompts((target.first_click(),)) for target in targets]
    predictions = predictor.predict_many(embedding, prompts, candidates=CANDIDATES)
    return Candidates(
        np.array([p.scores for p in predictions], float),
        np.array([p.masks.sum((1, 2)) for p in predictions], float),
        np.array(
            [[t.iou(m) for m in p.masks] for t, p in zip(targets, predictions, strict=True)], float
        ),
    )


def box_ious(predictor: Predictor, embedding: Embedding, targets: Sequence[Target]) -> Floats:
    """Return the IoU of every object when prompted with its tight box, ``(objects,)``."""
    prompts = [Prompts(box=target.box) for target in targets]
    predictions = predictor.predict_many(embedding, prompts, candidates=1)
    return np.array([t.iou(p.masks[0]) for t, p in zip(targets, predictions, strict=True)])


def click_ious(
    predictor: Predictor,
    embedding: Embedding,
    targets: Sequence[Target],
    rounds: int,
    *,
    first: Sequence[Prompts | Prediction] | None = None,
    enough: float = 1.0,
) -> Iterator[Floats]:
    """Yield the IoU of every object after 1, 2, …, `rounds` prompts, each ``(objects,)``.

    The first prompt is one of `first`, else `Target.first_click`. A prediction stands for its best
    mask: the first prompt corrects that. Each further one is
    `Target.next_click` on the candidate of the highest predicted score, whose logits are fed back
    as the previous mask. A mask that is right, or whose IoU is `enough`, keeps its IoU and gets
    no more clicks.
    """
    starts = first or [Prompts((target.first_click(),)) for target in targets]
    begun = [_begun(target, start) for target, start in zip(targets, starts, strict=True)]
    prompts, previous = [each[0] for each in begun], [each[1] for each in begun]
    ious = np.zeros(len(targets))
    active = list(range(len(targets)))
    for count in range(1, rounds + 1):
        predictions = predictor.predict_many(
            embedding, [prompts[i] for i in active], [previous[i] for i in active], candidates=1
        )
        wrong = []
        for i, prediction in zip(active, predictions, strict=True):
            mask = prediction.masks[0]
            ious[i] = targets[i].iou(mask)
            is_over = count == rounds or ious[i] >= enough
            click = None if is_over else targets[i].next_click(mask)
            if click is not None:
                prompts[i] = prompts[i].with_point(click)
                previous[i] = prediction.logits[0]
                wrong.append(i)
        active = wrong
        yield ious.copy()


def _begun(target: Target, start: Prompts | Prediction) -> tuple[Prompts, FloatArray | None]:
    """Return the first prompt, and the logits of the mask that it corrects."""
    if isinstance(start, Prompts):
        return start, None
    click = target.next_click(start.masks[0]) or target.first_click()
    return Prompts((click,)), start.logits[0]


def given_ious(
    predictor: Predictor,
    embedding: Embedding,
    targets: Sequence[Target],
    prompts: Sequence[Prompts],
) -> list[tuple[float, ...]]:
    """Return the IoU of every object after each of a person's prompts, in the order given.

    A box comes first. As in the viewer, the logits of the best candidate are fed back. Of more
    than eight prompts, such as those of a scribble, eight of the steps are taken.
    """
    steps = [_steps(each) for each in prompts]
    found: list[list[float]] = [[] for _ in targets]
    previous: list[FloatArray | None] = [None] * len(targets)
    for number in range(max(map(len, steps), default=0)):
        active = [i for i, each in enumerate(steps) if number < len(each)]
        asked, masks = [steps[i][number] for i in active], [previous[i] for i in active]
        predictions = predictor.predict_many(embedding, asked, masks, candidates=1)
        for i, prediction in zip(active, predictions, strict=True):
            found[i].append(targets[i].iou(prediction.masks[0]))
            previous[i] = prediction.logits[0]
    return [tuple(each) for each in found]


def _steps(prompts: Prompts) -> list[Prompts]:
    """Return the prompts as they grew, at most `_MOST_STEPS` times."""
    first = 0 if prompts.box is not None else 1
    points = range(first, len(prompts.points) + 1)
    chosen = np.linspace(0, len(points) - 1, min(len(points), _MOST_STEPS)).round().astype(int)
    return [Prompts(prompts.points[: points[i]], prompts.box) for i in chosen]


def clicks_to_reach(curves: Floats, threshold: float) -> Floats:
    """Return the number of clicks ``(objects,)`` that every object needs to reach an IoU.

    `curves` is the IoU after every click, ``(objects, clicks)``. Objects that never reach the
    threshold count with all clicks.
    """
    reached = curves >= threshold
    first = np.argmax(reached, axis=1) + 1.0
    counts: Floats = np.where(reached.any(axis=1), first, float(curves.shape[1]))
    return counts


def _ranks(values: Floats) -> Floats:
    """Rank each row, centred on its middle; equal values share their mean rank."""
    # Not by `scipy.stats`, which takes half a second to import.
    ranks: Floats = np.sign(values[:, :, None] - values[:, None, :]).sum(2) / 2
    return ranks


def _correlation(first: Floats, second: Floats) -> float | None:
    if first.size < 2 or first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])
