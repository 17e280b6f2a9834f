"""Command line of the pretraining: ``python -m napari_peftsam.pretraining``."""

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
from napari_peftsam.pretraining import PretrainingConfig, PretrainingStep, pretrain
from napari_peftsam.types import LabelArray, PixelArray

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; calling it again with the same folder resumes.

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
    options = _parser().parse_args(arguments)
    try:
        _train(options)
    except (PeftSamError, OSError) as error:
        # As the command line of the project, which stands on a floor above, reports them.
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m napari_peftsam.pretraining",
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
    return parser


def _train(options: argparse.Namespace) -> None:
    config = PretrainingConfig(
        folder=options.output or pretraining_folder(),
        steps=options.steps,
        sides=tuple(options.sides),
        images=options.images,
        objects=options.objects,
        learning_rate=options.learning_rate,
        start=options.start,
        seed=options.seed,
        real_share=options.real_share,
        device=options.device,
        workers=options.workers,
    )
    finished = True
    for step in pretrain(config, _real_images(options.real, options.real_names)):
        finished = False
        with (config.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(asdict(step)) + "\n")
        if step.step % 20 == 0:
            print(_line(step), flush=True)
    if finished:
        print(
            f"nothing to do: the run in {config.folder} has finished with step {config.steps}: "
            f"its weights are in {config.weights}; to train them on, give another --output and "
            f"--start {config.weights}"
        )


def _real_images(folder: Path | None, names: list[str]) -> list[tuple[PixelArray, LabelArray]]:
    if folder is None:
        if names:
            raise ConfigurationError("--real-names choose from a folder: give it with --real")
        return []
    pairs = {pair.name: pair for pair in pair_folders(folder / "images", folder / "labels")}
    unknown = [name for name in names if name not in pairs]
    if unknown:
        raise InputFileError(
            f"{folder}: no image with labels is called {', '.join(unknown)}; choose from "
            f"{', '.join(pairs)}"
        )
    return [pair.read() for pair in pairs.values() if not names or pair.name in names]


def _line(step: PretrainingStep) -> str:
    parts = "  ".join(f"{name} {value:.3f}" for name, value in step.parts.items())
    return f"step {step.step}  loss {step.loss:.3f}  {parts}  {step.seconds:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
