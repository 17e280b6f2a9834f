"""Steps of the optimiser, each over one global batch of views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from napari_peftsam.errors import TrainingError
from napari_peftsam.models.memory import is_out_of_memory, release_memory
from napari_peftsam.peft import Injection
from napari_peftsam.training._encoder import PlaneEncoder
from napari_peftsam.training._samples import prompt_tensors
from napari_peftsam.training._step import MicroBatch, StepPlan, add_gradients
from napari_peftsam.training._targets import Targets
from napari_peftsam.training._team import Team
from napari_peftsam.training._views import View
from napari_peftsam.training.config import TrainingConfig, recommended_learning_rate
from napari_peftsam.training.events import TrainingAdjusted

__all__ = ["REMEDIES", "Trainer"]

REMEDIES = (
    "choose a later placement (late-25%), the method frozen-encoder, a smaller model, or the CPU"
)
"""What to do when memory is too small, the end of a message."""

_GRADIENT_NORM = 1.0


class Trainer:
    """An adapter with its optimiser.

    Attributes
    ----------
    plan
        How the next steps are computed. It may be changed between steps.
    smaller_plans
        What to go on with when memory runs out, in this order. The step is taken again then:
        nothing is changed before all of its gradients are there.
    """

    def __init__(
        self,
        injection: Injection,
        config: TrainingConfig,
        encoder: PlaneEncoder,
        team: Team,
    ) -> None:
        self._injection, self._config, self._encoder, self._team = injection, config, encoder, team
        self._model = model = injection.model
        self.plan = StepPlan()
        self.smaller_plans: tuple[StepPlan, ...] = ()
        self._adjustments: list[TrainingAdjusted] = []
        rate = config.learning_rate or recommended_learning_rate(model.architecture)
        groups = injection.parameter_groups(rate, config.weight_decay)
        self._peaks = [float(group["lr"]) for group in groups]
        self._optimiser = torch.optim.AdamW(groups, fused=True)
        self._parameters = [p for group in groups for p in group["params"]]
        # Half precision has too few exponents for small gradients.
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=model.precision == "fp16")

    def step(self, number: int, views: Sequence[View], rate: float) -> float:
        """Train on a global batch; return its mean loss.

        Parameters
        ----------
        number
            Of the step. With the seed and a view's index in the batch it decides all
            random choices, whichever process takes them.
        views
            Of the global batch, all processes' together.
        rate
            Factor on the learning rates.

        Raises
        ------
        TrainingError
            If the loss is no longer finite, or the memory is too small for every plan.
        """
        share = self._team.share(len(views))
        loss = self._within_memory(lambda: self._gradients(number, views, share))
        self._team.add_up(loss)
        self._team.add_up_gradients(self._parameters)
        if not torch.isfinite(loss):
            raise TrainingError(
                "the training diverged (its loss is no longer a finite number): lower the learning "
                "rate; the adapter that was live before is unchanged"
            )
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate
        self._scaler.unscale_(self._optimiser)
        torch.nn.utils.clip_grad_norm_(self._parameters, _GRADIENT_NORM)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        return loss.item()

    def try_out(self, view: View) -> None:
        """Take a step without taking it, to see that there is room for it.

        Weights, optimiser and torch's generators are as before.

        Raises
        ------
        TrainingError
            As `step`.
        """
        device = self._model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self._within_memory(lambda: self._with_moments(view))
        self._optimiser.zero_grad(set_to_none=True)

    def take_adjustments(self) -> list[TrainingAdjusted]:
        """Return where memory ran out since this was last asked."""
        taken, self._adjustments = self._adjustments, []
        return taken

    def _with_moments(self, view: View) -> Tensor:
        # Those that AdamW makes in its first step, unless it has been taken.
        missing = [] if self._optimiser.state else self._parameters
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in missing]
        loss = self._gradients(0, [view], [0])  # by each process for itself
        del moments
        return loss

    def _within_memory(self, compute: Callable[[], Tensor]) -> Tensor:
        """Return what is computed, with smaller and smaller plans while memory runs out."""
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
            # Only now have the frames that held the activations gone, with the error.
            self._back_off(reason)

    def _back_off(self, reason: str) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        release_memory()
        if not self.smaller_plans:
            raise TrainingError(
                f"not enough memory for a training step, even {self.plan.describe()}: {REMEDIES}"
            )
        self.plan, self.smaller_plans = self.smaller_plans[0], self.smaller_plans[1:]
        self._adjustments.append(TrainingAdjusted(self.plan.describe(), reason))

    def _gradients(self, number: int, views: Sequence[View], share: Sequence[int]) -> Tensor:
        """Leave the gradients of a share of the views with the parameters; return the loss."""
        self._optimiser.zero_grad(set_to_none=True)
        device = self._model.device
        loss = torch.zeros((), device=device)
        weight = self._scaler.scale(torch.tensor(1 / len(views), device=device))
        with self._injection.training():
            for index in share:
                loss += self._add_gradients(views[index], (number, index), weight) / len(views)
        return loss

    def _add_gradients(self, view: View, place: tuple[int, int], weight: Tensor) -> Tensor:
        model, plane = self._model, self._encoder.planes[view.plane]
        seed = int(np.random.SeedSequence((self._config.seed, *place)).generate_state(1)[0])
        torch.manual_seed(seed)  # of what the adapter draws, e.g. dropout
        generator = torch.Generator().manual_seed(seed)
        arch = model.architecture
        sample = plane.sample(view.objects, view.turn)
        sample = sample.cropped(arch.training_side, arch.patch_size, view.zoom)
        own = sample.real[0] if view.own_prompts else None
        batch = MicroBatch(
            Targets.of(sample), sample.side, sample.corner, self._config.rounds, generator,
            None if own is None else prompt_tensors(own, plane),
        )  # fmt: skip
        features = self._encoder.features(view.plane, view.turn, sample.crop, self.plan.checkpoint)
        return add_gradients(model, batch, features, self.plan, weight)
