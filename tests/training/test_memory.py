"""Memory: what a step takes is known before, a plan that fits is chosen, running out is no end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from napari_peftsam.errors import TrainingError
from napari_peftsam.models import SamModel, build_tiny
from napari_peftsam.peft import LoraConfig, Placement
from napari_peftsam.training import (
    AnnotatedPlane,
    MemoryEstimate,
    MemoryPlanned,
    StepPlan,
    TrainEvent,
    TrainingAdjusted,
    TrainingConfig,
    TrainingFinished,
    TrainingStarted,
    TrainingStep,
    Validated,
    _preflight,
    _step,
    _trainer,
    estimate_memory,
    finetune,
    forecast_memory,
    possible_plans,
)
from napari_peftsam.training import memory as memory_module
from napari_peftsam.training._team import Alone
from napari_peftsam.training.memory import choose_plan

GB = 10**9
LORA = {"method": "lora", "rank": 8}
FROZEN = {"method": "frozen-encoder"}

# --- the estimate ---------------------------------------------------------------------

# Architecture, precision, method, checkpointing, objects
CASES = {
    "built-in model, first step": ("builtin", "fp32", {"method": "cobot-lora"}, False, 5),
    "ViT-B's blocks, fp32": ("short", "fp32", LORA, False, 5),
    "ViT-B's blocks, bf16": ("short", "bf16", LORA, False, 5),
    "checkpointing": ("short", "bf16", LORA, True, 5),
    "late half": ("short", "bf16", {**LORA, "placement": "late-50%"}, False, 5),
    "frozen encoder": ("short", "bf16", FROZEN, False, 5),
    "all weights": ("short", "fp32", {"method": "full-finetuning"}, False, 1),
    "built-in model": ("builtin", "fp32", {"method": "cobot-lora"}, False, 5),
}


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[int, int]]:
    """Estimated and measured bytes by case, from a process whose memory nothing else uses."""
    command = [
        sys.executable,
        "-m",
        "tests.training._measure_memory",
        json.dumps([*CASES.values()]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_within_a_quarter_of_a_measured_step(
    measured: dict[str, tuple[int, int]], case: str
) -> None:
    estimated, found = measured[case]
    assert estimated == pytest.approx(found, rel=0.25)


def _estimate(plan: StepPlan, **options: Any) -> MemoryEstimate:
    config = TrainingConfig(steps=1, method=LoraConfig(**options))
    return estimate_memory(build_tiny().architecture, config, plan, "cpu", "fp32")


def test_what_saves_memory_is_estimated_to_do_so() -> None:
    whole = _estimate(StepPlan())
    assert _estimate(StepPlan(1)).passing < whole.passing
    assert _estimate(StepPlan(checkpoint=True)).encoder < whole.encoder
    assert _estimate(StepPlan(), placement="late-50%").encoder < whole.encoder
    assert whole.total == whole.weights + whole.beyond_weights
    assert "optimiser" in whole.describe()


def test_estimating_leaves_no_trace() -> None:
    memory_module._answer.cache_clear()
    before = torch.get_rng_state()
    _estimate(StepPlan())
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.ones(1).is_meta
    assert float(torch.ones(1)) == 1


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


def _made_up(plan: StepPlan) -> MemoryEstimate:
    """Return 1 GB for the encoder, a tenth with checkpointing, and 1 GB per object."""
    objects = plan.objects_at_once or 8
    return MemoryEstimate(9 * GB, 0, GB // 10 if plan.checkpoint else GB, objects * GB)


CHOICES = [
    pytest.param(20, StepPlan(8), id="room for all"),
    pytest.param(6.5, StepPlan(4), id="fewer objects"),
    pytest.param(3, StepPlan(1), id="one object"),
    pytest.param(2, StepPlan(1, checkpoint=True), id="checkpointing"),
]


@pytest.mark.parametrize(("free", "expected"), CHOICES)
def test_the_fastest_plan_that_fits_is_chosen(free: float, expected: StepPlan) -> None:
    plans = possible_plans(TrainingConfig(steps=1), 8)
    index, found = choose_plan(plans, _made_up, int(free * GB))
    assert plans[index] == expected
    assert found == _made_up(expected)


def test_what_fits_nowhere_is_refused_with_what_to_do() -> None:
    plans = possible_plans(TrainingConfig(steps=1), 8)
    with pytest.raises(TrainingError, match=r"needs about 1\.1 GB .* 500 MB are free: choose a la"):
        choose_plan(plans, _made_up, GB // 2)


def test_a_forecast_counts_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(steps=1, method=LoraConfig())
    architecture = build_tiny().architecture
    enough = forecast_memory(architecture, config, "cpu", "fp32")
    assert enough.plan == StepPlan(8)
    assert enough.needed == estimate_memory(architecture, config, StepPlan(8), "cpu", "fp32").total
    assert enough.describe().startswith(f"Needs about {enough.needed / 1e6:.0f} MB of")
    monkeypatch.setattr(memory_module, "free_memory", lambda _: 2_000_000)
    little = forecast_memory(architecture, config, "cpu", "fp32")
    assert little.plan is None
    assert "free: choose a later placement" in little.describe()


# --- a run ----------------------------------------------------------------------------


def _train(
    planes: list[AnnotatedPlane], model: SamModel | None = None, **options: Any
) -> Iterator[TrainEvent]:
    defaults = {"steps": 2, "rounds": 2, "validations": 1, "method": LoraConfig(rank=4)}
    config = TrainingConfig(**(defaults | options))
    return finetune(model or replace(build_tiny(), precision="fp32"), planes, config)


def _losses(events: list[TrainEvent]) -> list[float]:
    return [event.loss for event in events if isinstance(event, TrainingStep)]


class _Shortage:
    """Lets the decoder run out of memory at chosen calls."""

    def __init__(self, patch: pytest.MonkeyPatch, failing: set[int], error: Exception) -> None:
        self.calls = 0
        self._failing, self._error = failing, error
        self._decode = _step.decode
        patch.setattr(_step, "decode", self)

    def __call__(self, sam: Any, features: torch.Tensor, *rest: Any) -> Any:
        if type(features) is not torch.Tensor:  # of an estimate
            return self._decode(sam, features, *rest)
        self.calls += 1
        if self.calls in self._failing:
            raise self._error
        return self._decode(sam, features, *rest)


ERRORS = [
    pytest.param(torch.OutOfMemoryError("CUDA out of memory."), id="GPU"),
    pytest.param(RuntimeError("DefaultCPUAllocator: can't allocate memory"), id="CPU"),
]


def test_a_run_says_first_what_it_takes(planes: list[AnnotatedPlane]) -> None:
    planned, started, *_ = _train(planes)
    assert isinstance(planned, MemoryPlanned)
    assert isinstance(started, TrainingStarted)
    assert planned.needed is not None
    assert 0 < planned.needed < planned.free
    assert planned.measured > 0
    assert planned.plan == "with 8 objects at once"
    assert planned.describe().endswith("free; training with 8 objects at once")


def test_little_memory_makes_a_smaller_plan_with_the_same_result(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(_train(planes))
    whole = _estimate(StepPlan(), rank=4)
    needed = expected[0].needed - whole.weights - whole.libraries
    usable = needed // 2 + whole.libraries
    monkeypatch.setattr(_preflight, "free_memory", lambda _: usable / memory_module._USABLE)
    found = list(_train(planes))
    assert found[0].plan != expected[0].plan
    assert _losses(found) == pytest.approx(_losses(expected), rel=1e-4)


def test_each_process_tries_a_whole_step(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NothingToDo(Alone):
        def share(self, micro_batches: int) -> range:
            return range(0)

    tried = []
    add_gradients = _trainer.add_gradients
    monkeypatch.setattr(
        _trainer, "add_gradients", lambda *args: tried.append(1) or add_gradients(*args)
    )
    events = finetune(build_tiny(), planes, TrainingConfig(steps=1), team=NothingToDo())
    assert isinstance(next(events), MemoryPlanned)
    assert tried


def test_room_for_a_cache_is_kept_free_as_far_as_it_is_needed(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_preflight, "free_memory", lambda _: GB)
    planned, *_ = _train(
        planes, method=LoraConfig(placement=Placement.parse("last")), cache_bytes=2 * GB
    )
    assert 0.9 * GB < planned.free < GB


def test_no_memory_is_refused_before_the_start(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_preflight, "free_memory", lambda _: 1000)
    with pytest.raises(TrainingError, match="choose a later placement"):
        next(_train(planes))


def test_without_an_estimate_the_step_is_tried_out(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise NotImplementedError("an operation that cannot be followed")

    monkeypatch.setattr(_preflight, "estimate_memory", fail)
    planned = next(_train(planes))
    assert isinstance(planned, MemoryPlanned)
    assert planned.needed is None
    assert planned.describe().startswith(f"memory: {planned.measured / 1e6:.0f} MB in a trial")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("failing", [{1}, {3}, {4}], ids=["trial step", "round 1", "round 2"])
def test_running_out_of_memory_takes_the_step_again_with_a_smaller_plan(
    planes: list[AnnotatedPlane],
    monkeypatch: pytest.MonkeyPatch,
    failing: set[int],
    error: Exception,
) -> None:
    expected = list(_train(planes))
    _Shortage(monkeypatch, failing, error)
    found = list(_train(planes))
    (adjusted,) = [event for event in found if isinstance(event, TrainingAdjusted)]
    assert adjusted.plan == "with 4 objects at once"
    assert str(error) in adjusted.reason
    assert "goes on with 4 objects" in adjusted.describe()
    assert _losses(found) == pytest.approx(_losses(expected), rel=1e-4)
    last, expected_last = found[-1], expected[-1]
    assert isinstance(last, TrainingFinished)
    assert isinstance(expected_last, TrainingFinished)
    assert last.iou_after == pytest.approx(expected_last.iou_after, abs=0.02)


def test_it_backs_off_as_often_as_it_must(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    _Shortage(monkeypatch, {1, 2, 3}, MemoryError())
    plans = [e.plan for e in _train(planes) if isinstance(e, (MemoryPlanned, TrainingAdjusted))]
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
