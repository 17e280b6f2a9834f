"""How much memory a step takes, known before it is taken, and the plan that fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from napari_peftsam.errors import TrainingError
from napari_peftsam.models import Architecture, SamModel, construct
from napari_peftsam.models.memory import LiveBytes, free_memory, readable_bytes
from napari_peftsam.peft import Injection, MethodConfig, first_changed_block
from napari_peftsam.peft.inject import operate
from napari_peftsam.training._encoder import PlaneEncoder
from napari_peftsam.training._pretend import pretend, pretend_weights
from napari_peftsam.training._samples import Crop, ModelPlane
from napari_peftsam.training._step import StepPlan
from napari_peftsam.training._team import Alone
from napari_peftsam.training._trainer import REMEDIES, Trainer
from napari_peftsam.training._views import View
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import AnnotatedPlane, TrainingObject
from napari_peftsam.types import Frame

__all__ = [
    "MemoryEstimate",
    "MemoryForecast",
    "choose_plan",
    "estimate_memory",
    "forecast_memory",
    "possible_plans",
]

# Of the free memory. The rest is for what kernels take for themselves, for memory in pieces
# too small to be used, and for what other programs take meanwhile.
_USABLE = 0.85
_HOLES = 48  # see `_unreturned`
_LIBRARIES = 40_000_000  # bytes, measured with torch 2.15 on Linux
_CPU = torch.device("cpu")
_MOMENTS = 2  # that AdamW keeps of every gradient


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the highest point of a training step.

    Attributes
    ----------
    weights
        Of the network, its adapter included.
    optimiser
        Its state.
    encoder
        Images, and activations that the image encoder keeps for its backward pass.
    passing
        What is there besides at the highest point: gradients, activations of the decoder or
        what the encoder needs while it computes.
    unreturned
        Of tensors that are gone, but not for the operating system.
    libraries
        What those that torch computes with take with the first step of a process; on the CPU.
    """

    weights: int
    optimiser: int
    encoder: int
    passing: int
    unreturned: int = 0
    libraries: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.weights + self.optimiser + self.encoder + self.passing + self.unreturned
            + self.libraries
        )  # fmt: skip

    @property
    def beyond_weights(self) -> int:
        """What is still to be taken where the network is loaded already."""
        return self.total - self.weights

    def describe(self) -> str:
        """Return its parts for people."""
        return (
            f"{readable_bytes(self.total)}: weights {readable_bytes(self.weights)}, optimiser "
            f"{readable_bytes(self.optimiser)}, encoder {readable_bytes(self.encoder)}, "
            f"decoder and gradients {readable_bytes(self.passing)}, unreturned "
            f"{readable_bytes(self.unreturned)}, libraries {readable_bytes(self.libraries)}"
        )


def estimate_memory(
    architecture: Architecture,
    config: TrainingConfig,
    plan: StepPlan,
    device: str,
    precision: str = "auto",
    objects: int | None = None,
) -> MemoryEstimate:
    """Return what a step takes, without weights, images or the memory itself.

    The code of a step is run on tensors without values, whose bytes are counted. What
    kernels take for themselves is not seen. Layers in 4 bits are counted as plain ones.

    Parameters
    ----------
    architecture
        Of the model.
    config
        Method, objects per step and the rest.
    plan
        How steps are computed.
    device, precision
        Where and in what, see `napari_peftsam.models.build`.
    objects
        Objects of a view, if there are fewer than the configuration asks for.

    Raises
    ------
    ConfigurationError
        If the method does not fit the architecture.
    """
    together = [config.objects_per_step, objects, plan.objects_at_once]
    question = _Question(
        architecture,
        config.method,
        min(n for n in together if n is not None),
        plan.checkpoint,
        # A third round only has more clicks than the second, which has a mask to start from.
        min(config.rounds, 2),
        device,
        precision,
    )
    return _answer(question)


@dataclass(frozen=True)
class _Question:
    """All that an estimate depends on."""

    architecture: Architecture
    method: MethodConfig
    objects: int
    checkpoint: bool
    rounds: int
    device: str
    precision: str


