"""A run: the objects, planes, limits and processes of one training."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from napari_peftsam.errors import TrainingError
from napari_peftsam.evaluation import Answers, Verdict
from napari_peftsam.models import SamModel, UnetrDecoder
from napari_peftsam.peft import Adapter, Injection, Judged, capture, dense_head_of
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import (
    AnnotatedPlane,
    Split,
    TrainedObjects,
    cut_into_tiles,
    split_objects,
    trained_objects,
)
from napari_peftsam.training.dense import LEAST_OBJECTS, DenseTraining
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.events import StepProgress
from napari_peftsam.training.judging import (
    ENOUGH,
    HELD_OUT_AT_MOST,
    JUDGED_AT_MOST,
    FoldObjects,
    HeldOut,
    draw_held_out,
    is_worse,
    mean_iou,
    trials,
)
from napari_peftsam.training.samples import ModelPlane, prepare_planes
from napari_peftsam.training.team import Team

VERDICT_SHARE = 0.1  # of a budget of time, at most; the folds take what is left of it
# Of a budget of time, for what scores learn from labels: six of 120 seconds are enough for the
# proposals in the held-out ones of eight images on two cores.
SCORES_SHARE = 0.05
HEAD_SHARE = 0.05  # and for the comparison of the new head with the present one
_VERDICT_COST = 6.0  # validations: two models answer about three times as many prompts
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class RunData:
    """The objects that a run learns from, and those it is judged by.

    Attributes
    ----------
    split
        All objects, in those to learn from and those that are held out.
    planes
        In the model's frame, by their index.
    held_out
        The held-out objects of validations, of which a run with little time drops some.
    others
        What can be judged in folds, should that be too few.
    trained
        What the result, and the adapters before it, were trained on, or held out as a whole.
    channels
        That all images show, else empty.
    """

    split: Split
    planes: Mapping[int, ModelPlane]
    held_out: HeldOut
    others: FoldObjects
    trained: TrainedObjects
    channels: str


def prepare(
    model: SamModel,
    planes: Sequence[AnnotatedPlane],
    config: TrainingConfig,
    earlier: Sequence[Adapter],
) -> RunData:
    """Split the objects and bring their planes into the model's frame.

    Objects that the adapters `earlier` were trained on are not held out if there are others.
    """
    planes = [each for each in planes if each.image not in config.leave_out]
    planes = cut_into_tiles(planes, model)
    trained = trained_objects(earlier)
    split = split_objects(planes, config.held_out, config.seed, trained, config.check_on)
    prepared = prepare_planes(planes, (*split.training, *split.held_out), model)
    seen = {index: set(plane.labels.unique().tolist()) for index, plane in prepared.items()}
    visible = tuple(o for o in split.training if o.label in seen[o.plane])
    if not visible:
        raise TrainingError(
            "all objects are smaller than a pixel of the model's input: cut the images into "
            "smaller pieces first"
        )
    held_out = draw_held_out(split.held_out, planes, HELD_OUT_AT_MOST, config.seed)
    unseen = [o for o in visible if o.label not in trained.get(planes[o.plane].name, ())]
    others = FoldObjects(tuple(unseen), (*visible, *split.held_out), planes, config)
    for item in visible:
        trained.setdefault(planes[item.plane].name, set()).add(item.label)
    for item in split.held_out if split.by == "image" else ():
        trained.setdefault(planes[item.plane].name, set())  # so that it is held out again
    split = replace(split, training=visible)
    return RunData(split, prepared, held_out, others, trained, _channels(planes))


def _channels(planes: Sequence[AnnotatedPlane]) -> str:
    """Return the channels that all planes show, empty if they differ."""
    found = sorted({plane.channels for plane in planes} - {""})
    if len(found) > 1:
        _log.warning("the images show different channels: %s", "; ".join(found))
    return found[0] if len(found) == 1 else ""


def dense_training(
    encoder: PlaneEncoder, data: RunData, config: TrainingConfig, start: Adapter | None
) -> DenseTraining | None:
    """Return what trains a head for automatic segmentation, or keeps one fit for its encoder."""
    objects, own = data.split.training, dense_head_of(encoder.model, start)
    if not config.automatic or isinstance(own, UnetrDecoder):
        return None  # a UNETR decoder is far larger than an adapter, and stays as it is
    is_enough = len(objects) >= LEAST_OBJECTS
    if not is_enough:
        _log.warning(
            "the head for automatic segmentation stays as it is: it is trained with %d objects or "
            "more, and there are %d",
            LEAST_OBJECTS,
            len(objects),
        )
        if own is None:
            return None
    return DenseTraining.of(encoder, own, objects, config.labels_are == "complete", is_enough)


@dataclass(frozen=True, eq=False)
class Run:
    """State that the steps of a training, and its end, share.

    Attributes
    ----------
    dense
        Trains the head for automatic segmentation, if it is to learn.
    before
        Answers of the model that the result is judged against; None if that is the start.
    stop, on_progress, start
        As of `napari_peftsam.training.finetune`.
    proposals
        Judged ones, to which complete labels add more; None: those of the start.
    reserve
        Seconds of the budget for what follows the steps, estimated.
    judged
        Objects that the verdict has time for.
    """

    injection: Injection
    encoder: PlaneEncoder
    config: TrainingConfig
    data: RunData
    dense: DenseTraining | None
    before: tuple[Answers, ...] | None
    team: Team
    stop: Callable[[], bool]
    on_progress: Callable[[StepProgress], object] | None
    start: Adapter | None
    proposals: Judged | None
    reserve: float = 0.0
    judged: int = JUDGED_AT_MOST

    @property
    def compares_heads(self) -> bool:
        """True if a present head learned, and there is something to judge it by."""
        dense = self.dense
        return dense is not None and dense.is_learning and bool(dense.before and self.data.held_out)

    @property
    def learns_scores(self) -> bool:
        """True if labels tell what every proposal is worth."""
        return self.config.automatic and self.config.labels_are == "complete"

    @property
    def steps_before(self) -> int:
        """Steps that the start has had, in all of its trainings.

        Adapters from before this was noted have 0: what their refiner changes never grew.
        """
        noted = None if self.start is None else self.start.provenance.get("steps")
        return max(noted, 0) if isinstance(noted, int) else 0

    def stopped(self) -> bool:
        """Return whether the run was asked to end; the same for all processes."""
        return bool(self.team.broadcast(float(self.stop())))

    @property
    def iou_before(self) -> float:
        """Held-out IoU of the incumbent."""
        assert self.before is not None  # from the first step on
        return mean_iou(self.before)

    def compared_with(self, start: tuple[Answers, ...], seconds: float) -> Run:
        """Return the run with what the answers of its start, and their time, decide."""
        before = start if self.before is None else self.before
        most = VERDICT_SHARE * (self.config.seconds or math.inf)
        each = _VERDICT_COST * seconds / len(start)
        each *= self.encoder.model.architecture.orientations  # a validation has one
        affordable = min(most / each, JUDGED_AT_MOST) if each > 0 else JUDGED_AT_MOST
        judged = max(len(start), int(affordable))
        reserve = 0.0 if math.isinf(most) else most
        if len(start) >= ENOUGH:  # no folds
            reserve = min(reserve, each * judged)
        if self.compares_heads:
            reserve += HEAD_SHARE * (self.config.seconds or 0)
        if self.learns_scores:
            reserve += SCORES_SHARE * (self.config.seconds or 0)
        return replace(self, before=before, reserve=reserve, judged=judged)

    def verdict(self, answers: tuple[Answers, ...]) -> Verdict:
        """Return the verdict of a validation, for a run that breaks off."""
        assert self.before is not None
        return Verdict(trials(self.data.held_out, self.before, answers))

    def fell(self, answers: tuple[Answers, ...], best: tuple[Answers, ...]) -> bool:
        """Return whether a state is worse than the best one; the same for all processes."""
        return bool(self.team.broadcast(is_worse(self.data.held_out, answers, best)))

    def progress(self, seconds: float, step: int, epochs: float) -> float:
        """Return the share of the budget used up, in [0, 1]; the same for all processes."""
        config = self.config
        if config.seconds is not None:
            return self.team.broadcast(min(1.0, seconds / (config.seconds - self.reserve)))
        if config.epochs is not None:
            return min(1.0, epochs / config.epochs)
        assert config.steps is not None  # the configuration has exactly one budget
        return min(1.0, step / config.steps)

    def capture(self, step: int, iou: float) -> Adapter:
        """Return the present state with its provenance."""
        split, trained = self.data.split, self.data.trained
        provenance = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": step,
            "steps": self.steps_before + step,
            "training": self.config.model_dump(mode="json"),
            "training_objects": len(split.training),
            "held_out_objects": len(split.held_out),
            "held_out_by": split.by,
            "trained_on": {name: sorted(labels) for name, labels in trained.items() if labels},
            "checked_on": sorted(name for name, labels in trained.items() if not labels),
        }
        if self.data.channels:
            provenance["channels"] = self.data.channels
        metrics = {"val_iou_before": self.iou_before, "val_iou": iou}
        adapter = capture(self.injection, provenance, metrics)
        dense, start = self.dense, self.start
        # A head that is new says nothing before the first step.
        if dense is not None and dense.is_learning and (step or dense.before):
            adapter = adapter.with_head(dense.state())
        elif start is not None:
            adapter = adapter.with_head(start.head)
        proposals = self.proposals or (None if start is None else start.judged)
        return adapter if proposals is None else adapter.with_judged(*proposals)
