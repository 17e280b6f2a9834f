"""``napari-peftsam finetune``: labelled folders in and an adapter file out, or in a project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_peftsam.errors import ConfigurationError

from ._console import INTERRUPTED, Progress, emit, say
from ._interrupt import graceful_interrupt
from ._options import (
    Alpha,
    Bottleneck,
    Cobot,
    DecoderLoraRank,
    Device,
    Images,
    Json,
    Labels,
    Matrices,
    Method,
    Placement,
    Precision,
    Project,
    ProjectModel,
    Rank,
    Seed,
    Settings,
    configure,
    folders_of,
    method_options,
    seconds,
)
from ._team import leads

if TYPE_CHECKING:
    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.finetuning import FinetuneReport
    from napari_peftsam.training import TrainEvent, TrainingConfig

__all__ = ["TrainingProgress", "finetune"]

_RECIPE = (
    "Settings that belong together, instead of a method and its options: recommended (for the "
    "model and this computer), peft-sam, peft-sam-small or cobot."
)
_IMAGES = (
    "Images or crops whose gradients make up one step; the processes of torchrun share them.  "
    "[default: as many as there are processes]"
)
_OUTPUT = (
    "Adapter file to write (.safetensors); needed with folders, with --project beside what the "
    "project keeps."
)
_BUDGET = "Time for training and validation, without loading, as 120s or 2m.  [default: 60s]"


def finetune(  # noqa: PLR0913, PLR0917  # one parameter per option
    images: Images = None,
    labels: Labels = None,
    output: Annotated[Path | None, typer.Option(help=_OUTPUT)] = None,
    project: Project = None,
    model: ProjectModel = None,
    adapter: Annotated[Path | None, typer.Option(help="Adapter file to go on from.")] = None,
    recipe: Annotated[str | None, typer.Option(help=_RECIPE)] = None,
    method: Method = None,
    cobot: Cobot = False,
    rank: Rank = None,
    alpha: Alpha = None,
    placement: Placement = None,
    matrices: Matrices = None,
    bottleneck: Bottleneck = None,
    decoder_lora_rank: DecoderLoraRank = None,
    settings: Settings = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate; by default what suits the model.")
    ] = None,
    images_per_step: Annotated[int | None, typer.Option(min=1, help=_IMAGES)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget in steps.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Budget in passes.")] = None,
    budget: Annotated[str | None, typer.Option(help=_BUDGET)] = None,
    objects_at_once: Annotated[
        int | None,
        typer.Option(min=1, help="Through the decoder; by default what the memory allows."),
    ] = None,
    checkpointing: Annotated[
        bool | None,
        typer.Option(help="Compute activations twice to save memory; by default if need be."),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Finetune on folders of images and labels that have the same names, or on a project.

    Some of the images are held out; the state that is best on them is saved, which may
    be the start. In a project it becomes the next version, live, if it is better than what
    was live. Ctrl-C ends the training and keeps the best state so far. With several
    GPUs: torchrun --nproc-per-node 4 -m napari_peftsam finetune ...
    """
    folders = folders_of(images, labels, project)
    if folders and output is None:
        raise ConfigurationError("there is no output: name the adapter file to write by --output")
    times = {"steps": steps, "epochs": epochs, "budget": budget}
    given = [f"--{name}" for name, value in times.items() if value is not None]
    if len(given) > 1:
        raise ConfigurationError(f"got {' and '.join(given)}: give only one of them")
    limit = {"seconds": seconds(budget)} if budget is not None else {}
    options = method_options(
        settings,
        rank=rank,
        alpha=alpha,
        placement=placement,
        matrices=matrices,
        bottleneck=bottleneck,
        decoder_lora_rank=decoder_lora_rank,
    )

    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.folders import finetune_folders
    from napari_peftsam.app.project_commands import finetune_project, project_model
    from napari_peftsam.training import team_size

    if model is None:
        model = project_model(project) if project is not None else "builtin"
    choice = ModelChoice(model, adapter, device, precision)
    chosen, preface = _chosen(choice, recipe, method, options, cobot)
    if learning_rate is not None:
        chosen["learning_rate"] = learning_rate
    chosen |= {"objects_at_once": objects_at_once, "checkpointing": checkpointing}
    chosen["images_per_step"] = images_per_step or team_size()
    config = _configuration(chosen | {"steps": steps, "epochs": epochs, "seed": seed, **limit})

    def train(watch: Callable[[TrainEvent], bool]) -> FinetuneReport:
        if folders is not None and output is not None:
            return finetune_folders(*folders, output, config, choice, watch)
        assert project is not None
        return finetune_project(project, config, choice, output, watch, say)

    _show(train, preface, as_json)