@lru_cache(maxsize=64)
def _answer(asked: _Question) -> MemoryEstimate:
    config = TrainingConfig(steps=1, method=asked.method, rounds=asked.rounds)
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            sam = construct(asked.architecture)
        bare = SamModel("", asked.architecture, sam, "")
        surgery = operate(bare, asked.method)
        with pretend() as live:
            pretend_weights(sam, torch.device(asked.device))
            weights, model = live.now, replace(bare, precision=asked.precision)
            injection = Injection(model, asked.method, surgery)
            first = first_changed_block(asked.method, asked.architecture.depth)
            encoder = _WatchedEncoder(model, {0: _plane(model)}, first, live=live)
            trainer = Trainer(injection, config, encoder, Alone())
            trainer.plan = StepPlan(checkpoint=asked.checkpoint)
            trainer.try_out(_view(asked.objects))
            trained = sum(p.nbytes for p in injection.trainable_parameters().values())
            after, peak = encoder.seen[0], max(encoder.seen[1], live.peak)
    moments = _MOMENTS * trained
    holes = model.device == _CPU and first < asked.architecture.depth
    unreturned = _unreturned(asked.architecture, model.precision) if holes else 0
    libraries = _LIBRARIES if model.device == _CPU else 0
    return MemoryEstimate(
        weights, moments, after - weights - moments, peak - after, unreturned, libraries
    )


def _unreturned(architecture: Architecture, precision: str) -> int:
    """Return the bytes that the C library keeps of tensors that are gone, on the CPU.

    Tensors below 32 MB share a heap, which is left with holes where an encoder is trained.
    With glibc they were measured to be 10 to 90 times as large as what enters a block, for
    ViT-B at 256, 512 and 1024 pixels and for the built-in model.
    """
    tokens = (architecture.training_side // architecture.patch_size) ** 2
    return _HOLES * tokens * architecture.width * (4 if precision == "fp32" else 2)


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


@dataclass(frozen=True)
class MemoryForecast:
    """What a training is going to take, before anything is loaded.

    Attributes
    ----------
    needed
        Bytes.
    free
        Bytes of the device.
    plan
        How steps would be computed; None if there is too little memory.
    """

    needed: int
    free: int
    plan: StepPlan | None

    def describe(self) -> str:
        """Return it for people, in one line."""
        text = f"Needs about {readable_bytes(self.needed)} of {readable_bytes(self.free)} free"
        if self.plan is None:
            return f"{text}: {REMEDIES}"
        return f"{text}, {self.plan.describe()}"


def forecast_memory(
    architecture: Architecture, config: TrainingConfig, device: str, precision: str = "auto"
) -> MemoryForecast:
    """Return what a training takes of a device whose free memory must hold the weights, too.

    Parameters and errors are those of `estimate_memory`.
    """

    def estimate(plan: StepPlan) -> MemoryEstimate:
        return estimate_memory(architecture, config, plan, device, precision)

    plans = possible_plans(config, config.objects_per_step)
    free = free_memory(torch.device(device))
    weights = estimate(plans[0]).weights
    try:
        index, found = choose_plan(plans, estimate, free - weights)
    except TrainingError:
        return MemoryForecast(estimate(plans[-1]).total, free, None)
    return MemoryForecast(found.total, free, plans[index])


def choose_plan(
    plans: Sequence[StepPlan], estimate: Callable[[StepPlan], MemoryEstimate], free: int
) -> tuple[int, MemoryEstimate]:
    """Return the index of the first plan that fits, and what it takes.

    Parameters
    ----------
    plans
        See `possible_plans`.
    estimate
        Of a plan.
    free
        Bytes to be had besides the weights, see `napari_peftsam.models.memory.free_memory`.

    Raises
    ------
    TrainingError
        If no plan fits.
    """
    found = None
    for index, plan in enumerate(plans):
        found = estimate(plan)
        if found.beyond_weights <= _USABLE * free:
            return index, found
    assert found is not None  # there is at least one plan
    raise TrainingError(
        f"finetuning like this needs about {readable_bytes(found.beyond_weights)} besides the "
        f"weights, even {plans[-1].describe()}, and {readable_bytes(free)} are free: {REMEDIES}"
    )


@dataclass(frozen=True, eq=False)
class _WatchedEncoder(PlaneEncoder):
    """Notes in `seen` the bytes that were alive after it and, at most, in it."""

    live: LiveBytes = field(default_factory=LiveBytes)
    seen: list[int] = field(default_factory=list)

    def features(
        self, plane: int, turn: int = 0, crop: Crop | None = None, checkpointing: bool = False
    ) -> Tensor:
        found = super().features(plane, turn, crop, checkpointing)
        self.seen.extend((self.live.now, self.live.peak))
        self.live.restart()
        return found


def _plane(model: SamModel) -> ModelPlane:
    side, device = model.image_size, model.device
    nothing = np.zeros((1, 1), np.uint8)
    return ModelPlane(
        AnnotatedPlane("", "", nothing, nothing),
        Frame(side, side, side),
        torch.empty(1, 3, side, side, device=device),
        torch.empty(side, side, dtype=torch.int32, device=device),
        device,
    )


def _view(objects: int) -> View:
    return View(tuple(TrainingObject(0, label, (0, 0, 1, 1)) for label in range(1, objects + 1)))
