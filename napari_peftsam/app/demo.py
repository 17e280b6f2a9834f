"""The whole loop on the shipped sample, without a user: prompt, correct, finetune, reload, export.

The annotator is simulated: its clicks and brush strokes are computed from the sample's labels.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.app._report import draw_figure, segment_from_clicks, write_report
from napari_peftsam.app.app import predict_pending
from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.exchange import export_image
from napari_peftsam.app.finetuning import DocumentRun, train
from napari_peftsam.app.runner import run as run_inline
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import (
    Accept,
    AddPoint,
    Discard,
    Document,
    ImageId,
    PaintAtom,
    PlaneKey,
    paint,
)
from napari_peftsam.errors import ExportError, PromptError
from napari_peftsam.evaluation import EvaluationConfig, EvaluationReport, Target, evaluate
from napari_peftsam.export import FORMATS
from napari_peftsam.files import atomic_path
from napari_peftsam.outputs import check_output
from napari_peftsam.peft import CobotLoraConfig, save_adapter
from napari_peftsam.samples import shipped_samples
from napari_peftsam.training import TrainEvent, TrainingConfig
from napari_peftsam.types import BoolArray, LabelArray, PixelArray

Sample = tuple[str, PixelArray, LabelArray]

_ALL_SECONDS = 215.0  # of the four minutes; the rest is for starting and writing
_SHORTEST, _LONGEST = 15.0, 75.0  # seconds of training
_GOOD_IOU = 0.8
_MOST_CLICKS = 4
_MIN_AREA = 25  # pixels; nobody clicks on less


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
    """A stage of the demo begins or has a result; or a fraction of it, in [0, 1], is done."""

    text: str
    fraction: float | None = None


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
        True if the trained adapter was better there, so that the program makes it live.
    verdict
        The comparison of both there, in a sentence.
    before, after
        Quality of the base and of the trained adapter on the held-out images, which were neither
        annotated nor trained on.
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
    verdict: str
    before: EvaluationReport
    after: EvaluationReport
    curve: tuple[tuple[int, float], ...]
    files: tuple[str, ...]
    simulated_annotator: bool = True

    @property
    def beside(self) -> str:
        """What the demo does beside the verdict; empty if it went by it."""
        return "" if self.reloaded else " The demo measures the trained one all the same."

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        values = asdict(self)
        values |= {"before": self.before.to_dict(), "after": self.after.to_dict()}
        return values | {"curve": [list(point) for point in self.curve], "files": list(self.files)}


DemoEvent = DemoStage | TrainEvent


def run_demo(
    config: DemoConfig | None = None, watch: Callable[[DemoEvent], object] = lambda _: None
) -> DemoReport:
    """Run `demo`, handing every event to `watch`, and return its report; slow."""
    return run_inline(demo(config), watch)


def demo(config: DemoConfig | None = None) -> Generator[DemoEvent, None, DemoReport]:
    """Run the whole loop on the shipped sample images.

    A simulated annotator prompts, corrects and accepts objects of the training images; LoRA +
    COBOT, which changes little, learns from them: on so few objects it saved more clicks than
    the recommended recipe. The adapter is reloaded, whether or not the few objects held out in
    the training images show that it is better; the held-out images, of which there are more, are
    measured before and after; labels, adapter, figure and report are written.

    Yields
    ------
    DemoEvent
        Stages and progress, and the training's own events.
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
    before, old = yield from _measure(workspace, held_out, config)
    measuring = time.perf_counter() - started
    made = yield from _annotate(workspace, training, config)
    seconds = config.seconds or _time_left(time.perf_counter() - began, measuring)
    run = yield from _finetune(workspace, seconds, config.seed)
    finished, adapter = run.result, config.output / "adapter.safetensors"
    assert finished is not None  # nothing cuts it off
    save_adapter(finished.adapter, adapter)
    if run.entry is None:
        workspace.load_adapter(adapter)
    yield DemoStage("measuring the trained model on the held-out images")
    after, new = yield from _measure(workspace, held_out, config)

    yield DemoStage(f"writing to {config.output}")
    files = _export(workspace.document, config.output)
    report = DemoReport(
        time.perf_counter() - began, len(made), sum(one.clicks for one in made) / len(made),
        sum(one.brushed for one in made),
        finished.steps, finished.trainable_parameters, finished.iou_before, finished.iou_after,
        run.entry is not None, finished.verdict.sentence, before, after,
        tuple((step, iou) for step, _, iou in run.curve),
        (*files, "figure.png", "report.html", "summary.json"),
    )  # fmt: skip
    figure = draw_figure(
        [(*one, *both) for one, both in zip(held_out, zip(old, new, strict=True), strict=True)]
    )
    for name, content in (
        ("figure.png", figure),
        ("report.html", write_report(report, figure).encode()),
        ("summary.json", json.dumps(report.to_dict(), indent=1).encode()),
    ):
        with atomic_path(config.output / name) as temporary:
            temporary.write_bytes(content)
    return report


