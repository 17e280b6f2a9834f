"""``napari-peftsam demo``: the whole loop on the shipped sample."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._console import Progress, emit, say
from ._options import MODEL, SEED, Json, Values, grouped, seconds
from .finetune import TrainingProgress
from .open_viewer import check_display, start_viewer

if TYPE_CHECKING:
    from napari_peftsam.app.demo import DemoEvent, DemoReport

_FOLDER = Path("demo-output")


@grouped(run=(*(each for each in MODEL if each.name in ("model", "device", "frame")), *SEED))
def demo(
    *,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write to, made if it is missing.  [default: demo-output]"),
    ] = None,
    gui: Annotated[
        bool,
        typer.Option(
            "--gui", help="Open the sample in napari instead, or, with --output, afterwards."
        ),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Training time.  [default: up to 75s, so that all takes 4 minutes at most]"
        ),
    ] = None,
    run: Values,
    as_json: Json = False,
) -> None:
    """Prompt, correct, finetune, reload and export on a real sample; the annotator is simulated.

    Held-out images are measured before and after, and a figure and a report are written.
    Takes up to four minutes on two cores and needs no display.
    """
    if gui:
        check_display()  # not only after minutes
    if output is not None or not gui:
        _run(output or _FOLDER, budget, as_json, **run)
    if gui:
        start_viewer([], sample="histology")


def _run(output: Path, budget: str | None, as_json: bool, *, seed: int, **model: Any) -> None:
    time = None if budget is None else seconds(budget)

    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.demo import DemoConfig, DemoStage, run_demo

    choice = ModelChoice(**model)
    with Progress() as progress:
        training = TrainingProgress(progress)

        def watch(event: DemoEvent) -> None:
            if not isinstance(event, DemoStage):
                training.show(event)
            elif event.fraction is None:
                progress.end()
                say(event.text)
            else:
                progress.show(event.fraction, event.text)

        report = run_demo(DemoConfig(output, choice, time, seed=seed), watch)
    emit(report.to_dict(), as_json, _text(report, output))


def _text(report: DemoReport, output: Path) -> str:
    before, after = report.before, report.after
    return (
        "held-out images (simulated annotator)   before   after\n"
        f"  IoU from a box                        {before.box_iou:6.3f}  {after.box_iou:6.3f}\n"
        f"  IoU from one click                    {before.point_iou:6.3f}  {after.point_iou:6.3f}\n"
        f"  clicks to 80 % IoU                    {before.noc80:6.2f}  {after.noc80:6.2f}\n"
        f"{report.verdict}.{report.beside}\n"
        f"took {report.seconds:.0f} s; see {output / 'report.html'}"
    )
