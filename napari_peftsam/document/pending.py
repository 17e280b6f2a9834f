"""The pending object: its prompts, the queue behind it, and the predicted candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from napari_peftsam.document.objects import NewObject, PlaneKey
from napari_peftsam.document.records import ModelVersion
from napari_peftsam.errors import PromptError
from napari_peftsam.types import BoolArray, MaskPrompt, Prediction, Prompts, Window

__all__ = ["Pending", "PendingObject"]

KEPT = 200
"""Number of states of the prompts that keep their candidates, and the shown one."""


@dataclass(frozen=True)
class Pending:
    """Prompts not accepted yet, all in one plane.

    Attributes
    ----------
    plane
        The plane of the prompts; None without prompts.
    queue
        Prompts of the pending object, then of those that follow it.
    revision
        Identifies this state of the pending object's prompts.
    refines
        Revision and candidate whose mask the next prediction refines, if there is one.
    """

    plane: PlaneKey | None = None
    queue: tuple[Prompts, ...] = ()
    revision: int = 0
    refines: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return bool(self.queue)

    def on(self, plane: PlaneKey) -> Pending:
        """Return itself, or nothing pending if it lies in another plane."""
        return self if self.plane == plane else Pending()

    def with_queue(self, plane: PlaneKey, queue: Sequence[Prompts], revision: int) -> Pending:
        """Return it with other prompts; the first keeps its revision if it stays the same."""
        kept = tuple(each for each in queue if each)
        if not kept:
            return Pending()
        here = self.on(plane)
        if here and here.queue[0] == kept[0]:
            return replace(here, queue=kept)
        return Pending(plane, kept, revision)


@dataclass(frozen=True, eq=False)
class Answer:
    """Candidates for one state of the prompts."""

    prediction: Prediction
    made_by: ModelVersion


@dataclass(frozen=True, eq=False)
class PendingObject:
    """The pending object as it is shown.

    Attributes
    ----------
    plane
        The plane of the object.
    prompts
        The user's prompts so far, never empty.
    revision
        Identifies this state of the prompts; pass it back with the prediction.
    answer
        The answer to these prompts, None while it is awaited.
    refined
        The answer whose shown candidate is to be refined, and that candidate.
    choice
        Index of the shown candidate.
    """

    plane: PlaneKey
    prompts: Prompts
    revision: int
    answer: Answer | None = None
    refined: tuple[Answer, int] | None = None
    choice: int = 0

    @property
    def candidates(self) -> Prediction | None:
        """The predicted candidates, in the smallest part of the plane that holds them all."""
        return None if self.answer is None else self.answer.prediction

    @property
    def made_by(self) -> ModelVersion:
        """The model version that predicted the candidates."""
        return ModelVersion() if self.answer is None else self.answer.made_by

    @property
    def mask(self) -> BoolArray | None:
        """The shown candidate, None while it is awaited; the part of the plane at `offset`."""
        return None if self.candidates is None else self.candidates.masks[self.choice]

    @property
    def offset(self) -> tuple[int, int]:
        """Row and column of the first pixel of `mask`."""
        return (0, 0) if self.candidates is None else self.candidates.offset

    @property
    def score(self) -> float | None:
        """Predicted IoU of the shown candidate, None while it is awaited."""
        return None if self.candidates is None else float(self.candidates.scores[self.choice])

    @property
    def mask_prompt(self) -> MaskPrompt | None:
        """The candidate to refine, None if there is none."""
        if self.refined is None:
            return None
        answer, choice = self.refined
        return answer.prediction.mask_prompt(choice)

    def mask_prompt_for(self, version: ModelVersion) -> MaskPrompt | None:
        """Return `mask_prompt` if `version` can refine it, i.e. has the weights that gave it."""
        if self.refined is None or self.refined[0].made_by.weights != version.weights:
            return None
        return self.mask_prompt

    def as_new_object(self) -> NewObject:
        """Return the shown candidate as an object to accept; there must be one."""
        assert self.mask is not None, "nothing is shown"
        by = self.made_by
        return NewObject(
            self.prompts, self.mask, self.score, self.offset, self.choice, by.model, by.adapter
        )


def check_candidates(prediction: Prediction, shape: tuple[int, int]) -> None:
    """Raise `PromptError` unless candidates cover a part of a plane of this shape."""
    count, window = len(prediction), prediction.window
    inside = window & Window(0, 0, *shape) == window
    is_one = prediction.masks.shape == (count, *window.shape)
    if count < 1 or not is_one or not inside or prediction.plane_shape != shape:
        where = "" if prediction.part_of is None else f" at {prediction.offset}"
        raise PromptError(
            f"the candidates have shape {prediction.masks.shape}{where}, expected (K, "
            f"{shape[0]}, {shape[1]}) with K >= 1, or a part of it: predict them from this plane"
        )
