"""Finetuning in a process of its own: a job goes in, events come out.

`main` is what a child process runs: it reads one pickled `TrainingJob` from its
standard input and writes pickled events to its standard output. A process that is
started this way, and not through `multiprocessing`, never runs the user's own script
again. After the job, every byte is a command: `PAUSE` or `GO_ON`. The parent asks for an
early end by closing the child's standard input.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from napari_peftsam.app._pauses import Pauses, give_way_inside
from napari_peftsam.errors import PeftSamError, TrainingError
from napari_peftsam.models import build
from napari_peftsam.peft import Adapter
from napari_peftsam.training import (
    AnnotatedPlane,
    Incumbent,
    Team,
    TrainEvent,
    TrainingConfig,
    finetune,
)

__all__ = ["GO_ON", "PAUSE", "TrainingJob", "run"]

PAUSE, GO_ON = b"p", b"g"
"""Commands to the child: leave the processor to the viewer for a moment, and no longer."""

_NICENESS = 5  # below the viewer's own work, so that it stays responsive on few cores


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """What `napari_peftsam.training.finetune` needs, in a form that can be sent."""

    source: str
    device: str
    planes: tuple[AnnotatedPlane, ...]
    config: TrainingConfig
    start: Adapter | None = None
    incumbent: Incumbent | None = None
    precision: str = "auto"


def run(
    job: TrainingJob,
    stop: Callable[[], bool] = lambda: False,
    give_way: Callable[[], object] | None = None,
    team: Team | None = None,
) -> Iterator[TrainEvent]:
    """Build the job's model and finetune it.

    Parameters
    ----------
    give_way
        Called between small steps.
    team
        See `napari_peftsam.training.finetune`.
    """
    model = build(job.source, job.device, precision=job.precision)
    if give_way is not None:
        give_way_inside(model.sam, give_way)
    yield from finetune(
        model, job.planes, job.config,
        start=job.start, incumbent=job.incumbent, team=team, stop=stop,
    )  # fmt: skip


def _serve(commands: BinaryIO, answers: BinaryIO) -> None:
    """Run one job; every answer is a pickled event or, last, a pickled exception."""
    job: TrainingJob = pickle.load(commands)
    stopping, pauses = threading.Event(), Pauses()

    def watch() -> None:
        while command := commands.read(1):  # empty when the parent closes its end
            if command == PAUSE:
                pauses.begin()
            elif command == GO_ON:
                pauses.end()
        stopping.set()
        pauses.end()

    threading.Thread(target=watch, daemon=True).start()
    try:
        for event in run(job, stopping.is_set, pauses.wait):
            _send(answers, event)
    except PeftSamError as error:
        _send(answers, error)
    except Exception as error:  # noqa: BLE001 - the parent must learn of it, whatever it is
        _send(answers, TrainingError(f"training failed: {type(error).__name__}: {error}"))


def _send(answers: BinaryIO, message: TrainEvent | PeftSamError) -> None:
    pickle.dump(message, answers)
    answers.flush()


def _give_way() -> None:
    """Let the viewer's process have a core first whenever it wants one.

    One core is left to it altogether: torch's threads wait for the slowest of them, so
    that a viewer busy on one of two cores would slow two threads down twentyfold.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    # Linux shares cores among sessions before it looks at processes, and this is a session.
    autogroup = Path("/proc/self/autogroup")
    with suppress(OSError):
        autogroup.write_text(str(_NICENESS))


def main() -> None:
    """Serve one job on standard input and output."""
    _give_way()
    # Libraries that print must not write between the events.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
