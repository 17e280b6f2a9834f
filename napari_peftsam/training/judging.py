"""Held-out objects, and the answers of models to their prompts: during a training and at its end.

Validations are short and choose the state to keep. The verdict comes once, in the end: that state
and the model in use answer the person's own prompts and simulated clicks. Where few objects were
held out, the others are judged too: in folds, by decoders that were trained without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from napari_peftsam.embeddings import Embedding, embedding_key
from napari_peftsam.errors import TrainingError
from napari_peftsam.evaluation import (
    Answers,
    Target,
    Trial,
    bootstrap_intervals,
    box_ious,
    click_ious,
    given_ious,
)
from napari_peftsam.models.orientations import ORIENTATIONS
from napari_peftsam.peft import Adapter, Injection, apply_adapter, inject
from napari_peftsam.segmentation import Predictor
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import AnnotatedPlane, TrainingObject
from napari_peftsam.training.encoder import PlaneEncoder, open_cache
from napari_peftsam.training.samples import Views
from napari_peftsam.training.step import Trainer
from napari_peftsam.training.team import Team
from napari_peftsam.types import Prompts

__all__ = ["Incumbent"]

HELD_OUT_AT_MOST = 32  # objects: a validation must stay short beside the training
JUDGED_AT_MOST = 96  # by the verdict, where time allows: clicks vary by two or three per object
# A model that answers the first click well and corrections badly costs the user clicks, so
# corrections count too; only three of them, since a validation takes time from the training.
_CLICKS = 3
_CLICKS_OF_VERDICT = 8
_GOOD = 0.95  # IoU at which an object gets no more clicks

# With as many held-out objects as this, the others are not judged.
ENOUGH = 16
_FOLDS = 3
_FOLD_STEPS = 16
ONE_ERROR = 0.683  # level of an interval of one standard error to each side


@dataclass(frozen=True, eq=False)
class HeldOutObject:
    """An object to ask models for: where it is, and a person's own prompts for it."""

    image: str
    target: Target
    prompts: Prompts


HeldOut = Mapping[int, tuple[HeldOutObject, ...]]
"""Held-out objects by the index of their plane."""


@dataclass(frozen=True)
class Incumbent:
    """The adapter that a result is judged against, as it is used now.

    Attributes
    ----------
    strength
        Factor on its changes, see `napari_peftsam.peft.Injection.set_strength`.
    """

    adapter: Adapter
    strength: float = 1.0


def draw_held_out(
    objects: Sequence[TrainingObject], planes: Sequence[AnnotatedPlane], at_most: int, seed: int
) -> HeldOut:
    """Choose at most `at_most` of the objects at random."""
    rng = np.random.default_rng(seed)
    found: dict[int, tuple[HeldOutObject, ...]] = {}
    for index in sorted(rng.permutation(len(objects))[:at_most].tolist()):
        item = objects[index]
        plane = planes[item.plane]
        target = Target.from_mask(plane.labels == item.label)
        prompts = plane.prompts.get(item.label, Prompts())
        one = HeldOutObject(plane.image, target, prompts)
        found[item.plane] = (*found.get(item.plane, ()), one)
    return found


def part_of(held_out: HeldOut, start: int, stop: int) -> HeldOut:
    """Return the held-out objects with these numbers, counted over all planes."""
    found, number = dict[int, tuple[HeldOutObject, ...]](), 0
    for plane, objects in held_out.items():
        here = objects[max(start - number, 0) : max(stop - number, 0)]
        found |= {plane: here} if here else {}
        number += len(objects)
    return found


# --- answers ----------------------------------------------------------------------


def validate(encoder: PlaneEncoder, held_out: HeldOut) -> tuple[Answers, ...]:
    """Return the answers to a tight box and to 1, 2 and 3 clicks for every object.

    In one orientation, as states are only compared with each other.
    """
    found: list[Answers] = []
    for index, objects in held_out.items():
        with plane_predictor(encoder, index, orientations=1) as (predictor, embedding):
            found += _simulated(predictor, embedding, objects, _CLICKS)
    return tuple(found)


def mean_iou(answers: Sequence[Answers]) -> float:
    """Return the mean IoU over objects and their prompts."""
    return float(np.mean([each.iou for each in answers]))


def is_worse(held_out: HeldOut, answers: Sequence[Answers], best: Sequence[Answers]) -> bool:
    """Return whether a state answers worse than the best one so far, see `is_loss`."""
    gains = [new.iou - old.iou for new, old in zip(answers, best, strict=True)]
    return is_loss(_images(held_out), gains)


