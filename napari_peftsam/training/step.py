"""A step of the optimiser: data, prompts, forward pass, loss, backward pass, update."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from napari_peftsam.errors import TrainingError
from napari_peftsam.models import SamModel
from napari_peftsam.models.memory import is_out_of_memory, release_memory
from napari_peftsam.models.parts import MaskRefiner
from napari_peftsam.peft import Injection
from napari_peftsam.segmentation.decode import PromptTensors, decode_outputs
from napari_peftsam.training.config import TrainingConfig, recommended_learning_rate
from napari_peftsam.training.dense import DENSE_WEIGHT, HEAD_RATE, DenseTraining
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.events import MemoryPlanned, StepProgress
from napari_peftsam.training.losses import dice_loss, promptable_loss
from napari_peftsam.training.memory import StepPlan
from napari_peftsam.training.prompts import PeftSamSimulator, PromptSimulator
from napari_peftsam.training.samples import Targets, TrainingCrop, View, crop_masks, prompt_tensors
from napari_peftsam.training.team import Team

_GRADIENT_NORM = 1.0
_HELD_BACK = 9  # after n steps the average keeps at most n / (n + this) of itself
# Steps after which all of a refiner's learned change is made: `MaskRefiner.strength` of it before.
_TRUSTED_AFTER = 100
_MOST_DONE = 0.99  # of a step that takes more parts than expected


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Objects of one view and the prompts to train them on.

    Attributes
    ----------
    targets
        The objects.
    user
        Prompts them.
    prompts
        First prompts of all objects, on the CPU.
    rounds
        First prompt plus corrections.
    loss
        As `TrainingConfig` calls it.
    """

    targets: Targets
    user: PromptSimulator
    prompts: PromptTensors
    rounds: int
    loss: Literal["dice-bce", "dice"] = "dice-bce"


