"""``napari-peftsam evaluate``: agreement of prompted masks with labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_peftsam.configs import AutomaticConfig, EvaluationConfig, LabelsAre
from napari_peftsam.errors import ConfigurationError, count_text

from ._console import Progress, emit, say
from ._options import (
    NUMBER_PIECES,
    READING,
    SOURCE,
    Json,
    Values,
    changed_options,
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
    from napari_peftsam.metadata import ReadOptions


@grouped(
    source=(*SOURCE, *READING, NUMBER_PIECES),
    model=project_model_options(),
    sample=options_of(EvaluationConfig, "max_objects", "seed"),
    automatic=options_of(AutomaticConfig, "eager", "min_size", "fast"),
)
def evaluate(  # noqa: PLR0913
    *,
    source: Values,
    model: Values,
    sample: Values,
    without_prompts: Annotated[
        bool,
        typer.Option("--automatic", help="Measure the segmentation without prompts instead."),
    ] = False,
    labels_are: Annotated[
        LabelsAre | None,
        typer.Option(
            help="complete: unlabelled is background; sparse: unknown. For --automatic.  "
            "[default: complete]"
        ),
    ] = None,
    automatic: Values,
    as_json: Json = False,
) -> None:
    """Measure how well prompts are answered: IoU from a point, a box and 1 to 10 clicks.

    With --project, on its objects and with its live adapter; it may be open in a viewer. I_P and
    I_B are the IoU after 8 rounds of prompts that begin with a point or a box; NoC80, 85 and 90
    the mean clicks to 80, 85 and 90 % IoU, at most 10. Each comes with its 95 % interval. Objects
    under 25 pixels are left out and counted.
    """
    reading = read_options(source)
    folders, project = folders_of(**source), source["project"]
    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.folders import evaluate_folders
    from napari_peftsam.app.project_commands import evaluate_project
    from napari_peftsam.evaluation import EvaluationProgress

    if without_prompts:
        if changed := changed_options(EvaluationConfig, sample):
            raise ConfigurationError(
                f"--{changed[0].replace('_', '-')} is for a sample of objects to prompt: leave it "
                "out, --automatic looks at all of them"
            )
        labels_are = labels_are or "complete"
        _automatic(folders, project, model, reading, automatic, labels_are, as_json)
        return
    changed = changed_options(AutomaticConfig, automatic)
    if labels_are or changed:
        name = changed[0] if changed else "labels_are"
        raise ConfigurationError(
            f"--{name.replace('_', '-')} is for a segmentation without prompts: give --automatic "
            "as well"
        )
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


def _automatic(  # noqa: PLR0913, PLR0917
    folders: tuple[Path, Path] | None,
    project: Path | None,
    model: Values,
    reading: ReadOptions,
    values: Values,
    labels_are: LabelsAre,
    as_json: bool,
) -> None:
    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.folders import evaluate_folders_automatically

    config = configure(AutomaticConfig, **values)
    if folders is None:
        raise ConfigurationError("--automatic needs folders of images and labels, not a project")
    model["model"] = model["model"] or default_model(project)
    with Progress() as progress:
        report = evaluate_folders_automatically(
            *folders, config, ModelChoice(**model),
            lambda event: progress.show(event.fraction, event.name), reading, labels_are,
        )  # fmt: skip
    found = report.to_dict()
    lines = [
        f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in found.items()
        if value is not None and not isinstance(value, dict | list)
    ]
    emit(found, as_json, "\n".join(lines))


_COLUMNS = {
    "point_iou": "point",
    "box_iou": "box",
    "ip_iou": "I_P",
    "ib_iou": "I_B",
    "noc80": "NoC80",
    "noc85": "NoC85",
    "noc90": "NoC90",
}


def _text(report: EvaluationReport) -> str:
    curve = " ".join(f"{value:.3f}" for value in report.iou_at_clicks)
    correlation, ranking, area = (
        "-" if value is None else f"{value:.2f}"
        for value in (report.score_correlation, report.score_ranking, report.area_ranking)
    )
    return (
        f"{count_text(report.objects, 'object')} in {count_text(report.images, 'image')}, "
        f"{report.skipped_small} too small\n"
        f"{_table(report)}\n"
        f"IoU after 1, 2, ... clicks: {curve}\n"
        f"predicted scores: correlation with IoU {correlation}; they rank the candidates of one "
        f"click {ranking}, their area {area} (1: as IoU does, 0: by chance, -1: reversed)"
    )


def _table(report: EvaluationReport) -> str:
    """Return the mean figures of each image and of all, with their intervals."""
    whole = {name: getattr(report, name) for name in _COLUMNS}
    rows = [("image", "objects", *_COLUMNS.values())]
    rows += [
        (name, str(objects), *(_cell(means[key], intervals[key]) for key in _COLUMNS))
        for name, objects, means, intervals in (
            *((i.name, i.objects, i.means, i.intervals) for i in report.per_image),
            ("all", report.objects, whole, report.intervals),
        )
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def _cell(mean: float, interval: tuple[float, float] | None) -> str:
    return (
        f"{mean:.2f}" if interval is None else f"{mean:.2f} ({interval[0]:.2f}–{interval[1]:.2f})"
    )
