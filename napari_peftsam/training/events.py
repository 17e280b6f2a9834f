"""Events of a finetuning run, in the order they come, and its report; all picklable."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_peftsam.evaluation import Verdict
from napari_peftsam.models.memory import readable_bytes
from napari_peftsam.peft import Adapter

__all__ = [
    "Judging",
    "MemoryPlanned",
    "StepProgress",
    "TrainEvent",
    "TrainingReport",
    "TrainingStarted",
    "TrainingStep",
    "Validated",
]


@dataclass(frozen=True)
class StepProgress:
    """The share of the first step that is done, below 1: estimated, and never less than before.

    It comes from inside the step, which takes many seconds with a large model.
    """

    share: float


@dataclass(frozen=True)
class TrainingStarted:
    """Sizes of the run, and the held-out IoU of the incumbent; comes after the first step.

    `held_out_objects` are those that IoU is measured on, not more than it takes.
    """

    trainable_parameters: int
    encoder_parameters: int
    training_objects: int
    held_out_objects: int
    held_out_by: str
    validation_iou: float


@dataclass(frozen=True)
class MemoryPlanned:
    """The plan of the steps, measured in the first one, and again whenever memory ran out.

    The result does not depend on the plan: a step in which memory ran out is taken again.

    Attributes
    ----------
    plan
        The way steps are computed from now on, for people.
    measured
        Bytes at the highest point of the first step, weights included.
    free
        Bytes that were free before it, the network's weights being loaded already.
    reason
        The error of running out of memory; empty after the first step.
    """

    plan: str
    measured: int = 0
    free: int = 0
    reason: str = ""

    def describe(self) -> str:
        """Return a line for people."""
        if self.reason:
            return f"memory ran out, so training goes on {self.plan}"
        measured, free = readable_bytes(self.measured), readable_bytes(self.free)
        return f"memory: {measured} in the first step, {free} free; training {self.plan}"


@dataclass(frozen=True)
class TrainingStep:
    """A step whose gradients are there; `remaining` is the estimated rest of the run in seconds."""

    step: int
    loss: float
    seconds: float
    remaining: float


@dataclass(frozen=True)
class Validated:
    """IoU of the held-out objects at their fixed prompts, seen in one orientation.

    `adapter` is the state of this step if it is to be kept, else None. `verdict` compares it with
    the incumbent at those prompts; it counts if the run breaks off.
    """

    step: int
    iou: float
    adapter: Adapter | None
    verdict: Verdict = field(default_factory=Verdict)


@dataclass(frozen=True)
class Judging:
    """The steps are done; the result is compared with the incumbent, which takes some time."""


@dataclass(frozen=True)
class TrainingReport:
    """The result of a run, ended by its budget or because it was asked to stop.

    `adapter` is the state that was kept, of `best_step`. `iou_before` is the held-out IoU of the
    incumbent, `iou_after` that of `adapter`, as in `Validated`. The `verdict` alone says whether it
    is better.
    """

    adapter: Adapter
    steps: int
    seconds: float
    trainable_parameters: int
    iou_before: float
    iou_after: float
    best_step: int
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def improved(self) -> bool:
        """True if the best state is to take the place of the incumbent."""
        return self.verdict.is_better


TrainEvent = StepProgress | MemoryPlanned | TrainingStarted | TrainingStep | Validated | Judging
