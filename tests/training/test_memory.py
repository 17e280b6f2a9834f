"""Memory: the first step is measured, the fastest fitting plan is taken, running out is no end."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import repeat
from typing import Any

import pytest
import torch

from napari_peftsam.errors import TrainingError
from napari_peftsam.models import SamModel, build_tiny
from napari_peftsam.models.memory import MemoryPeak
from napari_peftsam.peft import LoraConfig, Placement
from napari_peftsam.training import (
    AnnotatedPlane,
    MemoryPlanned,
    StepPlan,
    Team,
    TrainEvent,
    TrainingConfig,
    TrainingReport,
    TrainingStarted,
    TrainingStep,
    Validated,
    finetune,
    memory,
    possible_plans,
    step,
)
from tests.training._world import finish, make_plane

GB = 10**9

# --- the choice -----------------------------------------------------------------------

PLANS = [
    pytest.param({}, 8, [8, 4, 2, 1], [False, True], id="automatic"),
    pytest.param({}, 5, [5, 3, 2, 1], [False, True], id="few objects"),
    pytest.param({"objects_at_once": 3}, 8, [3], [False, True], id="objects given"),
    pytest.param({"checkpointing": True}, 2, [2, 1], [True], id="checkpointing asked for"),
    pytest.param({"checkpointing": False}, 2, [2, 1], [False], id="checkpointing refused"),
]


@pytest.mark.parametrize(("options", "objects", "sizes", "modes"), PLANS)
def test_fewer_objects_come_before_checkpointing(
    options: dict[str, Any], objects: int, sizes: list[int], modes: list[bool]
) -> None:
    plans = possible_plans(TrainingConfig(steps=1, **options), objects)
    assert plans == tuple(StepPlan(size, mode) for mode in modes for size in sizes)


# --- a run ----------------------------------------------------------------------------


def _train(
    planes: list[AnnotatedPlane], model: SamModel | None = None, **options: Any
) -> Generator[TrainEvent, None, TrainingReport]:
    defaults = {"steps": 2, "rounds": 2, "validations": 1, "method": LoraConfig(rank=4)}
    config = TrainingConfig(**(defaults | options))
    return finetune(model or replace(build_tiny(), precision="fp32"), planes, config)


def _losses(events: Sequence[TrainEvent]) -> list[float]:
    return [event.loss for event in events if isinstance(event, TrainingStep)]


@cache
def _undisturbed() -> tuple[list[float], float]:
    """Return losses and final IoU of a run on these planes that has all memory it wants."""
    events, report = finish(_train([make_plane("a", 0), make_plane("b", 1)]))
    return _losses(events), report.iou_after


class _Shortage:
    """Lets the decoder run out of memory at chosen calls."""

    def __init__(self, patch: pytest.MonkeyPatch, failing: set[int], error: Exception) -> None:
        self.calls = 0
        self._failing, self._error = failing, error
        self._decode = step.decode_outputs
        patch.setattr(step, "decode_outputs", self)

    def __call__(self, sam: Any, features: torch.Tensor, *rest: Any) -> Any:
        self.calls += 1
        if self.calls in self._failing:
            raise self._error
        return self._decode(sam, features, *rest)


ERRORS = [
    pytest.param(torch.OutOfMemoryError("CUDA out of memory."), id="GPU"),
    pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory"), id="CPU"),
]


def test_a_run_says_first_what_it_takes(planes: list[AnnotatedPlane]) -> None:
    planned, first, started, *_ = _train(planes)
    assert isinstance(first, TrainingStep)
    assert isinstance(planned, MemoryPlanned)
    assert isinstance(started, TrainingStarted)
    assert 0 < planned.measured < planned.free
    assert planned.plan == "with 8 objects at once"
    assert planned.describe().endswith("free; training with 8 objects at once")


def test_little_memory_makes_a_smaller_plan_with_the_same_result(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, _ = _undisturbed()
    peaks = iter([9 * GB // 10, GB // 2])
    _measured(monkeypatch, GB, peaks)
    planned, adjusted, *rest = _train(planes)
    assert isinstance(planned, MemoryPlanned)
    assert isinstance(adjusted, MemoryPlanned)
    assert planned.plan == adjusted.plan == "with 4 objects at once"
    assert adjusted.reason == "900 MB of 1.0 GB were needed"
    assert GB // 2 < planned.measured < 0.6 * GB  # with the weights
    assert _losses(rest) == pytest.approx(losses, rel=1e-4)


def _measured(patch: pytest.MonkeyPatch, free: int, peaks: Iterator[int]) -> None:
    """Let first steps take chosen amounts of the free memory."""

    @contextmanager
    def measure(_: torch.device) -> Iterator[MemoryPeak]:
        yield MemoryPeak(next(peaks))

    patch.setattr(memory, "free_memory", lambda _: free)
    patch.setattr(memory, "measure_peak", measure)


def test_each_process_tries_a_whole_step(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NothingToDo(Team):
        def share(self, micro_batches: int) -> range:
            return range(0)

    tried = []
    add_gradients = step.add_gradients
    monkeypatch.setattr(
        step, "add_gradients", lambda *args: tried.append(1) or add_gradients(*args)
    )
    events = finetune(build_tiny(), planes, TrainingConfig(steps=1), team=NothingToDo())
    assert isinstance(next(events), MemoryPlanned)
    assert tried


def test_room_for_a_cache_is_kept_free_as_far_as_it_is_needed(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    _measured(monkeypatch, GB, repeat(1))
    planned, *_ = _train(
        planes, method=LoraConfig(placement=Placement.parse("last")), cache_bytes=2 * GB
    )
    assert 0.9 * GB < planned.free < GB


def test_no_memory_is_refused_before_the_start(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    _measured(monkeypatch, GB, repeat(GB))
    with pytest.raises(TrainingError, match=r"even with one object .*: choose a later placement"):
        next(_train(planes))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("failing", [{1}, {3}, {4}], ids=["first step", "round 1", "round 2"])
def test_running_out_of_memory_takes_the_step_again_with_a_smaller_plan(
    planes: list[AnnotatedPlane],
    monkeypatch: pytest.MonkeyPatch,
    failing: set[int],
    error: Exception,
) -> None:
    losses, iou = _undisturbed()
    _Shortage(monkeypatch, failing, error)
    found, report = finish(_train(planes))
    (adjusted,) = [e for e in found if isinstance(e, MemoryPlanned) and e.reason]
    assert adjusted.plan == "with 4 objects at once"
    assert str(error) in adjusted.reason
    assert "goes on with 4 objects" in adjusted.describe()
    assert _losses(found) == pytest.approx(losses, rel=1e-4)
    assert report.iou_after == pytest.approx(iou, abs=0.02)


def test_it_backs_off_as_often_as_it_must(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    _Shortage(monkeypatch, {1, 2, 3}, MemoryError())
    plans = [e.plan for e in _train(planes) if isinstance(e, MemoryPlanned)]
    assert plans == [
        "with one object at once",
        "with 4 objects at once", "with 2 objects at once", "with one object at once",
    ]  # fmt: skip


def test_when_nothing_smaller_is_left_the_best_state_was_delivered(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_tiny()
    before = {name: tensor.clone() for name, tensor in model.sam.state_dict().items()}
    events = _train(planes, model)
    seen = [next(events) for _ in range(3)]
    _Shortage(monkeypatch, set(range(1, 100)), MemoryError())
    with pytest.raises(TrainingError, match=r"even with one object at once and activation check"):
        seen.extend(events)
    assert any(isinstance(event, Validated) and event.adapter is not None for event in seen)
    after = model.sam.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_other_errors_are_not_swallowed(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    _Shortage(monkeypatch, {1}, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        list(_train(planes))
