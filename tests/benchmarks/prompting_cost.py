"""How long a model takes to embed an image and to answer a prompt, beside a plain ViT-B.

``python tests/benchmarks/prompting_cost.py [MODEL]`` prints medians in seconds and their
ratio to a ViT-B of `segment_anything` with random weights, measured in the same run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

from napari_peftsam.embeddings import Embedding, encode_one
from napari_peftsam.models import SamModel, build, build_random
from napari_peftsam.samples import generate
from napari_peftsam.segmentation import Predictor
from napari_peftsam.types import Point, Prompts

SHAPE = (512, 512)
REPEATS = 15


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median time of a call, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        times.append(perf_counter() - began)
    return median(times)


def cost(model: SamModel, repeats: int) -> tuple[float, float]:
    """Return the seconds of an embedding and of a prompt."""
    image = generate("fluorescence", SHAPE, rng=np.random.default_rng(0)).image
    embedding: Embedding = encode_one(model, image)
    predictor, click = Predictor(model), Prompts((Point(200, 200),))
    return (
        seconds(lambda: encode_one(model, image), repeats),
        seconds(lambda: predictor.predict(embedding, click)),
    )


def main() -> None:
    """Measure both and print a table."""
    name = sys.argv[1] if len(sys.argv) > 1 else "builtin"
    own, reference = cost(build(name), REPEATS), cost(build_random("vit_b"), repeats=1)
    for what, mine, theirs in zip(("embed", "prompt"), own, reference, strict=True):
        print(f"{what:7} {name} {mine:.3f} s, vit_b {theirs:.3f} s: {theirs / mine:.0f} times")


if __name__ == "__main__":
    main()
