"""What is known of a finetuning run so far, and what it has to offer if it is cut off."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_peftsam.training import (
        TrainEvent,
        TrainingFinished,
        TrainingStarted,
        TrainingStep,
        Validated,
    )

__all__ = ["RunProgress"]


@dataclass
class RunProgress:
    """The latest events of each kind; `best` is the latest that brought an adapter."""

    started: TrainingStarted | None = None
    step: TrainingStep | None = None
    last: Validated | None = None
    best: Validated | None = None
    finished: TrainingFinished | None = None
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # step, loss, IoU

    def add(self, event: TrainEvent) -> None:
        """Note an event."""
        from napari_peftsam.training import (
            TrainingFinished,
            TrainingStarted,
            TrainingStep,
            Validated,
        )

        if isinstance(event, TrainingStarted):
            self.started = event
        elif isinstance(event, TrainingStep):
            self.step = event
        elif isinstance(event, Validated):
            self.last = event
            loss = 0.0 if self.step is None else self.step.loss
            self.curve.append((event.step, loss, event.iou))
            self.best = event if event.adapter is not None else self.best
        elif isinstance(event, TrainingFinished):
            self.finished = event

    def result(self) -> TrainingFinished | None:
        """Return the run's result or, if it was cut off, its best state so far, if any."""
        if self.finished is not None:
            return self.finished
        if self.started is None or self.best is None or self.best.adapter is None:
            return None
        from napari_peftsam.training import TrainingFinished

        return TrainingFinished(
            adapter=self.best.adapter,
            steps=0 if self.step is None else self.step.step,
            seconds=0.0 if self.step is None else self.step.seconds,
            trainable_parameters=self.started.trainable_parameters,
            iou_before=self.started.validation_iou,
            iou_after=self.best.iou,
            best_step=self.best.step,
        )
