"""What predicting many objects from crops of the embedding changes and saves, on real images.

``python tests/benchmarks/crops.py DATA`` takes every labelled plane of ``DATA/DOMAIN/images`` and
``labels``, prompts each object with its tight box and its deepest pixel, and prints one JSON line
per domain and one for all: the IoU of the masks from crops with those from the whole image, and
of both with the labels. ``--speed 400`` measures
the time of 400 prompts instead, without data; ``--threads 1`` tells the CPU time of one thread.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import tifffile
import torch
from _own_model import own_model

from napari_peftsam.embeddings import encode_one
from napari_peftsam.evaluation import Target
from napari_peftsam.geometry import iou
from napari_peftsam.models import SamModel
from napari_peftsam.segmentation import Crop, Predictor
from napari_peftsam.types import Box, LabelArray, PixelArray, Point, Prompts

Plane = tuple[PixelArray, LabelArray]
CROPS = {"exact": Crop(approximate=False), "crop": Crop()}


def labelled_planes(domain: Path) -> Iterator[Plane]:
    """Yield the planes of a domain that hold objects."""
    for path in sorted(domain.glob("images/*.tif")):
        pixels, labels = (
            tifffile.imread(domain / kind / path.name) for kind in ("images", "labels")
        )
        stack = labels.ndim == 3
        for image, objects in zip(pixels, labels, strict=True) if stack else [(pixels, labels)]:
            if objects.any():
                yield image, objects


def agreement(
    model: SamModel, planes: Iterator[Plane], crops: Mapping[str, Crop] = CROPS
) -> dict[str, np.ndarray]:
    """Return IoUs per object: of each crop's mask with the whole image's, and with the label."""
    many, found = Predictor(model).predict_many, list[dict[str, float]]()
    for pixels, labels in planes:
        embedding = encode_one(model, pixels)
        targets = [Target.from_mask(labels == n) for n in np.unique(labels[labels > 0])]
        prompts = [Prompts((target.first_click(),), target.box) for target in targets]
        masks = {
            name: [each.masks[0] for each in many(embedding, prompts, candidates=1, crop=crop)]
            for name, crop in {"whole": None, **crops}.items()
        }
        for number, target in enumerate(targets):
            whole = masks["whole"][number]
            row = {f"{name} with whole": iou(whole, masks[name][number]) for name in crops}
            row |= {f"{name} with label": target.iou(each[number]) for name, each in masks.items()}
            found.append(row)
    return {name: np.array([row[name] for row in found]) for name in found[0]}


def seconds(model: SamModel, count: int, rounds: int = 3) -> dict[str, float]:
    """Return the best time of each way, which take turns, for boxes of 24 pixels with a point."""
    single = torch.get_num_threads() == 1
    clock: Callable[[], float] = process_time if single else perf_counter
    rng, half = np.random.default_rng(0), 12
    embedding = encode_one(model, rng.random((512, 512)))
    prompts = [
        Prompts((Point(row, col),), Box(row - half, col - half, row + half, col + half))
        for row, col in rng.uniform(half, 512 - half, (count, 2))
    ]
    predictor, best = Predictor(model), dict[str, float]()
    for number in range(1 + rounds):
        for name, crop in {"whole": None, **CROPS}.items():
            began = clock()
            predictor.decode_many(embedding, prompts, keep=1, crop=crop)
            if number:  # the first does not count
                best[name] = min(clock() - began, best.get(name, np.inf))
    return {name: round(found, 4) for name, found in best.items()}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--speed", type=int, metavar="PROMPTS")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(given)
    torch.set_num_threads(arguments.threads)
    model = own_model(arguments.model)
    if arguments.speed:
        found: dict[str, Any] = {"model": arguments.model, "threads": arguments.threads}
        print(json.dumps(found | seconds(model, arguments.speed)))
        return
    every = {
        domain.name: agreement(model, labelled_planes(domain))
        for domain in sorted(arguments.data.iterdir())
        if (domain / "labels").is_dir()
    }
    names = next(iter(every.values()))
    every["all"] = {name: np.concatenate([each[name] for each in every.values()]) for name in names}
    for domain, ious in every.items():
        means = {name: round(float(each.mean()), 4) for name, each in ious.items()}
        print(json.dumps({"domain": domain, "objects": len(next(iter(ious.values()))), **means}))


if __name__ == "__main__":
    main()
