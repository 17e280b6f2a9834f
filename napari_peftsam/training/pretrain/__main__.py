"""Command line of the pretraining: ``python -m napari_peftsam.training.pretrain``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from napari_peftsam.files import read_image, read_labels
from napari_peftsam.training.pretrain import PretrainingConfig, PretrainingStep, pretrain
from napari_peftsam.types import LabelArray, PixelArray


def main(arguments: Sequence[str] | None = None) -> None:
    """Train; calling it again with the same folder resumes."""
    options = _parser().parse_args(arguments)
    real = _real_images(options.real, options.real_names)
    config = PretrainingConfig(
        folder=options.output,
        steps=options.steps,
        sides=tuple(options.sides),
        images=options.images,
        objects=options.objects,
        learning_rate=options.learning_rate,
        start=options.start,
        seed=options.seed,
        real_share=options.real_share,
    )
    with _log(options.output).open("a") as log:
        for step in pretrain(config, real):
            log.write(json.dumps(asdict(step)) + "\n")
            if step.step % 20 == 0:
                log.flush()
                print(_line(step), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m napari_peftsam.training.pretrain",
        description="Train the built-in model; a second call with the same folder resumes.",
        allow_abbrev=False,
    )
    defaults, add = PretrainingConfig, parser.add_argument
    add("--output", type=Path, required=True, help="run folder (kept out of git)")
    add("--steps", type=int, default=4000, help="steps of the whole run")
    add("--sides", type=int, nargs="+", default=defaults.sides, help="crop sides to draw from")
    add("--images", type=int, default=defaults.images, help="crops of the smallest side per step")
    add("--objects", type=int, default=defaults.objects, help="objects per crop")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="peak learning rate")
    add("--start", help="checkpoint to start from, e.g. builtin (default: random weights)")
    add("--seed", type=int, default=0, help="seed of crops, prompts and weights")
    add("--real", type=Path, help="folder with images/ and labels/ to mix in")
    add("--real-names", nargs="*", default=[], help="which of them, by stem (default: all)")
    add(
        "--real-share",
        type=float,
        default=defaults.real_share,
        help="share of crops from real images",
    )
    return parser


def _real_images(folder: Path | None, names: list[str]) -> list[tuple[PixelArray, LabelArray]]:
    if folder is None:
        return []
    images = sorted((folder / "images").iterdir())
    chosen = [path for path in images if not names or path.stem in names]
    return [(read_image(path), read_labels(folder / "labels" / path.name)) for path in chosen]


def _log(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "log.jsonl"


def _line(step: PretrainingStep) -> str:
    parts = "  ".join(f"{name} {value:.3f}" for name, value in step.parts.items())
    return f"step {step.step}  loss {step.loss:.3f}  {parts}  {step.seconds:.2f} s"


if __name__ == "__main__":
    main()
