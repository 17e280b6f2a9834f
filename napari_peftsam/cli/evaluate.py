"""``napari-peftsam evaluate``: how well a model answers prompts on labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ._console import Progress, emit, say
from ._options import (
    Adapter,
    Device,
    Images,
    Json,
    Labels,
    Precision,
    Project,
    ProjectModel,
    Seed,
    configure,
    folders_of,
)

if TYPE_CHECKING:
    from napari_peftsam.evaluation import EvaluationEvent, EvaluationReport

__all__ = ["evaluate"]


def evaluate(  # noqa: PLR0913, PLR0917  # one parameter per option
    images: Images = None,
    labels: Labels = None,
    project: Project = None,
    model: ProjectModel = None,
    adapter: Adapter = None,
    max_objects: Annotated[
        int | None, typer.Option(min=1, help="Evaluate a random sample of this many objects.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Measure how well prompts are answered: IoU from a point, a box and 1 to 10 clicks.

    With --project, on its objects and with its live adapter; it may be open in a viewer. noc80
    and noc90 are the mean clicks to 80 and 90 % IoU, at most 10. Objects under 25 pixels are
    left out and counted.
    """
    folders = folders_of(images, labels, project)
    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.folders import evaluate_folders
    from napari_peftsam.app.project_commands import evaluate_project, project_model
    from napari_peftsam.evaluation import EvaluationConfig, EvaluationProgress

    config = configure(EvaluationConfig, max_objects=max_objects, seed=seed)
    with Progress() as progress:

        def watch(event: EvaluationEvent) -> None:
            if isinstance(event, EvaluationProgress):
                progress.show(event.fraction, event.name)

        if folders is None:
            assert project is not None
            choice = ModelChoice(model or project_model(project), adapter, device, precision)
            report = evaluate_project(project, config, choice, watch, say)
        else:
            choice = ModelChoice(model or "builtin", adapter, device, precision)
            report = evaluate_folders(*folders, config, choice, watch)
    emit(report.to_dict(), as_json, _text(report))


def _text(report: EvaluationReport) -> str:
    curve = " ".join(f"{value:.3f}" for value in report.iou_at_clicks)
    return (
        f"{report.objects} objects in {report.images} images, {report.skipped_small} too small\n"
        f"IoU from one point {report.point_iou:.3f}, from a box {report.box_iou:.3f}\n"
        f"IoU after 1, 2, ... clicks: {curve}\n"
        f"clicks to 80 % IoU {report.noc80:.2f}, to 90 % IoU {report.noc90:.2f}\n"
        f"predicted scores: correlation with IoU {_number(report.score_correlation)}; they rank "
        f"the candidates of one click {_number(report.score_ranking)}, their area "
        f"{_number(report.area_ranking)} (1: as IoU does, 0: by chance, -1: reversed)"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
