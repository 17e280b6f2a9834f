"""``napari-peftsam evaluate``: agreement of prompted masks with labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_peftsam.configs import EvaluationConfig

from ._console import Progress, counted, emit, say
from ._options import (
    NUMBER_PIECES,
    READING,
    SOURCE,
    Json,
    Values,
    configure,
    default_model,
    folders_of,
    grouped,
    options_of,
    project_model_options,
    read_options,
)

if TYPE_CHECKING:
    from napari_peftsam.evaluation import EvaluationEvent, EvaluationReport


@grouped(
    source=(*SOURCE, *READING, NUMBER_PIECES),
    model=project_model_options(),
    sample=options_of(EvaluationConfig, "max_objects", "seed"),
)
def evaluate(*, source: Values, model: Values, sample: Values, as_json: Json = False) -> None:
    """Measure how well prompts are answered: IoU from a point, a box and 1 to 10 clicks.

    With --project, on its objects and with its live adapter; it may be open in a viewer. noc80
    and noc90 are the mean clicks to 80 and 90 % IoU, at most 10. Objects under 25 pixels are
    left out and counted.
    """
    reading = read_options(source)
    folders, project = folders_of(**source), source["project"]
    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.folders import evaluate_folders
    from napari_peftsam.app.project_commands import evaluate_project
    from napari_peftsam.evaluation import EvaluationProgress

    config = configure(EvaluationConfig, **sample)
    with Progress() as progress:

        def watch(event: EvaluationEvent) -> None:
            if isinstance(event, EvaluationProgress):
                progress.show(event.fraction, event.name)

        model["model"] = model["model"] or default_model(project)
        choice = ModelChoice(**model)
        if folders is None:
            report = evaluate_project(project, config, choice, watch, say)
        else:
            report = evaluate_folders(*folders, config, choice, watch, reading)
    emit(report.to_dict(), as_json, _text(report))


def _text(report: EvaluationReport) -> str:
    curve = " ".join(f"{value:.3f}" for value in report.iou_at_clicks)
    correlation, ranking, area = (
        "-" if value is None else f"{value:.2f}"
        for value in (report.score_correlation, report.score_ranking, report.area_ranking)
    )
    return (
        f"{counted(report.objects, 'object')} in {counted(report.images, 'image')}, "
        f"{report.skipped_small} too small\n"
        f"IoU from one point {report.point_iou:.3f}, from a box {report.box_iou:.3f}\n"
        f"IoU after 1, 2, ... clicks: {curve}\n"
        f"clicks to 80 % IoU {report.noc80:.2f}, to 90 % IoU {report.noc90:.2f}\n"
        f"predicted scores: correlation with IoU {correlation}; they rank the candidates of one "
        f"click {ranking}, their area {area} (1: as IoU does, 0: by chance, -1: reversed)"
    )
