"""The whole loop on the shipped sample, without a user: prompt, correct, finetune, reload, export.

The annotator is simulated: its clicks and brush strokes are computed from the sample's labels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_peftsam.app._annotator import Annotated, annotate_object, choose_labels
from napari_peftsam.app._report import Comparison, answer, draw_figure, write_report
from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.finetuning import DocumentRun
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import ImageId, PlaneKey
from napari_peftsam.errors import ExportError
from napari_peftsam.evaluation import EvaluationConfig, EvaluationReport, evaluate
from napari_peftsam.export import FORMATS
from napari_peftsam.files import atomic_path
from napari_peftsam.files.outputs import check_output
from napari_peftsam.peft import CobotLoraConfig, save_adapter
from napari_peftsam.samples import shipped_samples
from napari_peftsam.training import (
    TrainEvent,
    TrainingConfig,
    TrainingReport,
)
from napari_peftsam.types import LabelArray, PixelArray

__all__ = [
    "DemoConfig",
    "DemoEvent",
    "DemoProgress",
    "DemoReport",
    "DemoStage",
    "demo",
    "run_demo",
]

Sample = tuple[str, PixelArray, LabelArray]

_ALL_SECONDS = 215.0  # of the four minutes; the rest is for starting and writing
_SHORTEST, _LONGEST = 15.0, 75.0  # seconds of training


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demo; the defaults fit into four minutes on two cores.

    Attributes
    ----------
    output
        Folder to write to; made if it is missing, but its parent must exist.
    seconds
        Training time; None takes what is left of four minutes, `_LONGEST` at most.
    objects_per_image
        How many objects the simulated annotator makes in each image, at most.
    held_out_objects
        How many held-out objects are measured, at most.
    """

    output: Path = Path("demo-output")
    choice: ModelChoice = field(default_factory=ModelChoice)
    seconds: float | None = None
    objects_per_image: int = 20
    held_out_objects: int = 45
    seed: int = 0


@dataclass(frozen=True)
class DemoStage:
    """A stage of the demo begins, or has a result."""

    text: str


@dataclass(frozen=True)
class DemoProgress:
    """A fraction in [0, 1] of the present stage is done."""

    fraction: float
    text: str


@dataclass(frozen=True)
class DemoReport:
    """Figures of the demo; the annotator was simulated.

    Attributes
    ----------
    annotated_objects, clicks_per_object, brushed_pixels
        What the simulated annotator did.
    val_iou_before, val_iou_after
        On the annotated objects that the training held out.
    reloaded
        Whether the trained adapter was better there and is live.
    before, after
        Quality on the held-out images, which were neither annotated nor trained on.
    curve
        ``(step, IoU)`` of every validation.
    files
        Everything written.
    """

    seconds: float
    annotated_objects: int
    clicks_per_object: float
    brushed_pixels: int
    training_steps: int
    trainable_parameters: int
    val_iou_before: float
    val_iou_after: float
    reloaded: bool
    before: EvaluationReport
    after: EvaluationReport
    curve: tuple[tuple[int, float], ...]
    files: tuple[str, ...]
    simulated_annotator: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        values = asdict(self)
        values |= {"before": self.before.to_dict(), "after": self.after.to_dict()}
        return values | {"curve": [list(point) for point in self.curve], "files": list(self.files)}


DemoEvent = DemoStage | DemoProgress | TrainEvent | DemoReport


def run_demo(
    config: DemoConfig | None = None, watch: Callable[[DemoEvent], object] = lambda _: None
) -> DemoReport:
    """Run `demo`, handing every event to `watch`, and return its report; slow."""
    for event in demo(config):
        watch(event)
        if isinstance(event, DemoReport):
            return event
    raise AssertionError("the demo ends with its report")


