"""Command line of the pretraining: ``python -m napari_peftsam.pretraining``.

Without a word of its own it trains; ``curve`` draws a run, ``domains`` measures weights on the
domains that no run trains on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from napari_peftsam.errors import ConfigurationError, InputFileError, PeftSamError
from napari_peftsam.files import pair_folders
from napari_peftsam.folders import pretraining_folder
from napari_peftsam.models import DEVICES
from napari_peftsam.pretraining import PretrainingConfig, PretrainingStep, Validation, pretrain
from napari_peftsam.pretraining._curve import draw_curve, read_log
from napari_peftsam.pretraining._domains import measure_domains
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["main"]

_PROGRAM = "python -m napari_peftsam.pretraining"
_Pairs = list[tuple[PixelArray, LabelArray]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or run the command named by the first argument.

    Parameters
    ----------
    arguments
        Default: those the program was started with.

    Returns
    -------
    int
        0 on success, 2 if the input or the environment is at fault (one line on standard
        error says why).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = {"curve": _curve, "domains": _domains}
    command = commands.get(given[0], _train) if given else _train
    try:
        command(given)
    except (PeftSamError, OSError) as error:
        # As the command line of the project, which stands on a floor above, reports them.
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Train the built-in model; a second call with the same folder resumes.",
        allow_abbrev=False,
    )
    defaults, add = PretrainingConfig, parser.add_argument
    add("--output", type=Path, help="run folder (default: in the user's cache folder)")
    add("--steps", type=int, default=4000, help="steps of the whole run")
    add("--sides", type=int, nargs="+", default=defaults.sides, help="crop sides to draw from")
    add("--images", type=int, default=defaults.images, help="crops of the smallest side per step")
    add("--objects", type=int, default=defaults.objects, help="objects per crop")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="peak learning rate")
    add("--start", help="checkpoint to start from, e.g. builtin (default: random weights)")
    add("--architecture", default=defaults.architecture, help="builtin, or what it grows into")
    add("--validate-every", type=int, default=defaults.validate_every, help="in steps; 0: never")
    add("--seed", type=int, default=0, help="seed of crops, prompts and weights")
    add("--real", type=Path, help="folder with images/ and labels/ to mix in")
    add("--real-names", nargs="*", default=[], help="which of them, without suffix (default: all)")
    add(
        "--real-share",
        type=float,
        default=defaults.real_share,
        help="share of crops from real images",
    )
    add("--device", choices=DEVICES, default=defaults.device, help="default: a GPU if there is one")
    add("--workers", type=int, default=defaults.workers, help="processes that make the crops")
    add("--commit", default="", help="version of the source code, recorded with the weights")
    return parser


def _portable(arguments: Sequence[str]) -> str:
    """Return the command line with the names of files and folders in place of their paths."""
    names = [Path(a).name if "/" in a or "\\" in a else a for a in arguments]
    return " ".join([_PROGRAM, *names])


def _train(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    config = PretrainingConfig(
        folder=options.output or pretraining_folder(),
        steps=options.steps,
        sides=tuple(options.sides),
        images=options.images,
        objects=options.objects,
        learning_rate=options.learning_rate,
        start=options.start,
        architecture=options.architecture,
        validate_every=options.validate_every or options.steps,
        seed=options.seed,
        real_share=options.real_share,
        device=options.device,
        workers=options.workers,
        commit=options.commit,
        command=_portable(arguments),
    )
    finished = True
    real, held_out = _real_images(options.real, options.real_names)
    validation = Validation(held_out) if options.validate_every else None
    for step in pretrain(config, real, validation):
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


def _curve(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"{_PROGRAM} curve", allow_abbrev=False)
    parser.add_argument("picture", type=Path, help="image file to write")
    parser.add_argument("--run", type=Path, help="run folder (default: in the cache folder)")
    options = parser.parse_args(arguments[1:])
    folder = options.run or pretraining_folder()
    draw_curve(read_log(folder / "log.jsonl"), options.picture)


def _domains(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"{_PROGRAM} domains", allow_abbrev=False)
    parser.add_argument("data", type=Path, help="folder of the domains")
    parser.add_argument("--model", default="builtin", help="name or checkpoint to measure")
    options = parser.parse_args(arguments[1:])
    for domain, figures in measure_domains(options.model, options.data):
        print(json.dumps({"domain": domain, **figures}), flush=True)


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


if __name__ == "__main__":
    sys.exit(main())
