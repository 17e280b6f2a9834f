"""A micro-batch: objects of one view are prompted in rounds, their gradients added up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from napari_peftsam.models import SamModel
from napari_peftsam.segmentation.decode import PromptTensors, decode
from napari_peftsam.training._targets import Targets
from napari_peftsam.training.losses import promptable_loss
from napari_peftsam.training.prompts import PromptSimulator

__all__ = ["MicroBatch", "StepPlan", "add_gradients"]


@dataclass(frozen=True)
class StepPlan:
    """How a micro-batch is computed; what is computed does not depend on it.

    Attributes
    ----------
    objects_at_once
        Objects that go through the decoder together; None for all of the micro-batch.
    checkpoint
        Whether the encoder computes its activations a second time rather than keep them.
    """

    objects_at_once: int | None = None
    checkpoint: bool = False

    def describe(self) -> str:
        """Return it for people, as in "training with 4 objects at once"."""
        if self.objects_at_once is None:
            objects = "with all objects"
        elif self.objects_at_once == 1:
            objects = "with one object"
        else:
            objects = f"with {self.objects_at_once} objects"
        return f"{objects} at once" + (" and activation checkpointing" if self.checkpoint else "")


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Objects of one view and the prompts to train them on.

    Attributes
    ----------
    targets
        The objects.
    side
        Side of the model input that holds them, in pixels.
    corner
        ``(x, y)`` of its first pixel in the model's frame.
    rounds
        First prompt plus corrections.
    generator
        Of all random choices; on the CPU.
    first
        First prompts of all objects, on the CPU; None to simulate them.
    """

    targets: Targets
    side: int
    corner: tuple[int, int]
    rounds: int
    generator: torch.Generator
    first: PromptTensors | None = None


def add_gradients(
    model: SamModel, batch: MicroBatch, features: Tensor, plan: StepPlan, weight: Tensor
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

    Returns
    -------
    torch.Tensor
        The loss, not weighted, without a graph.
    """
    passage = _Passage(model, batch, features, weight)
    user = PromptSimulator(batch.generator, batch.targets.grid)
    prompts = batch.first or user.first(batch.targets.truth, batch.targets.boxes)
    for index in range(batch.rounds):
        # Prompts are drawn for all objects together: chunks must not change what is drawn.
        low, seen = passage.round(prompts, plan.objects_at_once or len(batch.targets))
        if index + 1 < batch.rounds:
            prompts = user.correct(prompts, seen, low, batch.targets.truth)
    if passage.gradient is not None:
        torch.autograd.backward(features, passage.gradient.to(features.dtype))
    return passage.loss


class _Passage:
    """Rounds of a micro-batch through the decoder, with the sums of what comes back.

    Attributes
    ----------
    loss
        So far.
    gradient
        Of the weighted loss by the image embedding, in single precision; None if the encoder
        is not trained.
    """

    def __init__(
        self, model: SamModel, batch: MicroBatch, features: Tensor, weight: Tensor
    ) -> None:
        self._model, self._batch, self._features, self._weight = model, batch, features, weight
        self.loss = torch.zeros((), device=features.device)
        self.gradient: Tensor | None = None

    def round(self, prompts: PromptTensors, objects_at_once: int) -> tuple[Tensor, Tensor]:
        """Answer prompts and differentiate the loss.

        Returns
        -------
        low
            ``(B, 1, 4 h, 4 w)`` logits of each object's best answer.
        seen
            ``(B, G, G)`` the same on the objects' grids, on the CPU.
        """
        answers = [
            self._part(_objects(prompts, part, self._features.device), part)
            for part in _parts(len(self._batch.targets), objects_at_once)
        ]
        low, seen = (torch.cat(each) for each in zip(*answers, strict=True))
        return low, seen.cpu()

    def _part(self, prompts: PromptTensors, part: slice) -> tuple[Tensor, Tensor]:
        batch, model = self._batch, self._model
        features = self._features.detach().requires_grad_(self._features.requires_grad)
        patch, (left, top) = model.architecture.patch_size, batch.corner
        with model.autocast():
            low, scores = decode(model.sam, features, prompts, (top // patch, left // patch))
            seen = batch.targets.view(low, low.shape[-1] / batch.side, part)
            shapes = batch.targets.shapes[part]
            share = len(shapes) / len(batch.targets) / batch.rounds
            loss = promptable_loss(seen, scores, shapes) * share
        (loss * self._weight).backward()
        self.loss += loss.detach()
        if features.grad is not None:
            gradient = features.grad.float()
            self.gradient = gradient if self.gradient is None else self.gradient + gradient
        best = torch.arange(len(low), device=low.device), scores.detach().argmax(1)
        return low.detach()[best][:, None], seen.detach()[best]


def _parts(objects: int, at_once: int) -> Iterator[slice]:
    for start in range(0, objects, at_once):
        yield slice(start, min(start + at_once, objects))


def _objects(prompts: PromptTensors, part: slice, device: torch.device) -> PromptTensors:
    """Return the prompts of some of the objects, on the device."""
    given = {f.name: getattr(prompts, f.name) for f in fields(prompts)}
    return PromptTensors(**{n: None if t is None else t[part].to(device) for n, t in given.items()})