def is_loss(images: Sequence[str], gains: Sequence[float], level: float = ONE_ERROR) -> bool:
    """Return whether gains of objects, each of its image, are below 0 by more than noise.

    Noise is what the interval of their mean, drawn over images and their objects, allows: by
    default one standard error (Breiman et al. 1984, the rule for pruning trees). A single object
    has none: any loss is one.
    """
    if np.mean(gains) >= 0:  # no need to draw anything
        return False
    groups = [images.index(image) for image in images]
    found = bootstrap_intervals(np.array(gains)[:, None], groups, level)
    return found is None or found[0][1] < 0


def replay(encoder: PlaneEncoder, held_out: HeldOut) -> tuple[Answers, ...]:
    """Return the answers to the person's prompts and to clicks until the mask is good.

    Objects without prompts get the simulated ones of `validate`.
    """
    found: list[Answers] = []
    for index, objects in held_out.items():
        own = [i for i, one in enumerate(objects) if one.prompts]
        with plane_predictor(encoder, index) as (predictor, embedding):
            answers = _simulated(predictor, embedding, objects, _CLICKS_OF_VERDICT, _GOOD)
            targets, prompts = [objects[i].target for i in own], [objects[i].prompts for i in own]
            given = given_ious(predictor, embedding, targets, prompts)
        for i, ious in zip(own, given, strict=True):
            answers[i] = replace(answers[i], given=ious)
        found += answers
    return tuple(found)


def answers_of(
    encoder: PlaneEncoder,
    model: Incumbent | None,
    held_out: HeldOut,
    ask: Callable[[PlaneEncoder, HeldOut], tuple[Answers, ...]] = replay,
) -> tuple[Answers, ...]:
    """Return the answers of an adapter, or of the bare base; the base carries none now."""
    if model is None:
        return ask(encoder, held_out)
    base = encoder.model
    with apply_adapter(base, model.adapter) as injection:
        injection.set_strength(model.strength)
        first = model.adapter.config.first_changed_block(base.architecture.depth)
        # Where both begin late, what the base makes of the planes is the same for both.
        return ask(replace(encoder, first=min(first, encoder.first)), held_out)


def trials(
    held_out: HeldOut,
    old: Sequence[Answers],
    new: Sequence[Answers],
    in_fold: bool = False,
) -> tuple[Trial, ...]:
    """Pair the answers of two models."""
    return tuple(
        Trial(image, before, after, in_fold)
        for image, before, after in zip(_images(held_out), old, new, strict=True)
    )


def _images(held_out: HeldOut) -> list[str]:
    return [one.image for objects in held_out.values() for one in objects]


def _simulated(
    predictor: Predictor,
    embedding: Embedding,
    objects: Sequence[HeldOutObject],
    clicks: int,
    enough: float = 1.0,
) -> list[Answers]:
    targets = [one.target for one in objects]
    boxes = box_ious(predictor, embedding, targets)
    answers = click_ious(predictor, embedding, targets, clicks, enough=enough)
    curves = np.stack(list(answers), axis=1)
    return [
        Answers((box, *curve[:_CLICKS]), tuple(curve))
        for box, curve in zip(boxes.tolist(), curves.tolist(), strict=True)
    ]


@contextmanager
def plane_predictor(
    encoder: PlaneEncoder, index: int, orientations: int | None = None
) -> Iterator[tuple[Predictor, Embedding]]:
    """Give a predictor, and the embedding of a plane, for as long as the model stays as it is.

    In as many orientations as a person sees it, unless another number is given.
    """
    plane = encoder.planes[index]
    key = embedding_key(encoder.model, plane.source.pixels, intensity_range=plane.source.limits)
    key = replace(key, orientations=orientations or key.orientations)
    with torch.inference_mode():
        turns = ORIENTATIONS[: key.orientations]
        seen = torch.cat([encoder.features(index, turn) for turn in turns], dim=1)
        features = seen[0].float().cpu().numpy()
        yield Predictor(encoder.model), Embedding(key, plane.frame, features)