class Trainer:
    """An adapter with its optimiser.

    `earlier_steps` is how many the adapter has had before.

    A step is `gradients`, then `update`. When memory runs out, the gradients are computed again
    with a smaller plan: nothing is changed before all of them are there.

    Attributes
    ----------
    plans
        The present plan and smaller ones to back off to.
    """

    def __init__(
        self,
        injection: Injection,
        config: TrainingConfig,
        encoder: PlaneEncoder,
        team: Team,
        dense: DenseTraining | None = None,
        earlier_steps: int = 0,
    ) -> None:
        self._injection, self._config, self._encoder, self._team = injection, config, encoder, team
        self._dense = dense
        self._model = model = injection.model
        rate = config.learning_rate or recommended_learning_rate(model.architecture)
        groups = injection.parameter_groups(rate, config.weight_decay)
        if dense is not None:
            head = {"name": "head", "params": [*dense.head.parameters()], "lr": HEAD_RATE}
            groups.append(head | {"weight_decay": config.weight_decay})
        self._peaks = [float(group["lr"]) for group in groups]
        with _without_triton():
            self._optimiser = torch.optim.AdamW(groups, fused=True)
        self.plans: tuple[StepPlan, ...] = (StepPlan(),)
        self._adjustments: list[MemoryPlanned] = []
        self._parameters = [p for group in groups for p in group["params"]]
        self._average = [p.detach().clone() for p in self._parameters if config.averaging]
        known = [*injection.trainable_parameters().values()]
        if dense is not None and dense.before:  # else the head is new: its start says nothing
            known += dense.head.parameters()
        self._start = [(p, p.detach().clone()) for p in known if config.start_weight]
        self._updates, self._earlier = 0, earlier_steps
        # Half precision has too few exponents for small gradients.
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=model.precision == "fp16")

    def try_out(self, views: Sequence[View]) -> Tensor:
        """Compute what `gradients` of the first step does, with room for the moments.

        Return this process's part of the loss. The first of the views is among those that it
        computes, if only for the room that it takes.
        """
        return self._fit(lambda plan: self._with_moments(views, plan))

    def _with_moments(self, views: Sequence[View], plan: StepPlan) -> Tensor:
        # The moments that AdamW allocates in its first step.
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self._parameters]
        share = self._team.share(len(views))
        if 0 not in share:
            self._gradients(0, views, [0], plan)
        loss = self._gradients(0, views, share, plan)
        del moments
        return loss

    def gradients(self, number: int, views: Sequence[View]) -> float:
        """Compute the gradients of a global batch; return its mean loss.

        Parameters
        ----------
        number
            Number of the step. With the seed and a view's index in the batch it decides all
            random choices, whichever process makes them.
        views
            The global batch of all processes.
        """
        share = self._team.share(len(views))
        return self.add_up(self._fit(lambda plan: self._gradients(number, views, share, plan)))

    def add_up(self, loss: Tensor) -> float:
        """Add up loss and gradients of all processes; return the loss, see `gradients`."""
        self._team.add_up(loss)
        self._team.add_up_gradients(self._parameters)
        if not torch.isfinite(loss):
            raise TrainingError(
                "the training diverged (its loss is no longer a finite number): lower the learning "
                "rate; the adapter that was live before is unchanged"
            )
        return loss.item()

    def update(self, rate: float) -> None:
        """Change the parameters by their gradients; `rate` is a factor on the learning rates."""
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * rate
        self._scaler.unscale_(self._optimiser)
        torch.nn.utils.clip_grad_norm_(self._parameters, _GRADIENT_NORM)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._updates += 1
        # Few steps must not leave most of the start in it.
        kept = min(self._config.averaging, self._updates / (self._updates + _HELD_BACK))
        for average, parameter in zip(self._average, self._parameters, strict=False):
            average.lerp_(parameter.detach(), 1 - kept)

    @contextmanager
    def result(self) -> Iterator[None]:
        """Put what the training has led to in the place of the parameters.

        That is their running average, if one is kept: an exponential moving average (Polyak
        averaging) costs no step, and differs less from one step to the next than they do. A part
        of the start, if one is wanted, keeps what the base knows of images unlike those that were
        learned from (Wortsman et al. 2022). The last layer of a refiner is scaled beside: on the
        images that it was trained for, what it changes need not be held back any more.
        """
        scaled = self._refiner_output
        changes = bool(self._average or scaled or self._start)
        own = [parameter.detach().clone() for parameter in self._parameters if changes]
        self._load_parameters(self._average)
        with torch.no_grad():
            for parameter, start in self._start:
                parameter.lerp_(start, self._config.start_weight)
            for parameter in scaled:
                parameter.mul_(self._refiner_factor)
        try:
            yield
        finally:
            self._load_parameters(own)

    @property
    def _refiner_output(self) -> list[nn.Parameter]:
        """Trained tensors of the last layer of a refiner; what it changes is linear in them."""
        refiner = getattr(self._model.sam.mask_decoder, "refiner", None)
        last = [] if refiner is None else [*refiner.layers[-1].parameters()]
        return [p for p in last if any(p is each for each in self._parameters)]

    @property
    def _refiner_factor(self) -> float:
        """Factor on what the refiner changes: together with those before, 1 / `strength`."""
        steps = self._earlier, self._earlier + self._updates
        before, now = (min(each, _TRUSTED_AFTER) / _TRUSTED_AFTER for each in steps)
        return float(MaskRefiner.strength ** (before - now))

    @torch.no_grad()
    def _load_parameters(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=False):
            parameter.copy_(value)

    def _fit(self, compute: Callable[[StepPlan], Tensor]) -> Tensor:
        """Compute something, with smaller and smaller plans while memory runs out."""
        while True:
            try:
                return compute(self.plans[0])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
            # Only now have the error and the frames with the activations gone.
            self.back_off(reason)

    def back_off(self, reason: str) -> None:
        """Go on with the next smaller plan; `TrainingError` if there is none."""
        self._optimiser.zero_grad()
        release_memory()
        if len(self.plans) == 1:
            raise TrainingError(
                f"not enough memory for a training step, even {self.plans[0].describe()}: choose a "
                "later placement (late-25%), the method frozen-encoder, a smaller model, or the CPU"
            )
        self.plans = self.plans[1:]
        self._adjustments.append(MemoryPlanned(self.plans[0].describe(), reason=reason))

    def take_adjustments(self) -> list[MemoryPlanned]:
        """Return the back-offs since the last call."""
        taken, self._adjustments = self._adjustments, []
        return taken

    def _gradients(
        self, number: int, views: Sequence[View], share: Sequence[int], plan: StepPlan
    ) -> Tensor:
        """Leave the gradients of a share of the views with the parameters; return the loss."""
        self._optimiser.zero_grad()
        loss = torch.zeros((), device=self._model.device)
        weight = self._scaler.scale(torch.tensor(1 / len(views), device=loss.device))
        with self._injection.training():
            for index in share:
                view, seed = views[index], (self._config.seed, number, index)
                batch, features, crop = self._load(view, seed, plan)
                gradient = self._add_dense(view, features, crop, weight)
                found = add_gradients(self._model, batch, features, plan, weight, gradient)
                loss += found / len(views)
        return loss

    def _add_dense(
        self, view: View, features: Tensor, crop: TrainingCrop | None, weight: Tensor
    ) -> Tensor | None:
        """Add the gradients of the head's loss; return those of the embedding, if it has any."""
        if self._dense is None:
            return None
        embedding = features.detach().requires_grad_(features.requires_grad)
        with self._model.autocast():
            loss = self._dense.loss(embedding, view.objects[0].plane, view.turn, crop)
        (loss * weight * DENSE_WEIGHT).backward()
        return None if embedding.grad is None else embedding.grad.float()

    def _load(
        self, view: View, seed: tuple[int, int, int], plan: StepPlan
    ) -> tuple[MicroBatch, Tensor, TrainingCrop | None]:
        """Return a view's objects, rotated and cropped, the embedding of that part, and the part.

        `seed` is that of the run, the number of the step and the view's index in the batch.
        """
        drawn = int(np.random.SeedSequence(seed).generate_state(1)[0])
        torch.manual_seed(drawn)  # of what the adapter draws, e.g. dropout
        generator = torch.Generator().manual_seed(drawn)
        index, arch = view.objects[0].plane, self._model.architecture
        plane = self._encoder.planes[index]
        masks = plane.masks(view.objects, view.turn)
        masks, crop = crop_masks(masks, arch.training_side, arch.patch_size, view.zoom)
        targets = Targets.of(masks, crop)
        config, user = self._config, targets.user(generator)
        varied = config.prompts == "varied"
        if not varied:
            _, number, _ = seed
            user = PeftSamSimulator(generator, user.origin, user.spacing, box_first=number % 2 == 1)
        if view.own_prompts and varied:
            own = plane.source.prompts[view.objects[0].label]
            prompts = prompt_tensors(own, plane.frame)
        else:
            prompts = user.first(targets.truth, targets.boxes)
        features = self._encoder.features(index, view.turn, crop, plan.checkpoint)
        return MicroBatch(targets, user, prompts, config.rounds, config.loss), features, crop


