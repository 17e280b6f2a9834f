"""Steps of the optimiser, each over one global batch of views."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from napari_peftsam.errors import TrainingError
from napari_peftsam.peft import Injection
from napari_peftsam.training._encoder import PlaneEncoder
from napari_peftsam.training._samples import prompt_tensors
from napari_peftsam.training._step import MicroBatch, StepPlan, add_gradients
from napari_peftsam.training._targets import Targets
from napari_peftsam.training._team import Team
from napari_peftsam.training._views import View
from napari_peftsam.training.config import TrainingConfig, recommended_learning_rate

__all__ = ["Trainer"]

_GRADIENT_NORM = 1.0


class Trainer:
    """An adapter with its optimiser.

    Attributes
    ----------
    plan
        How the next steps are computed. It may be changed between steps; a step that failed
        for want of memory may be taken again with another plan, since nothing is changed
        before all of its gradients are there.
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
            If the loss is no longer finite.
        """
        self._optimiser.zero_grad(set_to_none=True)
        device = self._model.device
        loss = torch.zeros((), device=device)
        weight = self._scaler.scale(torch.tensor(1 / len(views), device=device))
        with self._injection.training():
            for index in self._team.share(len(views)):
                loss += self._add_gradients(views[index], (number, index), weight) / len(views)
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
        """Compute the gradients of a view and drop them, to see that there is room for them.

        Weights and the state of torch's generators are as before.
        """
        device = self._model.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), self._injection.training():
            self._add_gradients(view, (0, 0), torch.ones((), device=device))
        self._optimiser.zero_grad(set_to_none=True)

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