def _show(
    train: Callable[[Callable[[TrainEvent], bool]], FinetuneReport],
    preface: str,
    as_json: bool,
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


def _chosen(
    choice: ModelChoice,
    recipe: str | None,
    method: str | None,
    options: dict[str, Any],
    cobot: bool,
) -> tuple[dict[str, Any], str]:
    """Return the training's settings, and what to say of them."""
    from napari_peftsam.app.choice import choose_method, choose_recipe

    if recipe is None:
        return {"method": choose_method(method, options, choice.adapter, cobot)}, ""
    if method or options or cobot or choice.adapter:
        raise ConfigurationError(
            "a recipe comes with its method and options: leave out --recipe, or the method, its "
            "options and --adapter"
        )
    found = choose_recipe(recipe, choice)
    return found.settings(), f"{found.title} ({found.method.method}): {found.explanation}"


class TrainingProgress:
    """Shows the events of a training on a progress line.

    Parameters
    ----------
    progress
        The line.
    preface
        Said when the training starts; empty for nothing.
    """

    def __init__(self, progress: Progress, preface: str = "") -> None:
        self._progress = progress
        self._preface = preface
        self._iou = 0.0

    def show(self, event: object) -> None:
        """Show one event of `napari_peftsam.training`, nothing for others."""
        from napari_peftsam.training import (
            MemoryPlanned,
            TrainingStarted,
            TrainingStep,
            Validated,
        )

        if isinstance(event, TrainingStarted):
            if self._preface:
                say(self._preface)
            say(
                f"training {event.trainable_parameters:,} parameters on {event.training_objects} "
                f"objects; {event.held_out_objects} held out by {event.held_out_by}, "
                f"IoU {event.validation_iou:.3f}"
            )
        elif isinstance(event, MemoryPlanned):
            say(event.describe())
        elif isinstance(event, Validated):
            self._iou = event.iou
        elif isinstance(event, TrainingStep):
            share = event.seconds / max(event.seconds + event.remaining, 1e-9)
            self._progress.show(
                share,
                f"step {event.step}, loss {event.loss:.3f}, held-out IoU {self._iou:.3f}, "
                f"{event.remaining:.0f} s left",
            )


def _configuration(values: dict[str, Any]) -> TrainingConfig:
    from napari_peftsam.app.finetuning import DEFAULT_BUDGET
    from napari_peftsam.training import TrainingConfig

    if not any(values.get(budget) for budget in ("steps", "epochs", "seconds")):
        values["seconds"] = DEFAULT_BUDGET
    return configure(TrainingConfig, **values)


def _text(report: FinetuneReport) -> str:
    verdict = (
        f"best at step {report.best_step}"
        if report.improved
        else "no better than the start: more objects, more time or another learning rate may help"
    )
    unit = "step" if report.steps == 1 else "steps"
    lines = [f"live in the project: {report.live}"] if report.live else []
    lines += [f"adapter: {report.output}"] if report.output else []
    return (
        f"{report.steps} {unit} in {report.seconds:.0f} s, {report.trainable_parameters:,} "
        f"parameters\nheld-out IoU {report.val_iou_before:.3f} -> {report.val_iou_after:.3f} "
        f"({verdict})\n" + "\n".join(lines)
    )