def add_gradients(
    model: SamModel,
    batch: MicroBatch,
    features: Tensor,
    plan: StepPlan,
    weight: Tensor,
    gradient: Tensor | None = None,
) -> Tensor:
    """Add the gradients of a micro-batch's loss to those of the parameters.

    The loss is the mean over rounds and objects. Prompts of a later round depend on the
    answers of the earlier one, but carry no gradient; so the loss is a sum of parts that share
    nothing but the image embedding. Each part is differentiated at once, down to the embedding,
    and its activations are freed; the encoder is differentiated once, at the end.

    Parameters
    ----------
    features
        Image embedding ``(1, C, h, w)``, with its graph if the encoder is trained. The graph
        is freed.
    weight
        Factor on the gradients, a scalar.
    gradient
        Of the image embedding, from another loss.

    Returns
    -------
    torch.Tensor
        The loss, not weighted, without a graph.
    """
    targets, prompts, patch = batch.targets, batch.prompts, model.architecture.patch_size
    token = targets.corner[1] // patch, targets.corner[0] // patch
    count, grid = len(targets.shapes), features.shape[-1]
    size = plan.objects_at_once or count
    loss_of = promptable_loss if batch.loss == "dice-bce" else dice_loss
    total = torch.zeros((), device=features.device)
    for index in range(batch.rounds):
        answers, trained = [], _trained(batch, prompts)
        for part in (slice(start, min(start + size, count)) for start in range(0, count, size)):
            embedding = features.detach().requires_grad_(features.requires_grad)
            with model.autocast():
                given = _objects(prompts, part, features.device)
                outputs = decode_outputs(model.sam, embedding, given, [token])
                around = targets.seen(part, grid)  # the loss depends on nothing outside
                logits = targets.view(outputs.within(around).logits(), part, grid, around)
                scores, shapes = outputs.scores[:, trained], targets.shapes[part]
                share = len(shapes) / count / batch.rounds
                loss = loss_of(logits[:, trained], scores, shapes) * share
            (loss * weight).backward()
            total += loss.detach()
            if embedding.grad is not None:  # added up in single precision
                found = embedding.grad.float()
                gradient = found if gradient is None else gradient + found
            if index + 1 < batch.rounds:
                with torch.no_grad(), model.autocast():
                    best = scores.argmax(1, keepdim=True) + trained.start
                    answer = logits.take_along_dim(best[..., None, None], 1)[:, 0]
                    answers.append((outputs.logits(best), answer))
            del embedding, outputs, scores, logits, loss  # make room for the next part
        if index + 1 < batch.rounds:
            masks, seen = (torch.cat(each) for each in zip(*answers, strict=True))
            # For all objects together: parts must not change what is drawn.
            prompts = batch.user.correct(prompts, seen.cpu(), masks, targets.truth)
    if gradient is not None:
        torch.autograd.backward(features, gradient.to(features.dtype))
    return total


