"""What a prompt costs, and the decoder in training, beside `segment_anything`.

``python tests/benchmarks/prompting_cost.py [MODEL ...]`` (default: vit_b builtin) prints
medians, the ratio of theirs to ours, and how well the answers agree; ``--json FILE`` writes the
same. Both sides do the same work in turns, in one process, so that other programs slow
both down; seconds of CPU time, of all threads, hardly depend on them at all.

Ours computes in the model's precision, `segment_anything` in float32: its predictor cannot do
otherwise. Its decoder is trained in both. Both sides use the same weights, random ones for all
models but the built-in one, whose drawn prompts `segment_anything` leaves out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from segment_anything import SamPredictor
from torch import Tensor

from napari_peftsam.embeddings import Embedding, embedding_key
from napari_peftsam.models import SamModel, build, build_random
from napari_peftsam.segmentation import Predictor, PromptTensors, decode
from napari_peftsam.types import Frame, Point, Prompts

__all__ = ["prompt_cost", "training_cost"]

Cost = dict[str, float]
Side = Callable[[], object]
_OBJECTS, _ROUNDS = 5, 8
_EXACT = 1e-5  # relative error of our logits in float32


def in_turns(sides: Mapping[str, Side], repeats: int) -> dict[str, Cost]:
    """Return the median seconds of each side, elapsed and of CPU time, after a first call."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, work in sides.items():
            began, began_cpu = perf_counter(), process_time()
            work()
            if turn:
                times[name].append((perf_counter() - began, process_time() - began_cpu))
    return {
        name: {"seconds": median(t for t, _ in pairs), "cpu": median(c for _, c in pairs)}
        for name, pairs in times.items()
    }


def figures(costs: Mapping[str, Cost]) -> dict[str, Any]:
    """Return ``{ours, peer, ratio}`` in seconds, with all that was measured."""
    ours, peer = costs["ours"]["seconds"], costs["peer"]["seconds"]
    return {"ours": ours, "peer": peer, "ratio": peer / ours, "costs": dict(costs)}


def prompt_cost(model: SamModel, side: int = 512, repeats: int = 15) -> dict[str, Any]:
    """Measure one point in an image of `side` pixels, from click to masks in its pixels."""
    features = _features(model)[0]
    key = embedding_key(model, "")
    seen = np.tile(features.numpy(), (key.orientations, 1, 1))
    embedding = Embedding(key, Frame(side, side, model.image_size), seen)
    own, click = Predictor(model), Prompts((Point(side * 0.4, side * 0.4),))
    theirs = SamPredictor(model.sam)
    theirs.features, theirs.is_image_set = features[None], True
    theirs.original_size, theirs.input_size = (side, side), (model.image_size, model.image_size)
    point, label = np.array([[side * 0.4, side * 0.4]]), np.array([1])
    ask = partial(theirs.predict, point, label, multimask_output=True)
    return figures(in_turns({"ours": lambda: own.predict(embedding, click), "peer": ask}, repeats))


def training_cost(model: SamModel, repeats: int = 2) -> dict[str, Any]:
    """Measure eight rounds of five objects through the trained decoder, there and back.

    A round adds two clicks; in every second one there is the mask of an earlier answer.
    """
    features, draw = _features(model), torch.Generator().manual_seed(1)
    model.sam.mask_decoder.requires_grad_(True)
    rounds = [_prompts(model, 1 + 2 * number, number % 2 == 1, draw) for number in range(_ROUNDS)]

    def work(function: Callable[..., tuple[Tensor, Tensor]]) -> None:
        for prompts in rounds:
            logits, scores = function(model.sam, features, prompts)
            (logits.float().square().mean() + scores.float().square().mean()).backward()

    def in_half(function: Callable[..., tuple[Tensor, Tensor]]) -> None:
        with model.autocast():
            work(function)

    sides = {"ours": partial(in_half, decode), "peer": partial(work, theirs)}
    if model.precision != "fp32":
        sides[f"peer in {model.precision}"] = partial(in_half, theirs)
    try:
        return figures(in_turns(sides, repeats))
    finally:
        model.sam.zero_grad()
        model.sam.requires_grad_(False)


def agreement(model: SamModel) -> dict[str, float]:
    """Return errors relative to `segment_anything`'s logits in float32, and of half precision.

    Raises
    ------
    SystemExit
        If that in float32 is beyond its bound: then there is nothing to measure.
    """
    features, found = _features(model), {}
    prompts = _prompts(model, 3, True, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        single, _ = decode(model.sam, features, prompts)
        if not model.architecture.drawn_prompts:
            expected, _ = theirs(model.sam, features, prompts)
            found["fp32"] = float((single - expected).norm() / expected.norm())
        with model.autocast():
            half, _ = decode(model.sam, features, prompts)
        found[model.precision] = float((half - single).norm() / single.norm())
    if not found.get("fp32", 0.0) <= _EXACT:
        raise SystemExit(f"error: logits are {found['fp32']:.2g} off those of segment_anything")
    return found


def theirs(sam: Any, features: Tensor, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
    """Decode with the modules' own `forward`."""
    sparse, dense = sam.prompt_encoder((prompts.points, prompts.labels), None, prompts.masks)
    positions = sam.prompt_encoder.get_dense_pe()
    logits, scores = sam.mask_decoder.predict_masks(features, positions, sparse, dense)
    return logits, scores


def _features(model: SamModel) -> Tensor:
    arch = model.architecture
    shape = 1, arch.embedding_width, arch.grid, arch.grid
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _prompts(model: SamModel, points: int, masked: bool, draw: torch.Generator) -> PromptTensors:
    side = 4 * model.architecture.grid
    return PromptTensors(
        torch.rand(_OBJECTS, points, 2, generator=draw) * model.image_size,
        torch.randint(0, 2, (_OBJECTS, points), generator=draw).float(),
        masks=torch.randn(_OBJECTS, 1, side, side, generator=draw) if masked else None,
    )


def main() -> None:
    """Measure, print a table, write a file."""
    parser = argparse.ArgumentParser(description="Prompts and decoder beside segment_anything.")
    parser.add_argument("models", nargs="*", default=["vit_b", "builtin"])
    parser.add_argument("--side", type=int, default=512, help="of the image, in pixels")
    parser.add_argument("--repeats", type=int, default=15, help="prompts of each side")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    content: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for name in arguments.models:
        model = build(name) if name == "builtin" else build_random(name)
        found: dict[str, Any] = {"precision": model.precision, "errors": agreement(model)}
        found["prompt"] = prompt_cost(model, arguments.side, arguments.repeats)
        found["decoder_training"] = training_cost(model)
        content[name] = found
        print(f"{name}: " + ", ".join(f"{k} error {v:.1e}" for k, v in found["errors"].items()))
        for work in ("prompt", "decoder_training"):
            for side, cost in found[work]["costs"].items():
                ratio = cost["seconds"] / found[work]["ours"]
                print(
                    f"  {work:16} {side:12} {cost['seconds']:7.3f} s ({cost['cpu']:.3f} s CPU), "
                    f"{ratio:.1f} times ours",
                    flush=True,
                )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