def _finetune(
    workspace: Workspace, seconds: float, seed: int
) -> Generator[DemoEvent, None, DocumentRun]:
    yield DemoStage(f"finetuning LoRA + COBOT on the accepted objects for {seconds:.0f} s")
    config = TrainingConfig(method=CobotLoraConfig(), seconds=seconds, seed=seed)
    run = DocumentRun(workspace, config)
    yield from run.events(train(run.prepare(), model=workspace.engine.bare_copy()))
    stays = "not shown to be better: the base would stay, the demo tries the adapter all the same"
    yield DemoStage(f"adapter {run.entry.name} is live" if run.entry else stays)
    return run


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
) -> Generator[DemoEvent, None, tuple[EvaluationReport, list[LabelArray]]]:
    """Evaluate the live model; return the figures, and its labels of each image."""
    chosen = EvaluationConfig(max_objects=config.held_out_objects, seed=config.seed)
    engine = workspace.engine
    for event in evaluate(engine.model, images, chosen, adapter=engine.live.encoder):
        if isinstance(event, EvaluationReport):
            report = event
        else:
            yield DemoStage("measuring", getattr(event, "fraction", 0.0))
    labels = [segment_from_clicks(engine, pixels, truth) for _, pixels, truth in images]
    yield DemoStage(
        f"IoU from a box {report.box_iou:.3f}, from a point {report.point_iou:.3f}; "
        f"{report.noc80:.2f} clicks to 80 % IoU ({report.objects} objects)"
    )
    return report, labels


def _annotate(
    workspace: Workspace, images: list[Sample], config: DemoConfig
) -> Generator[DemoEvent, None, list[_Annotated]]:
    yield DemoStage(f"annotating {len(images)} images")
    made: list[_Annotated] = []
    for index, (name, _, truth) in enumerate(images):
        labels = choose_labels(truth, config.objects_per_image, config.seed)
        for number, label in enumerate(labels):
            share = (index + number / len(labels)) / len(images)
            yield DemoStage(f"annotating {name}, object {number + 1}", share)
            one = annotate_object(workspace, PlaneKey(ImageId(name)), truth == label)
            made += [] if one is None else [one]
    clicks = sum(one.clicks for one in made) / len(made)
    yield DemoStage(
        f"accepted {len(made)} objects with {clicks:.1f} clicks each, then brushed them"
    )
    return made


def _export(document: Document, output: Path) -> list[str]:
    """Write labels in all formats; return the names of the files, and of the adapter's."""
    written = [
        export_image(document, name, output / "labels" / f"{name}{known.suffixes[0]}", known.name)
        for name in document.images
        for known in FORMATS.values()
    ]
    return ["adapter.safetensors", *(str(path.relative_to(output)) for path in written)]


# --- the annotator --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Annotated:
    """One object of the annotator: its clicks, and the pixels brushed after."""

    label: int
    clicks: int
    brushed: int


def choose_labels(truth: LabelArray, at_most: int, seed: int) -> list[int]:
    """Return the labels of at most `at_most` objects, drawn at random, ascending."""
    labels, areas = np.unique(truth[truth > 0], return_counts=True)
    labels = labels[areas >= _MIN_AREA]
    order = np.random.default_rng(seed).permutation(labels)
    return sorted(int(label) for label in order[:at_most])


def annotate_object(workspace: Workspace, plane: PlaneKey, truth: BoolArray) -> _Annotated | None:
    """Click until the mask is good or patience ends, accept it, and brush away what is wrong.

    Parameters
    ----------
    truth
        ``(H, W)`` the object that the annotator sees.

    Returns
    -------
    _Annotated or None
        None if other objects cover all of the mask: then nothing is accepted.
    """
    target, document = Target.from_mask(truth), workspace.document
    click, clicks = target.first_click(), 0
    while True:
        document.do(AddPoint(plane, click))
        mask = predict_pending(workspace).whole()
        clicks, correction = clicks + 1, target.next_click(mask)
        if target.iou(mask) >= _GOOD_IOU or clicks == _MOST_CLICKS or correction is None:
            break
        click = correction
    try:
        label = document.do(Accept())
    except PromptError:
        document.do(Discard())
        return None
    return _Annotated(label, clicks, _brush(workspace, plane, label, truth))


def _brush(workspace: Workspace, plane: PlaneKey, label: int, truth: BoolArray) -> int:
    """Make the object equal to the truth, without painting over others; return the pixels."""
    labels = workspace.document.labels(plane)
    strokes = [((labels == 0) & truth, 0, label), ((labels == label) & ~truth, label, 0)]
    atoms = [PaintAtom(np.nonzero(where), old, new) for where, old, new in strokes if where.any()]
    action = paint(workspace.document.image(plane.image), atoms)
    if action is not None:
        workspace.document.do(action)
    return int(sum(np.count_nonzero(where) for where, _, _ in strokes))
