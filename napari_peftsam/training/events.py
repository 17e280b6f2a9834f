"""What finetuning reports while it runs; frozen, picklable, in the order they come."""

from __future__ import annotations

from dataclasses import dataclass

from napari_peftsam.peft import Adapter

__all__ = ["TrainEvent", "TrainingFinished", "TrainingStarted", "TrainingStep", "Validated"]


@dataclass(frozen=True)
class TrainingStarted:
    """Data are split, the adapter is in place, the incumbent is measured."""

    trainable_parameters: int
    encoder_parameters: int
    training_objects: int
    held_out_objects: int
    held_out_by: str
    validation_iou: float


@dataclass(frozen=True)
class TrainingStep:
    """One optimiser step; `remaining` is the estimated rest of the run in seconds."""

    step: int
    loss: float
    seconds: float
    remaining: float


@dataclass(frozen=True)
class Validated:
    """Held-out objects were segmented at their fixed prompts.

    `adapter` is the state of this step if it is the best so far, else None.
    """

    step: int
    iou: float
    adapter: Adapter | None


@dataclass(frozen=True)
class TrainingFinished:
    """The run is over, by its budget or because it was asked to stop.

    Attributes
    ----------
    adapter
        The best state on the held-out objects (see `best_step`).
    improved
        Whether it beats what was live before (`iou_before`).
    """

    adapter: Adapter
    steps: int
    seconds: float
    trainable_parameters: int
    iou_before: float
    iou_after: float
    best_step: int

    @property
    def improved(self) -> bool:
        """Whether the best state beats the incumbent on held-out objects."""
        return self.iou_after > self.iou_before


TrainEvent = TrainingStarted | TrainingStep | Validated | TrainingFinished
