"""What embedding an image again after a finetuning costs, as a share of a full embedding.

Run ``python tests/benchmarks/reload_fraction.py``. Both are measured in turn, in one run; a
late placement's reload begins from the tokens that the base model's embedding kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from _own_model import own_model

from napari_peftsam.embeddings import ActivationCache, EncodeRequest, FrozenActivations, encode
from napari_peftsam.models import SamModel, pick_device
from napari_peftsam.peft import LoraConfig, Placement, inject

_MEMORY = 10**9


def measure(model: SamModel, placement: str, repetitions: int) -> dict[str, Any]:
    """Return the best seconds of both, and the median of the fractions of each round."""
    import torch

    request = EncodeRequest("image", np.random.default_rng(0).random((700, 900)))
    method = LoraConfig(placement=Placement.parse(placement))
    depth = model.architecture.depth
    reach = method.first_changed_block(depth)

    def timed(work: Callable[[], object]) -> float:
        began = perf_counter()
        work()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        return perf_counter() - began

    with ActivationCache(_MEMORY) as cache:
        list(encode(model, [request], frozen=FrozenActivations(cache, depth, (reach,))))
        frozen = FrozenActivations(cache, reach, (reach,))
        with inject(model, method):
            full, reload = (
                lambda: list(encode(model, [request], adapter="new")),
                lambda: list(encode(model, [request], adapter="new", frozen=frozen)),
            )
            rounds = [(timed(full), timed(reload)) for _ in range(1 + repetitions)][1:]
    seconds = np.array(rounds)
    best = seconds.min(0)
    return {
        "placement": placement,
        "first_block": reach,
        "blocks": depth,
        "full_s": round(float(best[0]), 4),
        "reload_s": round(float(best[1]), 4),
        "reload_fraction": round(float(np.median(seconds[:, 1] / seconds[:, 0])), 3),
        "best_fraction": round(float(best[1] / best[0]), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="vit_b", help="architecture with random weights, or builtin"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--placements", nargs="+", default=["late-50%", "late-25%", "last"])
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    model = own_model(arguments.model, device=device)
    for placement in arguments.placements:
        found = {"model": arguments.model, "device": device, "precision": model.precision}
        found |= measure(model, placement, arguments.repetitions)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
