"""A session with training that a test kills: ``python -m tests.app.training_session``.

Each line on standard output acknowledges an action: its number, and the `state` after it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

import napari_peftsam as ps
from napari_peftsam.training import TrainEvent
from tests.app._cases import TRAINING
from tests.document.scripted_session import digest
from tests.training._world import CENTRES, make_plane


def state(document: ps.Document) -> str:
    """Return labels, adapters, runs and what is live, in one word."""
    adapters = ",".join(f"{a.name}={a.digest}" for a in document.adapters)
    runs = ",".join(run.adapter or "none" for run in document.runs)
    return f"{digest(document)};{adapters};{runs};{document.live.name or 'base'}"


def acknowledge(app: ps.App) -> None:
    print(app.document.store.last_number, state(app.document), flush=True)


def annotate(app: ps.App, rng: np.random.Generator) -> None:
    """Prompt some discs, accept what can be accepted, paint, and undo now and then."""
    image = app.images["discs"]
    for row, col in rng.permutation(CENTRES)[:3].tolist():
        image.prompt(points=[(row, col)])
        acknowledge(app)
        try:
            image.accept()
        except ps.PeftSamError:  # the tiny model gives an empty mask, or one over others
            image.discard()
        acknowledge(app)
        where = np.unique(rng.integers(0, image.labels.size, 200))
        app.document.do(ps.Paint(image.id, where, int(rng.integers(1, 9))))
        acknowledge(app)
        if rng.random() < 0.3:
            app.undo()
            acknowledge(app)


def train(app: ps.App, seed: int, useless: Path) -> None:
    """Make an adapter live that any training beats, train, and promote."""

    def watch(_: TrainEvent) -> None:
        acknowledge(app)  # so that the kill hits all moments of a training, too

    app.workspace.load_adapter(useless)
    acknowledge(app)
    report = app.finetune(config=TRAINING.model_copy(update={"seed": seed}), watch=watch)
    assert report.improved
    acknowledge(app)


def main(project: Path, model: Path, useless: Path, seed: int) -> None:
    """Annotate, train, promote and export until somebody kills the process."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    plane = make_plane("discs")
    app = ps.App(project)
    app.load_model(model, "cpu")
    image = app.add_image(plane.pixels, "discs")
    acknowledge(app)
    app.document.do(ps.ImportLabels(image.id, plane.labels))
    acknowledge(app)
    for round_number in range(1_000):
        annotate(app, rng)
        app.document.do(ps.ImportLabels(image.id, plane.labels))
        acknowledge(app)
        train(app, seed + round_number, useless)
        image.export(useless.with_name("labels.tif"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