# --- folds ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FoldObjects:
    """Objects that were not held out, and so are judged in folds.

    Attributes
    ----------
    judged
        Training objects that no earlier adapter was trained on.
    learned
        All objects; each fold learns from those of the other folds.
    planes
        The planes of all of them.
    config
        The run's.
    """

    judged: tuple[TrainingObject, ...]
    learned: tuple[TrainingObject, ...]
    planes: Sequence[AnnotatedPlane]
    config: TrainingConfig

    def split(self) -> list[tuple[HeldOut, tuple[TrainingObject, ...]]]:
        """Return, for each fold, the objects to judge, and those to learn from.

        Folds hold whole images; those of a single image are neighbours.
        """
        images = {o: self.planes[o.plane].image for o in self.learned}
        names = sorted({images[o] for o in self.judged})
        if len(names) > 1:
            number = {name: i % _FOLDS for i, name in enumerate(names)}
            parts = [[o for o in self.judged if number[images[o]] == i] for i in range(_FOLDS)]
            rests = [
                tuple(o for o in self.learned if number.get(images[o]) != i) for i in range(_FOLDS)
            ]
        else:
            parts = _neighbours(self.judged)
            rests = [tuple(o for o in self.learned if o not in part) for part in parts]
        folds = [(part, rest) for part, rest in zip(parts, rests, strict=True) if part and rest]
        most = -(-ENOUGH // max(1, len(folds)))
        return [
            (draw_held_out(part, self.planes, most, self.config.seed), rest) for part, rest in folds
        ]


def _neighbours(objects: Sequence[TrainingObject]) -> list[list[TrainingObject]]:
    """Cut the objects of an image along the axis in which they spread further."""
    centres = np.array(
        [(o.plane * 1e6, o.bbox[0] + o.bbox[2], o.bbox[1] + o.bbox[3]) for o in objects]
    ).reshape(-1, 3)
    axis = int(np.ptp(centres, axis=0).argmax()) if objects else 0
    order = np.argsort(centres[:, axis], kind="stable")
    return [[objects[i] for i in part] for part in np.array_split(order, _FOLDS)]


def judge_in_folds(  # noqa: PLR0913  # the last three are limits
    encoder: PlaneEncoder,
    objects: FoldObjects,
    start: Adapter | None,
    incumbent: Incumbent | None,
    *,
    rate: Callable[[float], float],
    steps: int,
    is_over: Callable[[], bool],
    steps_before: int = 0,
) -> tuple[Trial, ...]:
    """Compare the model in use with decoders that were trained without the compared objects.

    Each fold trains mask decoder and prompt encoder for a few steps, on embeddings that the start
    of the run computes once. A fold that diverges, or finds no memory, says nothing; nor does any
    if the method trains the encoder alone.

    Parameters
    ----------
    rate
        Share of the peak learning rate by the share of the steps that is done.
    steps
        Of the state that is judged; a fold takes no more.
    is_over
        True ends it; folds that are not done are left out.
    steps_before
        What `start` has had.
    """
    model, config = encoder.model, objects.config
    found: tuple[Trial, ...] = ()
    steps = min(_FOLD_STEPS, steps)
    folds = objects.split()
    before = [() if is_over() else answers_of(encoder, incumbent, fold) for fold, _ in folds]
    torch.manual_seed(config.seed)
    injection = apply_adapter(model, start) if start else inject(model, config.method)
    with injection, open_cache(config, model.device) as cache:
        if all(name.startswith("encoder.") for name in injection.trainable_parameters()):
            return ()
        frozen = replace(encoder, first=model.architecture.depth, cache=cache)
        for (held_out, learned), old in zip(folds, before, strict=True):
            with _restored(injection), suppress(TrainingError):
                trainer = Trainer(injection, config, frozen, Team(), earlier_steps=steps_before)
                views = Views(
                    learned, frozen.planes, model.architecture,
                    config.objects_per_step, config.seed, limit=1,
                )  # fmt: skip
                _train_decoder(trainer, views, rate, steps, is_over)
                if is_over():
                    break
                with trainer.result():
                    found += trials(held_out, old, replay(frozen, held_out), in_fold=True)
    return found


@contextmanager
def _restored(injection: Injection) -> Iterator[None]:
    """Give the parameters their present values again in the end."""
    parameters = injection.trainable_parameters()
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])


def _train_decoder(
    trainer: Trainer,
    views: Views,
    rate: Callable[[float], float],
    steps: int,
    is_over: Callable[[], bool],
) -> None:
    """Take a few steps on embeddings of the first views; the encoder gets no gradients."""
    for step, (_, view) in enumerate(islice(views, steps)):
        if is_over():
            break
        trainer.gradients(step, [view])
        trainer.update(rate(step / steps))
