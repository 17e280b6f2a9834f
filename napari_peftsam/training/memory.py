"""The memory of a training step: the first one is measured; smaller plans to back off to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from napari_peftsam.models.memory import (
    free_memory,
    measure_peak,
    readable_bytes,
    tensor_bytes,
)
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.events import MemoryPlanned
from napari_peftsam.training.samples import View
from napari_peftsam.training.team import processes_here

if TYPE_CHECKING:
    from napari_peftsam.training.step import Trainer

__all__ = ["StepPlan", "possible_plans"]

# Of the free memory. The rest is for memory in pieces too small to be used, and for what other
# programs take meanwhile.
_USABLE = 0.85


@dataclass(frozen=True)
class StepPlan:
    """The way a micro-batch is computed; its result does not depend on it.

    Attributes
    ----------
    objects_at_once
        Objects that go through the decoder together; None for all of the micro-batch.
    checkpoint
        True to compute the encoder's activations a second time rather than keep them.
    """

    objects_at_once: int | None = None
    checkpoint: bool = False

    def describe(self) -> str:
        """Return a text for people, such as "with 4 objects at once"."""
        names = {None: "all objects", 1: "one object"}
        objects = names.get(self.objects_at_once, f"{self.objects_at_once} objects")
        ending = " and activation checkpointing" if self.checkpoint else ""
        return f"with {objects} at once{ending}"


def possible_plans(config: TrainingConfig, objects: int) -> tuple[StepPlan, ...]:
    """Return the plans that a configuration allows, the fastest first.

    Fewer objects at once take hardly any time; checkpointing makes a step a third longer.

    Parameters
    ----------
    objects
        Objects of a view, at most.
    """
    most = config.objects_at_once or min(config.objects_per_step, objects)
    sizes = [most]
    while config.objects_at_once is None and sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    modes = (False, True) if config.checkpointing is None else (config.checkpointing,)
    return tuple(StepPlan(size, mode) for mode in modes for size in sizes)


def preflight(
    trainer: Trainer, config: TrainingConfig, encoder: PlaneEncoder, views: Sequence[View]
) -> tuple[MemoryPlanned, float]:
    """Take the first step with the fastest plan that leaves enough memory free.

    Its gradients are as of `Trainer.gradients`, and so is the loss that is returned. The first of
    the views must be one of the largest. The peaks of memory that the system and torch note are
    reset, see `napari_peftsam.models.memory.measure_peak`.
    """
    model = encoder.model
    trainer.plans = possible_plans(config, len(views[0].objects))
    free = max(0, _free(model.device) - _promised(encoder, config.views))
    loaded = tensor_bytes(model.sam)
    while True:
        plans = trainer.plans
        with measure_peak(model.device) as peak:
            loss = trainer.try_out(views)
        if trainer.plans is not plans:
            continue  # memory ran out, and the peak is that of the plan before
        if peak.rise <= _USABLE * free:
            planned = MemoryPlanned(plans[0].describe(), loaded + peak.rise, free)
            return planned, trainer.add_up(loss)
        trainer.back_off(f"{readable_bytes(peak.rise)} of {readable_bytes(free)} were needed")


def _free(device: torch.device) -> int:
    """Return the bytes that are free for this process: all have a GPU of their own."""
    free = free_memory(device)
    return free if device.type == "cuda" else free // processes_here()


def _promised(encoder: PlaneEncoder, views: int) -> int:
    """Return the bytes that the cache of frozen blocks may still take of the same memory."""
    cache, arch = encoder.cache, encoder.model.architecture
    if cache is None or encoder.first < 1 or encoder.model.device.type != "cpu":
        return 0
    each = arch.grid**2 * max(arch.width, arch.embedding_width) * encoder.kept_type.itemsize
    most = each * len(encoder.planes) * (views + arch.orientations)  # these to judge
    return max(0, min(cache.memory_budget, most) - cache.memory_bytes)
