"""``napari-peftsam finetune``: labelled folders in and an adapter file out, or in a project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from napari_peftsam.configs import DEFAULT_BUDGET, TrainingOptions
from napari_peftsam.errors import ConfigurationError, count_text

from ._console import INTERRUPTED, Progress, emit, graceful_interrupt, leads, say
from ._options import (
    METHOD,
    NUMBER_PIECES,
    READING,
    SOURCE,
    Json,
    Values,
    configure,
    default_model,
    folders_of,
    grouped,
    method_options,
    option,
    options_of,
    project_model_options,
    read_options,
    seconds,
)

if TYPE_CHECKING:
    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.finetuning import FinetuneReport
    from napari_peftsam.training import TrainEvent

_RECIPE = (
    "Settings that belong together, instead of a method and its options: recommended (for the "
    "model and this computer), peft-sam, peft-sam-many, peft-sam-small, peft-sam-trainer, cobot "
    "or cobot-adaptformer.  [default: recommended, unless a method is named]"
)
_OUTPUT = (
    "Adapter file to write (.safetensors); needed with folders, with --project beside what the "
    "project keeps."
)
_BUDGET = (
    "Time for training and validation, without loading, as 120s or 2m.  "
    f"[default: {DEFAULT_BUDGET:.0f}s]"
)
_TRAINING = options_of(
    TrainingOptions,
    "learning_rate",
    "steps",
    "epochs",
    "objects_at_once",
    "checkpointing",
    "check_on",
    "leave_out",
    "seed",
    "early_stopping",
    "automatic",
    "labels_are",
    images_per_step="as many as there are processes of torchrun, which share them",
    **dict.fromkeys(("rounds", "prompts", "loss", "schedule", "validations"), ""),
)


@grouped(
    source=(*SOURCE, *READING, NUMBER_PIECES),
    model=project_model_options("Adapter file to go on from."),
    method=(option("recipe", str | None, help=_RECIPE), *METHOD),
    training=(option("budget", str | None, help=_BUDGET), *_TRAINING),
)
def finetune(
    *,
    source: Values,
    output: Annotated[Path | None, typer.Option(help=_OUTPUT)] = None,
    model: Values,
    method: Values,
    training: Values,
    as_json: Json = False,
) -> None:
    """Finetune on folders of images and labels that have the same names, or on a project.

    Some of the images are held out; the last state is saved, or an earlier one that is better
    on them by more than noise, which may be the start. In a project it becomes the next version,
    live, if it saves clicks there or answers the same prompts better, by more than chance. Ctrl-C
    ends the training and keeps the state so far. With several GPUs:
    torchrun --nproc-per-node 4 -m napari_peftsam finetune ...
    """
    reading = read_options(source)
    folders, project = folders_of(**source), source["project"]
    if folders and output is None:
        raise ConfigurationError("there is no output: name the adapter file to write by --output")
    _set_budget(training)
    recipe, options = method.pop("recipe"), method_options(method)

    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.training import TrainingConfig, team_size

    model["model"] = model["model"] or default_model(project)
    choice = ModelChoice(**model)
    settings, preface = _method_or_recipe(choice, recipe, options)
    given = {name: value for name, value in training.items() if value is not None}
    config = configure(TrainingConfig, **{"images_per_step": team_size()} | settings | given)
    if output and choice.adapter and output.exists() and output.samefile(choice.adapter):
        preface = "\n".join(filter(None, [preface, f"{output} is replaced by its continuation"]))

    def train(watch: Callable[[TrainEvent], bool]) -> FinetuneReport:
        if folders is not None and output is not None:
            from napari_peftsam.app.folders import finetune_folders

            return finetune_folders(*folders, output, config, choice, watch, reading)
        from napari_peftsam.app.project_commands import finetune_project

        return finetune_project(project, config, choice, output, watch, say)

    _show(train, preface, as_json)


def _set_budget(training: Values) -> None:
    """Keep the one budget that was given, or set the default."""
    given = [f"--{name}" for name in ("steps", "epochs", "budget") if training[name] is not None]
    if len(given) > 1:
        raise ConfigurationError(f"got {' and '.join(given)}: give only one of them")
    budget = training.pop("budget")
    if budget is not None or not given:
        training["seconds"] = DEFAULT_BUDGET if budget is None else seconds(budget)


def _method_or_recipe(
    choice: ModelChoice, recipe: str | None, given: tuple[str | None, Values, bool]
) -> tuple[Values, str]:
    """Return the training's settings, and a sentence about a recipe."""
    from napari_peftsam.app.choice import choose_method, choose_recipe
    from napari_peftsam.training import RECOMMENDED

    if recipe is None and (any(given) or choice.adapter):
        method, options, cobot = given
        return {"method": choose_method(method, options, choice.adapter, cobot)}, ""
    if any(given) or choice.adapter:
        raise ConfigurationError(
            "a recipe comes with its method and options: leave out --recipe, or the method, its "
            "options and --adapter"
        )
    found = choose_recipe(recipe or RECOMMENDED, choice)
    return found.settings(), f"{found.title} ({found.method.method}): {found.explanation}"


