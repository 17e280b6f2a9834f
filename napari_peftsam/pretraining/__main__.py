"""Command line of the pretraining: ``python -m napari_peftsam.pretraining``.

Without a command it trains; ``curve`` draws a run, ``domains`` measures weights on the domains
that no run trains on, ``samples`` draws the synthetic samples of the package again, ``scorer``
fits the prior of proposal scores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from napari_peftsam.errors import ConfigurationError, InputFileError, PeftSamError
from napari_peftsam.evaluation import AutomaticEvaluation, evaluate_automatic
from napari_peftsam.files import pair_folders
from napari_peftsam.folders import pretraining_folder
from napari_peftsam.models import DEVICES, build
from napari_peftsam.outputs import check_output
from napari_peftsam.pretraining import (
    PretrainingConfig,
    PretrainingStep,
    Validation,
    pretrain,
    scorer,
)
from napari_peftsam.pretraining.synthetic import generate
from napari_peftsam.pretraining.validation import measure_domains
from napari_peftsam.segmentation.automatic import ProposalScorer
from napari_peftsam.types import LabelArray, PixelArray

_PROGRAM = "python -m napari_peftsam.pretraining"
_Pairs = list[tuple[PixelArray, LabelArray]]

_SAMPLE_SEEDS = {"fluorescence": 13, "phase": 8, "membranes": 3}
_WINDOW = 100  # steps of the running mean: single losses vary by a factor of three
_LABELS = {"box": "box", "click": "one click", "clicks5": "5 clicks"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or run the command named by the first argument.

    Returns 0, or 2 if the input or the environment is at fault: one line on standard error says
    why.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"curve": _curve, "domains": _domains, "samples": _samples, "scorer": _scorer}
    command = commands.get(given[0], _train) if given else _train
    try:
        command(given)
    except (PeftSamError, OSError) as error:
        # As the command line of the project, which stands on a floor above, reports them.
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    return 0


def _train_parser() -> argparse.ArgumentParser:
    parser = _parser("", "Train the built-in model; a second call with the same folder resumes.")
    add = parser.add_argument
    add("--output", type=Path, help="run folder (default: in the user's cache folder)")
    for option in fields(PretrainingConfig):
        if "help" not in option.metadata:
            continue
        how: dict[str, Any] = {"type": type(option.default)}
        if option.name == "sides":
            how = {"type": int, "nargs": "+"}
        elif option.name == "device":
            how = {"choices": DEVICES}
        elif option.name == "start":
            how = {}
        flag = f"--{option.name.replace('_', '-')}"
        add(flag, default=option.default, help=option.metadata["help"], **how)
    add("--real", type=Path, help="folder with images/ and labels/ to mix in")
    add("--real-names", nargs="*", default=[], help="which of them, without suffix (default: all)")
    return parser


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"{_PROGRAM} {command}".rstrip(), description=description, allow_abbrev=False
    )


def _train(arguments: Sequence[str]) -> None:
    given = vars(_train_parser().parse_args(arguments))
    folder, real_folder, names = (given.pop(name) for name in ("output", "real", "real_names"))
    validates = given["validate_every"] != 0  # 0: never
    # Recorded with the names of files and folders in place of their paths.
    command = [Path(a).name if "/" in a or "\\" in a else a for a in arguments]
    config = PretrainingConfig(
        folder or pretraining_folder(),
        **given
        | {
            "sides": tuple(given["sides"]),
            "validate_every": given["validate_every"] or given["steps"],
            "command": " ".join([_PROGRAM, *command]),
        },
    )
    real, held_out = _real_images(real_folder, names)
    finished = True
    for step in pretrain(config, real, Validation(held_out) if validates else None):
        finished = False
        with (config.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(asdict(step)) + "\n")
        if step.step % 20 == 0 or step.validation:
            print(_line(step), flush=True)
    if finished:
        print(
            f"nothing to do: the run in {config.folder} has finished with step {config.steps}: "
            f"its weights are in {config.weights}; to train them on, give another --output and "
            f"--start {config.weights}"
        )


def _real_images(folder: Path | None, names: list[str]) -> tuple[_Pairs, _Pairs]:
    """Return the images to train on and, if they were chosen by name, the others to validate on."""
    if folder is None:
        if names:
            raise ConfigurationError("--real-names choose from a folder: give it with --real")
        return [], []
    pairs = {pair.name: pair for pair in pair_folders(folder / "images", folder / "labels")}
    unknown = [name for name in names if name not in pairs]
    if unknown:
        raise InputFileError(
            f"{folder}: no image with labels is called {', '.join(unknown)}; choose from "
            f"{', '.join(pairs)}"
        )
    if not names:
        return [pair.read() for pair in pairs.values()], []
    chosen = [pair.read() for pair in pairs.values() if pair.name in names]
    return chosen, [pair.read() for pair in pairs.values() if pair.name not in names]


def _line(step: PretrainingStep) -> str:
    parts = "  ".join(f"{name} {value:.3f}" for name, value in step.parts.items())
    line = f"step {step.step}  loss {step.loss:.3f}  {parts}  {step.seconds:.2f} s"
    for name, figures in (step.validation or {}).items():
        line += f"\n  {name}  " + "  ".join(f"{key} {value:.3f}" for key, value in figures.items())
    return line


def _domains(arguments: Sequence[str]) -> None:
    parser = _parser("domains", "Measure weights on the domains that no run trains on.")
    parser.add_argument("data", type=Path, help="folder of the domains")
    parser.add_argument("--model", default="builtin", help="name or checkpoint to measure")
    options = parser.parse_args(arguments[1:])
    for domain, figures in measure_domains(options.model, options.data):
        print(json.dumps({"domain": domain, **figures}), flush=True)


def _samples(arguments: Sequence[str]) -> None:
    parser = _parser("samples", "Draw the synthetic samples of the package again.")
    parser.add_argument("folder", type=Path, help="folder to write them to")
    folder: Path = parser.parse_args(arguments[1:]).folder
    for modality, seed in _SAMPLE_SEEDS.items():
        rng = np.random.default_rng(seed)
        made = generate(modality, (320, 320), rng=rng, mean_diameter=32)
        Image.fromarray(made.image[:256, :256]).save(folder / f"{modality}.png", optimize=True)


def _scorer(arguments: Sequence[str]) -> None:
    parser = _parser("scorer", "Fit the prior of proposal scores on synthetic images.")
    parser.add_argument("data", type=Path, help="folder of labelled domains to measure it on")
    parser.add_argument("output", type=Path, help="the .npz file to write")
    parser.add_argument("--images", type=int, default=scorer.IMAGES, help="to fit on")
    parser.add_argument("--known", nargs="*", default=[], help="images that the model has seen")
    options = parser.parse_args(arguments[1:])
    # Before the long work: a folder may be missing.
    check_output(options.output, (".npz",))
    if options.images < 1:
        raise ConfigurationError(f"--images must be 1 or more, got {options.images}")
    domains = {
        domain: pair_folders(options.data / domain / "images", options.data / domain / "labels")
        for domain in scorer.DOMAINS
    }
    model = build("builtin", "cpu")
    prior = scorer.fit_prior([*scorer.synthetic_images(model, options.images)])
    scorer.write_prior(prior, options.output)
    for domain, pairs in domains.items():
        if unknown := [pair for pair in pairs if pair.name not in options.known]:
            images = [(pair.name, *pair.read()) for pair in unknown]
            *_, found = evaluate_automatic(
                model, images, scorer=ProposalScorer(prior), with_effort=False
            )
            assert isinstance(found, AutomaticEvaluation)
            figures = {name: found.figures[name] for name in ("msa", "ap50")}
            line = {"domain": domain, "images": len(images), **figures}
            print(json.dumps(line), flush=True)


def _curve(arguments: Sequence[str]) -> None:
    parser = _parser("curve", "Draw losses and validations of a run.")
    parser.add_argument("picture", type=Path, help="image file to write")
    parser.add_argument("--run", type=Path, help="run folder (default: in the cache folder)")
    options = parser.parse_args(arguments[1:])
    folder = options.run or pretraining_folder()
    _draw_curve(read_log(folder / "log.jsonl"), options.picture)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the steps of a run's log in their order; one done again counts once.

    Raises
    ------
    InputFileError
        If there is no log, or a line of it is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        steps = {step["step"]: step for step in map(json.loads, lines)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputFileError(f"{path} is no log of a run of pretraining: {error}") from error
    return [steps[number] for number in sorted(steps)]


def _draw_curve(steps: Sequence[dict[str, Any]], picture: Path) -> None:
    """Draw losses and validations over the steps of a run into an image file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    losses, ious = figure.subplots(1, 2)
    trained = [step for step in steps if step["parts"]]
    numbers = [step["step"] for step in trained]
    for part in trained[0]["parts"] if trained else ():
        values = [step["parts"][part] for step in trained]
        losses.plot(numbers, _running_mean(values), label=part)
    losses.set(xlabel="step", ylabel=f"loss, mean of {_WINDOW} steps")
    validated = [step for step in steps if step.get("validation")]
    numbers = [step["step"] for step in validated]
    for style, name in zip("-:", validated[0]["validation"] if validated else (), strict=False):
        for colour, (key, label) in enumerate(_LABELS.items()):
            values = [step["validation"][name][key] for step in validated]
            ious.plot(
                numbers, values, f"{style}o", color=f"C{colour}", ms=3, label=f"{name}, {label}"
            )
    ious.set(xlabel="step", ylabel="IoU of the averaged weights")
    for axes in (losses, ious):
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(picture, dpi=100)


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """Return the mean of the last `_WINDOW` values at each, of fewer at the beginning."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - _WINDOW, 0)
    return np.asarray((total[end] - total[start]) / (end - start))


if __name__ == "__main__":
    sys.exit(main())
