"""How responsive the viewer is while a model is finetuned: stalls, and prompt to mask.

Run ``python tests/benchmarks/event_loop_latency.py`` (with ``xvfb-run -a`` where there is
no display). A real viewer with the annotate dock is open; every 10 ms an event is due, and
its delay is what a user feels as stutter. Twice a second a prompt is given, and its mask
awaited. Meanwhile the objects of the image are trained on: in a child process that pauses
while a prompt is answered, in one that does not, and in a thread. All conditions are
measured in the same run, with quiet stretches between them that make up "idle", so that
other programs' load is in both sides of the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtCore import Qt as QtNames
from qtpy.QtWidgets import QApplication

from napari_peftsam.app.child import TrainingProcess
from napari_peftsam.document import AddPoint, Discard, ImportLabels, PlaneKey
from napari_peftsam.pretraining.synthetic import generate
from napari_peftsam.types import Point
from napari_peftsam.widgets._runner import ThreadRunner
from napari_peftsam.widgets.annotate import AnnotateDock
from napari_peftsam.widgets.session import session_of
from tests.workspace._steps import training

_EVENT_MS = 10
_PROMPT_MS = 500
_PERCENTILES = (50, 95, 100)
_GOAL_RATIO, _GOAL_STALL = 2.0, 50.0  # busy to idle medians; ms
_STRETCHES = 2  # each condition is measured so many times, in turn


@dataclass
class Measurement:
    """What one condition cost; times in milliseconds."""

    condition: str
    delays: list[float] = field(default_factory=list)
    prompts: list[float] = field(default_factory=list)
    startup: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    last: tuple[int, float] = (0, 0.0)

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
    """Keeps an event due every 10 ms and gives a prompt every 500 ms; notes how late both are."""

    def __init__(self, dock: AnnotateDock, points: Iterator[Point], into: Measurement) -> None:
        self._document, self._points, self._into = dock.document, points, into
        self.active = False
        self._due = self._asked = 0.0
        self._events, self._prompts = QTimer(), QTimer()
        self._events.setSingleShot(True)
        self._events.setTimerType(QtNames.TimerType.PreciseTimer)
        self._events.timeout.connect(self._event)
        self._prompts.setInterval(_PROMPT_MS)
        self._prompts.timeout.connect(self._prompt)

    def start(self) -> None:
        self.active = True
        # Connected last, hence called when the mask is in its layer.
        self._document.events.candidates_changed.connect(self._answered)
        self._post()
        self._prompts.start()

    def stop(self) -> None:
        self.active = False
        self._events.stop()
        self._prompts.stop()
        self._document.events.candidates_changed.disconnect(self._answered, missing_ok=True)

    def _post(self) -> None:
        self._due = perf_counter() + _EVENT_MS / 1e3
        self._events.start(_EVENT_MS)

    def _event(self) -> None:
        self._into.delays.append(max(0.0, perf_counter() - self._due) * 1e3)
        if self.active:
            self._post()

    def _prompt(self) -> None:
        if self._asked:
            return
        self._document.do(Discard())
        self._asked = perf_counter()
        self._document.do(AddPoint(PlaneKey("sample"), next(self._points)))

    def _answered(self) -> None:
        current = self._document.current
        if self._asked and current is not None and current.mask is not None:
            self._into.prompts.append((perf_counter() - self._asked) * 1e3)
            self._asked = 0.0


@dataclass
class Bench:
    """A viewer with an annotated image, and what is measured in it."""

    dock: AnnotateDock
    points: Iterator[Point]
    seconds: float
    found: dict[str, Measurement]

    def measure(self, condition: str, work: Callable[[], Iterator[Any]] | None) -> None:
        """Measure from the first training step to the last event; idle: for so many seconds."""
        into = self.found.setdefault(condition, Measurement(condition))
        probe, loop, began = Probe(self.dock, self.points, into), QEventLoop(), perf_counter()

        def receive(event: Any) -> None:
            if type(event).__name__ != "TrainingStep":
                return
            if not probe.active:
                into.startup = perf_counter() - began
                probe.start()
            into.last = event.step, event.seconds

        def failed(error: Exception) -> None:
            print(f"{condition}: {type(error).__name__}: {error}")
            loop.quit()

        if work is None:
            probe.start()
            QTimer.singleShot(round(self.seconds * 1e3), loop.quit)
        else:
            ThreadRunner().start(
                work, on_event=receive, on_error=failed, on_done=lambda _: loop.quit()
            )
        loop.exec()
        probe.stop()
        into.steps, into.seconds = into.steps + into.last[0], into.seconds + into.last[1]


def _wait(condition: Callable[[], object]) -> None:
    while not condition():
        QApplication.processEvents()
        sleep(0.01)


def benchmark(model: str, seconds: float, size: int, threads: bool) -> list[Measurement]:
    """Measure all conditions on one synthetic image."""
    from napari_peftsam.widgets.session import find_models

    find_models()
    import torch

    from napari_peftsam.models import build_random
    from napari_peftsam.training import TrainingConfig

    sample = generate(
        "fluorescence", (size, size), rng=np.random.default_rng(0), mean_diameter=size / 8
    )
    with tempfile.TemporaryDirectory() as folder:
        source = model
        if model in ("random", "vit_b"):
            source = str(Path(folder) / "random.pt")
            arch = "builtin" if model == "random" else model
            torch.save(build_random(arch).sam.state_dict(), source)
        viewer = napari.Viewer()
        viewer.add_image(sample.image, name="sample")
        owner = session_of(viewer)
        owner.open(source)
        dock = AnnotateDock(viewer)
        viewer.window.add_dock_widget(dock, name="Annotate")
        _wait(lambda: dock.prompting.state.kind == "ready")
        workspace = owner.require()
        owner.document.do(ImportLabels("sample", sample.labels.astype(np.int32)))
        rng = np.random.default_rng(1)
        points = cycle([Point(*xy) for xy in rng.uniform(0, size - 1, (1000, 2)).tolist()])
        config = TrainingConfig(seconds=seconds, validations=2)
        bench = Bench(dock, points, seconds, {})

        def child(polite: bool) -> Iterator[Any]:
            process = TrainingProcess(workspace.prepare_training(config))

            def give_way(awaited: bool) -> None:
                (process.pause if awaited else process.go_on)()

            if polite:
                owner.events.awaited_changed.connect(give_way)
            try:
                yield from process.events()
            finally:
                owner.events.awaited_changed.disconnect(give_way, missing_ok=True)

        bench.measure("warm-up", None)
        for _ in range(_STRETCHES):
            bench.measure("idle", None)
            bench.measure("child process", lambda: child(polite=True))
            bench.measure("idle", None)
            bench.measure("child, no pauses", lambda: child(polite=False))
            if threads:
                bench.measure("thread", lambda: training(workspace, config))
        viewer.close()
    del bench.found["warm-up"]
    return list(bench.found.values())


def verdicts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that goals are set for, and whether they are reached."""
    idle, busy = (
        next(r for r in rows if r["condition"] == name) for name in ("idle", "child process")
    )
    medians = [r["prompt_to_mask_ms"]["p50"] for r in (idle, busy)]
    ratio = round(medians[1] / medians[0], 2)
    stall = busy["event_delay_ms"]["p95"]
    return {
        "idle_median_ms": medians[0],
        "busy_median_ms": medians[1],
        "ratio": ratio,
        "stall_ms": busy["event_delay_ms"],
        "reached": ratio <= _GOAL_RATIO and stall <= _GOAL_STALL,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'condition':17}{'event delay, ms':>27}{'prompt to mask, ms':>27}",
        f"{'':17}" + f"{'p50':>9}{'p95':>9}{'max':>9}" * 2 + f"{'start, s':>10}{'steps/s':>9}",
    ]
    for row in rows:
        values = [*row["event_delay_ms"].values(), *row["prompt_to_mask_ms"].values()]
        shown = "".join(f"{'-' if v is None else v:>9}" for v in values)
        rate = "-" if row["steps_per_s"] is None else row["steps_per_s"]
        lines.append(f"{row['condition']:17}{shown}{row['startup_s']:>10}{rate:>9}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each condition")
    parser.add_argument("--size", type=int, default=256, help="pixels of the image's side")
    parser.add_argument(
        "--model", default="builtin", help="name, checkpoint path, 'random' or 'vit_b' (random)"
    )
    parser.add_argument("--threads", action="store_true", help="also train in a thread")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    found = benchmark(arguments.model, arguments.seconds, arguments.size, arguments.threads)
    rows = [measurement.summary() for measurement in found]
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "load_average": load}
    report = {"machine": machine, "arguments": {**vars(arguments), "json": None}, "rows": rows}
    report["goals"] = verdicts(rows)
    print(_table(rows))
    print(json.dumps(report))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**report, "raw": [asdict(m) for m in found]}))


if __name__ == "__main__":
    main()