def _show(
    train: Callable[[Callable[[TrainEvent], bool]], FinetuneReport], preface: str, as_json: bool
) -> None:
    """Run a training with its progress on the screen and print its report."""
    message = "ending the training, keeping the best state so far"
    with graceful_interrupt(message) as stop, Progress() as progress:
        display = TrainingProgress(progress, preface)

        def watch(event: TrainEvent) -> bool:
            if leads():
                display.show(event)
            return stop.is_set()

        report = train(watch)
    if leads():
        emit(report.to_dict(), as_json, _text(report))
    if stop.is_set():
        raise typer.Exit(INTERRUPTED)


class TrainingProgress:
    """Events of a training on a progress line; `preface` is said when the training starts."""

    def __init__(self, progress: Progress, preface: str = "") -> None:
        self._progress = progress
        self._preface = preface
        self._iou = ""  # not known before the first step

    def show(self, event: object) -> None:
        """Show one event of `napari_peftsam.training`, nothing for others."""
        from napari_peftsam.training import (
            Judging,
            MemoryPlanned,
            TrainingStarted,
            TrainingStep,
            Validated,
        )

        if isinstance(event, TrainingStarted):
            if self._preface:
                say(self._preface)
            say(
                f"training {event.trainable_parameters:,} parameters on "
                f"{count_text(event.training_objects, 'object')}; {event.held_out_objects} held "
                f"out by {event.held_out_by}, IoU {event.validation_iou:.3f}"
            )
        elif isinstance(event, MemoryPlanned):
            say(event.describe())
        elif isinstance(event, Judging):
            self._progress.show(1.0, "comparing it with what there was, on held-out objects")
        elif isinstance(event, Validated):
            self._iou = f"held-out IoU {event.iou:.3f}, "
        elif isinstance(event, TrainingStep):
            share = event.seconds / max(event.seconds + event.remaining, 1e-9)
            self._progress.show(
                share,
                f"step {event.step}, loss {event.loss:.3f}, {self._iou}"
                f"{event.remaining:.0f} s left",
            )


def _text(report: FinetuneReport) -> str:
    lines = [f"live in the project: {report.live}"] if report.live else []
    is_trained = report.best_step and not report.verdict.is_better
    kept = " (the trained one all the same)" if is_trained else ""
    lines += [f"adapter: {report.output}{kept}"] if report.output else []
    return (
        f"{count_text(report.steps, 'step')} in {report.seconds:.0f} s, "
        f"{report.trainable_parameters:,} parameters\n"
        f"held-out IoU {report.val_iou_before:.3f} -> {report.val_iou_after:.3f}, state of step "
        f"{report.best_step}\n{report.verdict.sentence}\n" + "\n".join(lines)
    )
