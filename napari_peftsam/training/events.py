"""Events of a finetuning run, in the order they come, and its report; all picklable."""

from __future__ import annotations

from dataclasses import dataclass

from napari_peftsam.models.memory import readable_bytes
from napari_peftsam.peft import Adapter

__all__ = [
    "MemoryPlanned",
    "TrainEvent",
    "TrainingAdjusted",
    "TrainingReport",
    "TrainingStarted",
    "TrainingStep",
    "Validated",
]


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
class MemoryPlanned:
    """The plan of the steps, and the memory of a trial step whose result was dropped.

    Attributes
    ----------
    measured
        Bytes at the highest point of the trial step, weights included.
    free
        Bytes that were free before it, the network's weights being loaded already.
    plan
        How steps are computed, for people.
    """

    measured: int
    free: int
    plan: str

    def describe(self) -> str:
        """Return a line for people."""
        measured, free = readable_bytes(self.measured), readable_bytes(self.free)
        return f"memory: {measured} in a trial step, {free} free; training {self.plan}"


@dataclass(frozen=True)
class TrainingAdjusted:
    """Memory ran out in a step, which was taken again from the same state.

    The result is the same, see `MemoryPlanned.plan`.

    Attributes
    ----------
    plan
        How steps are computed from now on, for people.
    reason
        What went wrong.
    """

    plan: str
    reason: str

    def describe(self) -> str:
        """Return it for people, in one line."""
        return f"memory ran out, so training goes on {self.plan}"


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
class TrainingReport:
    """The result of a run, ended by its budget or because it was asked to stop.

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


TrainEvent = MemoryPlanned | TrainingStarted | TrainingStep | TrainingAdjusted | Validated