def demo(config: DemoConfig | None = None) -> Iterator[DemoEvent]:
    """Run the whole loop on the shipped sample images.

    A simulated annotator prompts, corrects and accepts objects of the training images;
    LoRA + COBOT learns from the accepted objects; the better adapter is reloaded; the held-out
    images are measured before and after; labels, adapter, figure and report are written.

    Yields
    ------
    DemoEvent
        Stages and progress, the training's own events, and last the `DemoReport`.

    Raises
    ------
    ExportError
        If the output folder cannot be written.
    PeftSamError
        If the model cannot be loaded.
    """
    config = config or DemoConfig()
    began = time.perf_counter()
    _prepare(config.output)
    yield DemoStage("the annotator of this demo is simulated: its clicks come from known labels")
    workspace = config.choice.open()
    training, held_out = _read("train"), _read("held_out")
    for name, pixels, _ in training:
        workspace.document.add_image(name, pixels)

    yield DemoStage(f"measuring {workspace.engine.model.name} on {len(held_out)} held-out images")
    started = time.perf_counter()
    before = yield from _measure(workspace, held_out, config)
    first = [answer(workspace.engine, pixels, labels) for _, pixels, labels in held_out]
    measuring = time.perf_counter() - started
    yield DemoStage(_figures(before))

    yield DemoStage(f"annotating {len(training)} images")
    made = yield from _annotate(workspace, training, config)
    clicks = sum(one.clicks for one in made) / len(made)
    yield DemoStage(
        f"accepted {len(made)} objects with {clicks:.1f} clicks each, then brushed them"
    )

    seconds = config.seconds or _time_left(time.perf_counter() - began, measuring)
    yield DemoStage(f"finetuning LoRA + COBOT on the accepted objects for {seconds:.0f} s")
    run = DocumentRun(
        workspace,
        TrainingConfig(method=CobotLoraConfig(), seconds=seconds, seed=config.seed),
    )
    yield from run.events(workspace.train(run.prepare()))
    finished, curve = run.result, tuple((step, iou) for step, _, iou in run.curve)
    assert finished is not None  # nothing cuts it off
    yield DemoStage(
        f"adapter {run.entry.name} is live"
        if run.entry
        else "no better state was found: the base stays"
    )

    yield DemoStage("measuring the live model on the held-out images again")
    after = yield from _measure(workspace, held_out, config)
    yield DemoStage(_figures(after))
    rows = [
        Comparison(name, pixels, labels, old, answer(workspace.engine, pixels, labels))
        for (name, pixels, labels), old in zip(held_out, first, strict=True)
    ]
    yield DemoStage(f"writing to {config.output}")
    files = _export(workspace, finished, config.output)
    report = DemoReport(
        time.perf_counter() - began, len(made), clicks, sum(one.brushed for one in made),
        finished.steps, finished.trainable_parameters, finished.iou_before, finished.iou_after,
        run.entry is not None, before, after, curve,
        (*files, "figure.png", "report.html", "summary.json"),
    )  # fmt: skip
    figure = draw_figure(rows)
    _write(config.output / "figure.png", figure)
    _write(config.output / "report.html", write_report(report, figure).encode())
    _write(config.output / "summary.json", json.dumps(report.to_dict(), indent=1).encode())
    yield report


def _time_left(elapsed: float, measuring: float) -> float:
    """Return the training time that leaves enough to measure once more."""
    return min(max(_ALL_SECONDS - elapsed - measuring, _SHORTEST), _LONGEST)


def _prepare(output: Path) -> None:
    for folder in (output, output / "labels"):
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ExportError(
                f"cannot make the folder {folder}: {reason}; choose another"
            ) from error
        check_output(folder / "x")


def _read(split: str) -> list[Sample]:
    return [(s.name, *s.read()) for s in shipped_samples() if s.split == split]


def _measure(
    workspace: Workspace, images: list[Sample], config: DemoConfig
) -> Generator[DemoProgress, None, EvaluationReport]:
    chosen = EvaluationConfig(max_objects=config.held_out_objects, seed=config.seed)
    engine = workspace.engine
    for event in evaluate(engine.model, images, chosen, adapter=engine.encoder_adapter):
        if isinstance(event, EvaluationReport):
            return event
        yield DemoProgress(getattr(event, "fraction", 0.0), "measuring")
    raise AssertionError("an evaluation ends with its report")


def _figures(report: EvaluationReport) -> str:
    return (
        f"IoU from a box {report.box_iou:.3f}, from a point {report.point_iou:.3f}; "
        f"{report.noc80:.2f} clicks to 80 % IoU ({report.objects} objects)"
    )


def _annotate(
    workspace: Workspace, images: list[Sample], config: DemoConfig
) -> Generator[DemoProgress, None, list[Annotated]]:
    made: list[Annotated] = []
    for index, (name, _, truth) in enumerate(images):
        labels = choose_labels(truth, config.objects_per_image, config.seed)
        for number, label in enumerate(labels):
            share = (index + number / len(labels)) / len(images)
            yield DemoProgress(share, f"annotating {name}, object {number + 1}")
            one = annotate_object(workspace, PlaneKey(ImageId(name)), truth == label)
            made += [] if one is None else [one]
    return made


def _export(workspace: Workspace, finished: TrainingReport, output: Path) -> list[str]:
    """Write adapter and labels in all formats; return the names of the files."""
    save_adapter(finished.adapter, output / "adapter.safetensors")
    written = [
        workspace.export_labels(name, output / "labels" / f"{name}{known.suffixes[0]}", known.name)
        for name in workspace.document.images
        for known in FORMATS.values()
    ]
    return ["adapter.safetensors", *(str(path.relative_to(output)) for path in written)]


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
