"""Before the first step: what it takes is estimated, the plan that fits chosen and tried out."""

from __future__ import annotations

import logging
from itertools import islice

import torch

from napari_peftsam.errors import PeftSamError
from napari_peftsam.models.memory import free_memory, measure_peak, tensor_bytes
from napari_peftsam.peft import Injection
from napari_peftsam.training._encoder import PlaneEncoder
from napari_peftsam.training._parallel import processes_here
from napari_peftsam.training._step import StepPlan
from napari_peftsam.training._trainer import Trainer
from napari_peftsam.training._views import View, Views
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.events import MemoryPlanned
from napari_peftsam.training.memory import (
    MemoryEstimate,
    choose_plan,
    estimate_memory,
    possible_plans,
)

__all__ = ["preflight"]

_log = logging.getLogger(__name__)
_LOOKED_AT = 64  # views, to find one of the largest


def preflight(
    trainer: Trainer,
    injection: Injection,
    config: TrainingConfig,
    encoder: PlaneEncoder,
    views: Views,
) -> MemoryPlanned:
    """Give the trainer the fastest plan that fits the free memory, and try it out.

    For the trial, the peaks of memory that the system and torch note are reset, see
    `napari_peftsam.models.memory.measure_peak`.

    Raises
    ------
    TrainingError
        If no plan fits.
    """
    model, largest = injection.model, _largest(views)
    device, objects = model.device, len(largest.objects)
    asked = config.model_copy(update={"method": injection.config})

    def estimate(plan: StepPlan) -> MemoryEstimate:
        return estimate_memory(
            model.architecture, asked, plan, str(device), model.precision, objects
        )

    plans = possible_plans(config, objects)
    free = max(0, _free(device) - _promised(encoder, config.views))
    needed, index = None, 0
    try:
        index, estimated = choose_plan(plans, estimate, free)
        needed = estimated.total
    except PeftSamError:
        raise
    except Exception:  # noqa: BLE001 - it leans on private parts of torch; the trial does not
        _log.warning("the memory of a training step could not be estimated", exc_info=True)
    trainer.plan, trainer.smaller_plans = plans[index], plans[index + 1 :]
    loaded = tensor_bytes(model.sam)
    with measure_peak(device) as peak:
        trainer.try_out(largest)
    return MemoryPlanned(needed, loaded + peak.rise, free, trainer.plan.describe())


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
    most = each * len(encoder.planes) * (views + 1)  # and as it is, to validate
    return max(0, min(cache.memory_budget, most) - cache.memory_bytes)


def _largest(views: Views) -> View:
    return max((view for _, view in islice(views, _LOOKED_AT)), key=lambda v: len(v.objects))
