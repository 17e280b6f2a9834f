"""Progress and exit codes of the commands for many images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ._console import INTERRUPTED, USER_ERROR, Progress, emit, fail, say
from ._interrupt import graceful_interrupt

if TYPE_CHECKING:
    from napari_peftsam.batch.plan import BatchEvent, BatchFinished, BatchPlan

__all__ = ["BatchOptions", "run_batch"]


@dataclass(frozen=True)
class BatchOptions:
    """The options of these names; see `napari_peftsam.batch.plan.BatchPlan`."""

    model: str
    adapter: Path | None
    device: str
    precision: str
    workers: int | None
    scheduler: str | None
    store: Path | None
    space: float | None

    def plan(self) -> BatchPlan:
        """Return the plan that they ask for."""
        from napari_peftsam.batch.cluster import ClusterChoice
        from napari_peftsam.batch.plan import BatchPlan, ModelSource
        from napari_peftsam.errors import ConfigurationError

        if self.space is not None and not isfinite(self.space):
            raise ConfigurationError(
                f"--space must be a number of GB, got {self.space}: leave it out for no limit"
            )
        return BatchPlan(
            ModelSource(self.model, self.adapter, self.device, self.precision),
            ClusterChoice(self.scheduler, self.workers),
            self.store,
            None if self.space is None else round(self.space * 1e9),
        )


def run_batch(
    batch: Callable[[Callable[[], bool]], Iterator[BatchEvent]],
    text: Callable[[BatchFinished], str],
    as_json: bool,
) -> None:
    """Show a batch's progress and its result.

    Parameters
    ----------
    batch
        Starts it, given the question whether to stop.
    text
        Tells its result to people.

    Raises
    ------
    typer.Exit
        If images failed (code 2, after one line that names the first), or after Ctrl-C.
    """
    from napari_peftsam.batch.plan import BatchFinished, TaskDone, TaskFailed

    finished = None
    message = "stopping; what is finished is kept"
    with graceful_interrupt(message) as stop, Progress() as progress:
        for event in batch(stop.is_set):
            if isinstance(event, TaskFailed) and event.total > 1:  # a single one is told at the end
                progress.end()
                say(f"left out {event.name}: {' '.join(str(event.error).split())}")
            if isinstance(event, TaskDone | TaskFailed):
                progress.show(
                    event.done / event.total, f"{event.done} of {event.total}: {event.name}"
                )
            elif isinstance(event, BatchFinished):
                finished = event
    assert finished is not None, "a batch ends with its report"
    emit(finished.to_dict(), as_json, text(finished))
    if finished.failed:
        name, reason = next(iter(finished.failed.items()))
        others = len(finished.failed) - 1
        told = reason if reason.startswith(name) else f"{name}: {reason}"
        fail(told + (f"; {others} more failed, too" if others else ""))
        raise typer.Exit(USER_ERROR)
    if stop.is_set():
        raise typer.Exit(INTERRUPTED)
