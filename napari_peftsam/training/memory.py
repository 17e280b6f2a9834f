"""How much memory a step takes, known before it is taken, and the plan that fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam

from napari_peftsam.errors import TrainingError
from napari_peftsam.models import Architecture, SamModel, construct
from napari_peftsam.models.memory import LiveBytes, readable_bytes
from napari_peftsam.peft import Injection, MethodConfig
from napari_peftsam.peft.inject import operate
from napari_peftsam.training._pretend import pretend, pretend_weights
from napari_peftsam.training._samples import ModelPlane
from napari_peftsam.training._step import StepPlan
from napari_peftsam.training._team import Alone
from napari_peftsam.training._trainer import Trainer
from napari_peftsam.training._views import View
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import AnnotatedPlane, TrainingObject
from napari_peftsam.types import Frame

__all__ = ["MemoryEstimate", "estimate_memory"]

# Of the free memory. The rest is for what kernels take for themselves, for memory in pieces
# too small to be used, and for what other programs take meanwhile.
_USABLE = 0.85
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
    """

    weights: int
    optimiser: int
    encoder: int
    passing: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimiser + self.encoder + self.passing

    @property
    def beyond_weights(self) -> int:
        """What is still to be taken where the network is loaded already."""
        return self.total - self.weights

    def describe(self) -> str:
        """Return its parts for people."""
        return (
            f"{readable_bytes(self.total)}: weights {readable_bytes(self.weights)}, optimiser "
            f"{readable_bytes(self.optimiser)}, encoder {readable_bytes(self.encoder)}, "
            f"decoder and gradients {readable_bytes(self.passing)}"
        )


def estimate_memory(
    architecture: Architecture,
    config: TrainingConfig,
    plan: StepPlan,
    device: torch.device,
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
    device
        Where.
    objects
        Objects of a view, if there are fewer than the configuration asks for.

    Raises
    ------
    ConfigurationError
        If the method does not fit the architecture.
    """
    count = min(config.objects_per_step, objects or config.objects_per_step)
    # Corrections add a click, hardly a byte: what two rounds take, many do.
    short = config.model_copy(update={"rounds": min(config.rounds, 2)})
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            sam = construct(architecture)
        model = SamModel(architecture.name, architecture, sam, "")
        surgery = operate(model, config.method)
        with pretend() as live:
            pretend_weights(sam, device)
            injection, weights = Injection(model, config.method, surgery), live.now
            trainer = Trainer(injection, short, {0: _plane(architecture, device)}, Alone())
            trainer.plan = plan
            encoder = _EncoderWatch(live, sam)
            trainer.try_out(_view(count))
            trained = sum(p.nbytes for p in injection.trainable_parameters().values())
            peak = max(live.peak, encoder.peak)
    step = peak - weights  # gradients are there when the encoder is differentiated
    kept = min(encoder.kept - weights, step)
    return MemoryEstimate(weights, _MOMENTS * trained, kept, step - kept)


class _EncoderWatch:
    """Notes what the encoder has kept and taken when the decoder begins.

    Attributes
    ----------
    kept, peak
        Bytes.
    """

    def __init__(self, live: LiveBytes, sam: Sam) -> None:
        self.kept = self.peak = 0
        self._live = live
        self._handle = sam.mask_decoder.transformer.register_forward_pre_hook(self._note)

    def _note(self, *_: object) -> None:
        self._handle.remove()
        self.kept, self.peak = self._live.now, self._live.peak
        self._live.restart()


def _plane(architecture: Architecture, device: torch.device) -> ModelPlane:
    side = architecture.image_size
    nothing = np.zeros((1, 1), np.uint8)
    return ModelPlane(
        AnnotatedPlane("", "", nothing, nothing),
        Frame(side, side, side),
        torch.empty(1, 3, side, side, device=device),
        torch.empty(side, side, dtype=torch.long, device=device),
    )


def _view(objects: int) -> View:
    return View(tuple(TrainingObject(0, label, (0, 0, 1, 1)) for label in range(1, objects + 1)))