def _trained(batch: MicroBatch, prompts: PromptTensors) -> slice:
    """Return which of the four outputs are trained in a round, and answer in it."""
    if batch.loss == "dice-bce":
        return slice(0, 4)
    # A lone click may mean several things, so it has three answers.
    lone = prompts.boxes is None and prompts.points is not None and prompts.points.shape[1] == 1
    return slice(1, 4) if lone else slice(0, 1)


def _objects(prompts: PromptTensors, part: slice, device: torch.device) -> PromptTensors:
    """Return the prompts of some of the objects, on the device."""
    given = {f.name: getattr(prompts, f.name) for f in fields(prompts)}
    return PromptTensors(**{n: None if t is None else t[part].to(device) for n, t in given.items()})


@contextmanager
def _without_triton() -> Iterator[None]:
    """Let torch believe that triton is not installed.

    The first optimiser of a process imports torch's compiler, which imports triton if it finds
    it. Its library and Mesa's OpenGL drivers, which the process of a window has loaded by then,
    each hold an LLVM: loading the second ends the process with a segmentation fault (seen with
    torch 2.14, triton 3.9 and Mesa's llvmpipe). The compiler is not used here.
    """
    absent = "triton" not in sys.modules
    if absent:
        sys.modules["triton"] = None  # type: ignore[assignment]  # Python's way to say so
    try:
        yield
    finally:
        if absent:
            del sys.modules["triton"]


# --- between the parts of a step ------------------------------------------------------


def give_way_inside(network: nn.Module, give_way: Callable[[], object]) -> list[RemovableHandle]:
    """Let a network call `give_way` between its parts, forwards and backwards.

    Parts are attention and MLP of each block, in the image encoder and the mask decoder:
    one step of the training takes seconds for a large model, one part a fraction of that.
    Removing the handles ends it.
    """

    def before(*_: Any) -> None:
        give_way()

    def after(_module: Any, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(before)

    handles = []
    for name, module in network.named_modules():
        if name.endswith((".attn", ".self_attn", ".mlp")):
            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after))
    return handles


@contextmanager
def parts_reported(
    encoder: PlaneEncoder, views: int, report: Callable[[StepProgress], object] | None
) -> Iterator[None]:
    """Report how much of a step of so many views is done, by the parts of the image encoder."""
    if report is None:
        yield
        return
    depth, calls = encoder.model.architecture.depth, count()
    trained = (depth - min(max(encoder.first, 0), depth)) / depth  # these go backwards, too

    def part() -> None:
        report(StepProgress(min(_MOST_DONE, next(calls) / total)))

    handles = give_way_inside(encoder.model.sam.image_encoder, part)
    total = max(1, views) * len(handles) / 2 * (1 + trained)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
