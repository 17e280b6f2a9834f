"""The finetuning loop: reads top to bottom, reports as it goes, leaves the model as it was."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from napari_peftsam.models import SamModel
from napari_peftsam.peft import (
    Adapter,
    Injection,
    apply_adapter,
    capture,
    check_method,
    first_changed_block,
    inject,
)
from napari_peftsam.training._budget import Budget, learning_rate_factor
from napari_peftsam.training._data import RunData
from napari_peftsam.training._encoder import PlaneEncoder, open_cache
from napari_peftsam.training._preflight import preflight
from napari_peftsam.training._team import Alone, Team
from napari_peftsam.training._trainer import Trainer
from napari_peftsam.training._validation import HeldOut, validation_iou
from napari_peftsam.training._views import Views
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.dataset import AnnotatedPlane
from napari_peftsam.training.events import (
    TrainEvent,
    TrainingFinished,
    TrainingStarted,
    TrainingStep,
    Validated,
)

__all__ = ["Incumbent", "finetune"]


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


def finetune(  # noqa: PLR0913  # most are optional
    model: SamModel,
    planes: Sequence[AnnotatedPlane],
    config: TrainingConfig,
    *,
    start: Adapter | None = None,
    incumbent: Incumbent | None = None,
    team: Team | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrainEvent]:
    """Train an adapter from accepted objects.

    The model must carry no adapter; it is trained in place and restored, bit for bit,
    when the generator ends or is closed. What its frozen blocks computed may take room on
    disk, in a scratch folder that is gone by then; nothing else is written.

    Before the first event the peaks of memory that the system and torch note are reset, to
    measure a step on trial: whoever watches them must do so before and after.

    Parameters
    ----------
    model
        The base model; not to be used by anything else meanwhile.
    planes
        Annotated image planes. Only objects are learned: unlabelled pixels further from
        an object than its own size are never taken as background.
    config
        Method, budget and the rest.
    start
        Adapter to go on from; its method and options take the place of the config's.
    incumbent
        The adapter that is live now, against which the result is judged (``iou_before``);
        default: `start`, or the bare base.
    team
        The processes that take part; each must call this with the same arguments. Default:
        this one alone.
    stop
        Asked after every step; True ends the run early, with a last validation. Closing
        the generator ends it at once; the last `Validated.adapter` is then the best.

    Yields
    ------
    TrainEvent
        `MemoryPlanned` and `TrainingStarted`, then `TrainingStep`, `Validated` and, where
        memory ran out, `TrainingAdjusted`; at last `TrainingFinished`.

    Raises
    ------
    TrainingError
        If there are too few objects, the memory is too small, or the loss is no longer finite.
    ConfigurationError
        If the method does not fit the model.
    ImageError, LabelError
        If an image or its labels cannot be used.
    AdapterMismatchError
        If `start` or `incumbent` belongs to another base.
    """
    method = start.config if start else config.method
    check_method(model, method)  # before anything slow
    own = Incumbent(start) if start else None
    judge = incumbent or own
    earlier = [each.adapter for each in (own, incumbent) if each]
    data = RunData.prepare(model, planes, config, earlier)
    with open_cache(config, model.device) as cache:
        first = first_changed_block(method, model.architecture.depth)
        encoder = PlaneEncoder(model, data.planes, first, cache)
        before = _measure(encoder, judge, data.held_out)
        torch.manual_seed(config.seed)
        injection = apply_adapter(model, start) if start else inject(model, config.method)
        try:
            run = _Run(
                injection, encoder, config, data, before,
                judge == own and (own is not None or injection.starts_as_base),
                team or Alone(), stop,
            )  # fmt: skip
            yield from _train(run)
        finally:
            injection.remove()


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays the same over the run."""

    injection: Injection
    encoder: PlaneEncoder
    config: TrainingConfig
    data: RunData
    before: float
    before_is_start: bool
    team: Team
    stop: Callable[[], bool]

    def start_iou(self) -> float:
        """Return the held-out IoU before the first step (an untrained adapter is the base)."""
        return self.before if self.before_is_start else self.held_out_iou()

    def held_out_iou(self) -> float:
        """Return the held-out IoU of the present state."""
        return validation_iou(self.encoder, self.data.held_out)

    def views(self) -> Views:
        """Return what there is to see of the training objects."""
        config, encoder = self.config, self.encoder
        limit = config.views if encoder.first > 0 else None  # else nothing is kept of a view
        return Views(
            self.data.split.training, encoder.planes, encoder.model.architecture,
            config.objects_per_step, config.seed, limit,
        )  # fmt: skip

    def stopped(self) -> bool:
        """Return whether the run was asked to end; the same for all processes."""
        return bool(self.team.agree(float(self.stop())))


def _train(run: _Run) -> Iterator[TrainEvent]:
    config, data = run.config, run.data
    counts = {name: p.numel() for name, p in run.injection.trainable_parameters().items()}
    trainable = sum(counts.values())
    encoder = sum(n for name, n in counts.items() if name.startswith("encoder."))
    split = data.split
    trainer = Trainer(run.injection, config, run.encoder, run.team)
    views = run.views()
    yield preflight(trainer, run.injection, config, run.encoder, views)
    yield from trainer.take_adjustments()
    yield TrainingStarted(
        trainable, encoder, len(split.training), len(split.held_out), split.by, run.before
    )
    budget, upcoming = Budget(config, run.team), iter(views)

    # The untrained start is a candidate too: a run that only makes things worse returns it.
    best_iou = run.start_iou()
    best_step, best = 0, _capture(run, 0, best_iou)
    yield Validated(0, best_iou, best)
    step, epochs, next_validation = 0, 0.0, 1 / config.validations
    while (progress := budget.progress(step, epochs)) < 1 and not run.stopped():
        batch = list(itertools.islice(upcoming, config.images_per_step))
        epochs = batch[-1][0]
        factor = learning_rate_factor(progress)
        loss = trainer.step(step, [view for _, view in batch], factor)
        yield from trainer.take_adjustments()
        step += 1
        progress = budget.progress(step, epochs)
        yield TrainingStep(step, loss, budget.elapsed(), budget.remaining(progress))
        ending = progress >= 1 or run.stopped()
        if progress >= next_validation or ending:
            next_validation = (math.floor(progress * config.validations) + 1) / config.validations
            iou = run.held_out_iou()
            better = iou > best_iou
            if better:
                best_iou, best_step, best = iou, step, _capture(run, step, iou)
            yield Validated(step, iou, best if better else None)
    yield TrainingFinished(best, step, budget.elapsed(), trainable, run.before, best_iou, best_step)


def _measure(encoder: PlaneEncoder, judge: Incumbent | None, held_out: HeldOut) -> float:
    if judge is None:
        return validation_iou(encoder, held_out)
    model = encoder.model
    with apply_adapter(model, judge.adapter) as injection:
        injection.set_strength(judge.strength)
        first = first_changed_block(judge.adapter.config, model.architecture.depth)
        # Where both begin late, what the base makes of the planes is the same for both.
        return validation_iou(replace(encoder, first=min(first, encoder.first)), held_out)


def _capture(run: _Run, step: int, iou: float) -> Adapter:
    split = run.data.split
    provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": step,
        "training": run.config.model_dump(mode="json"),
        "training_objects": len(split.training),
        "held_out_objects": len(split.held_out),
        "held_out_by": split.by,
        "trained_on": {name: sorted(labels) for name, labels in run.data.trained.items()},
    }
    return capture(run.injection, provenance, {"val_iou_before": run.before, "val_iou": iou})
