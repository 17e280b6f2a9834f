"""A process of its own that takes training steps and prints what they took, as JSON.

``python -m tests.training._measure_memory CASES``, where cases are a JSON list of
``[architecture, precision, method, checkpointing, objects]``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import numpy as np

from napari_peftsam.models import ARCHITECTURES, SamModel, build_random, construct
from napari_peftsam.models.architecture import PlainVit
from napari_peftsam.models.memory import measure_peak, tensor_bytes
from napari_peftsam.peft import first_changed_block, inject, parse_method_config
from napari_peftsam.training import (
    AnnotatedPlane,
    StepPlan,
    TrainingConfig,
    TrainingObject,
    estimate_memory,
)
from napari_peftsam.training._encoder import PlaneEncoder
from napari_peftsam.training._samples import prepare_planes
from napari_peftsam.training._team import Alone
from napari_peftsam.training._trainer import Trainer
from napari_peftsam.training._views import View

# ViT-B's widths, heads and kinds of blocks; fewer blocks and tokens.
SHORT_VIT_B = replace(
    ARCHITECTURES["vit_b"], name="short", image_size=256, encoder=PlainVit(768, 2, 12, (1,), 14)
)


def measure(
    first: bool, name: str, precision: str, method: dict[str, Any], checkpointing: bool,
    objects: int,
) -> tuple[int, int]:  # fmt: skip
    """Return the bytes estimated and measured of one step, the first of a process or a later."""
    if name == "short":
        model = SamModel(name, SHORT_VIT_B, construct(SHORT_VIT_B), "", None, precision)
    else:
        model = replace(build_random(name), precision=precision)
    config = TrainingConfig(
        steps=1, method=parse_method_config(method), rounds=2, objects_per_step=objects
    )
    plan = StepPlan(objects, checkpointing)
    items = tuple(TrainingObject(0, n + 1, (20 * n, 5, 20 * n + 15, 90)) for n in range(objects))
    labels = np.zeros((100, 100), np.int32)
    for item in items:
        top, left, bottom, right = item.bbox
        labels[top:bottom, left:right] = item.label
    pixels = np.random.default_rng(0).normal(size=labels.shape).astype(np.float32)
    planes = prepare_planes([AnnotatedPlane("a", "a", pixels, labels)], items, model)
    with inject(model, config.method) as injection:
        changed = first_changed_block(config.method, model.architecture.depth)
        trainer = Trainer(injection, config, PlaneEncoder(model, planes, changed), Alone())
        trainer.plan = plan
        if not first:
            trainer.try_out(View(items[:1]))  # other cases may not have loaded all kernels
        loaded = tensor_bytes(model.sam)
        with measure_peak(model.device) as peak:
            trainer.try_out(View(items))
    estimated = estimate_memory(model.architecture, config, plan, "cpu", model.precision)
    libraries = 0 if first else estimated.libraries
    return estimated.total - libraries, loaded + peak.rise


if __name__ == "__main__":
    print(json.dumps([measure(not n, *case) for n, case in enumerate(json.loads(sys.argv[1]))]))
