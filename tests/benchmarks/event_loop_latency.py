"""How responsive the viewer is while a model is finetuned: in a thread, in a child process.

Run ``python tests/benchmarks/event_loop_latency.py`` (with ``xvfb-run -a`` where there is
no display). A real viewer is open; every 10 ms an event is due, and its delay is what a
user feels as stutter. Meanwhile a prompt is answered twice a second with the live model.
All conditions are measured in the same run; "idle" is the same without any training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtCore import Qt as QtNames

from napari_peftsam.samples import generate
from napari_peftsam.widgets._process import process_events
from napari_peftsam.widgets._torch import import_workspace
from napari_peftsam.widgets._worker import run, start

_EVENT_MS = 10
_PROMPT_MS = 500
_PERCENTILES = (50, 95, 100)


@dataclass
class Measurement:
    """What one condition cost; times in milliseconds."""

    condition: str
    delays: list[float] = field(default_factory=list)
    prompts: list[float] = field(default_factory=list)
    startup: float = 0.0
    steps: int = 0
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Return percentiles and rates."""
        return {
            "condition": self.condition,
            "event_delay_ms": _percentiles(self.delays),
            "prompt_to_mask_ms": _percentiles(self.prompts),
            "events": len(self.delays),
            "prompts": len(self.prompts),
            "startup_s": round(self.startup, 2),
            "steps_per_s": round(self.steps / self.seconds, 2) if self.steps else None,
        }


def _percentiles(values: list[float]) -> dict[str, float | None]:
    names = [f"p{p}" if p < 100 else "max" for p in _PERCENTILES]
    found = np.percentile(values, _PERCENTILES).round(1).tolist() if values else [None] * 3
    return dict(zip(names, found, strict=True))


class Probe:
    """Keeps an event due every 10 ms and a prompt every 500 ms, and notes how late they are."""

    def __init__(self, predict: Callable[[], object], into: Measurement) -> None:
        self._predict = predict
        self._into = into
        self.active = False
        self._due = perf_counter()
        self._events, self._prompts = QTimer(), QTimer()
        self._events.setSingleShot(True)
        self._events.setTimerType(QtNames.TimerType.PreciseTimer)
        self._events.timeout.connect(self._event)
        self._prompts.setInterval(_PROMPT_MS)
        self._prompts.timeout.connect(self._prompt)
        self._waiting = False

    def start(self) -> None:
        self.active = True
        self._post()
        self._prompts.start()

    def stop(self) -> None:
        self.active = False
        self._events.stop()
        self._prompts.stop()

    def _post(self) -> None:
        self._due = perf_counter() + _EVENT_MS / 1e3
        self._events.start(_EVENT_MS)

    def _event(self) -> None:
        self._into.delays.append(max(0.0, perf_counter() - self._due) * 1e3)
        if self.active:
            self._post()

    def _prompt(self) -> None:
        if self._waiting:
            return
        self._waiting, began = True, perf_counter()

        def answered(_: object) -> None:
            self._waiting = False
            if self.active:
                self._into.prompts.append((perf_counter() - began) * 1e3)

        run(self._predict, on_result=answered)


def measure(
    condition: str,
    predict: Callable[[], object],
    work: Callable[[], Iterator[Any]] | None,
    seconds: float,
) -> Measurement:
    """Measure from the first training step to the last event; idle: for so many seconds."""
    found = Measurement(condition)
    probe, loop, began = Probe(predict, found), QEventLoop(), perf_counter()

    def receive(event: Any) -> None:
        if type(event).__name__ != "TrainingStep":
            return
        if not probe.active:
            found.startup = perf_counter() - began
            probe.start()
        found.steps, found.seconds = event.step, event.seconds

    def failed(error: Exception) -> None:
        print(f"{condition}: {type(error).__name__}: {error}")
        loop.quit()

    if work is None:
        probe.start()
        QTimer.singleShot(round(seconds * 1e3), loop.quit)
    else:
        start(work, on_event=receive, on_error=failed, on_done=loop.quit)
    loop.exec()
    probe.stop()
    return found


def benchmark(model: str, seconds: float, size: int) -> list[Measurement]:
    """Measure all conditions on one synthetic image."""
    import_workspace()
    import torch

    from napari_peftsam.annotation import PlaneKey
    from napari_peftsam.models import build_random
    from napari_peftsam.training import TrainingConfig
    from napari_peftsam.types import Point, Prompts
    from napari_peftsam.workspace import Workspace

    sample = generate(
        "fluorescence", (size, size), rng=np.random.default_rng(0), mean_diameter=size / 8
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(model)
        if model == "random":
            checkpoint = Path(folder) / "random.pt"
            torch.save(build_random("builtin").sam.state_dict(), checkpoint)
        workspace = Workspace()
        workspace.load_model(checkpoint if checkpoint.is_file() else model, "cpu")
        workspace.session.add_image("sample", sample.image)
        workspace.session.set_labels("sample", sample.labels.astype(np.int32))
        plane = PlaneKey("sample")
        for _ in workspace.embed(plane):
            pass
        embedding = workspace.embedding(plane)
        assert embedding is not None
        prompts = Prompts(points=(Point(size / 2, size / 2, True),))
        config = TrainingConfig(seconds=seconds, validations=2)

        def predict() -> object:
            return workspace.predict(embedding, prompts)

        predict()  # the first prediction warms the libraries up
        viewer = napari.Viewer()
        viewer.add_image(sample.image, name="sample")
        job = workspace.training_job(config)
        found = [
            measure("idle", predict, None, seconds),
            measure("child process", predict, lambda: process_events(job), seconds),
            measure("thread", predict, lambda: workspace.finetune(config), seconds),
        ]
        viewer.close()
    return found


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'condition':15}{'event delay, ms':>27}{'prompt to mask, ms':>27}",
        f"{'':15}" + f"{'p50':>9}{'p95':>9}{'max':>9}" * 2 + f"{'start, s':>10}{'steps/s':>9}",
    ]
    for row in rows:
        values = [*row["event_delay_ms"].values(), *row["prompt_to_mask_ms"].values()]
        shown = "".join(f"{'-' if v is None else v:>9}" for v in values)
        rate = "-" if row["steps_per_s"] is None else row["steps_per_s"]
        lines.append(f"{row['condition']:15}{shown}{row['startup_s']:>10}{rate:>9}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each condition")
    parser.add_argument("--size", type=int, default=256, help="pixels of the image's side")
    parser.add_argument("--model", default="random", help="name, checkpoint path or 'random'")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    found = benchmark(arguments.model, arguments.seconds, arguments.size)
    rows = [measurement.summary() for measurement in found]
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "load_average": load}
    report = {"machine": machine, "arguments": {**vars(arguments), "output": None}, "rows": rows}
    print(_table(rows))
    print(json.dumps(report))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps({**report, "raw": [asdict(m) for m in found]}))


if __name__ == "__main__":
    main()
