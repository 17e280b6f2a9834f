"""What a training does not change is computed once, and this changes nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from napari_peftsam.folders import scratch_folder
from napari_peftsam.models import Architecture, SamModel, build_random, build_tiny
from napari_peftsam.peft import parse_method_config
from napari_peftsam.training import (
    AnnotatedPlane,
    Incumbent,
    TrainingConfig,
    TrainingStep,
    Validated,
    finetune,
)
from napari_peftsam.training import encoder as encoder_module
from napari_peftsam.training.dataset import TrainingObject, split_objects
from napari_peftsam.training.samples import Views, prepare_planes
from tests.training._world import finish, make_plane

# Method, options and the first block that changes, of four.
CACHED = [
    pytest.param("lora", {"rank": 2, "placement": "late-50%"}, 2, id="lora in the last half"),
    pytest.param("lora", {"rank": 2, "placement": "late-25%"}, 3, id="lora in the last quarter"),
    pytest.param("lora", {"rank": 2, "placement": "1,3"}, 1, id="lora in some blocks"),
    pytest.param("cobot-lora", {"rank": 4, "placement": "late-50%"}, 2, id="cobot lora"),
    pytest.param("ssf", {"placement": "last"}, 3, id="ssf"),
    pytest.param("attention-tuning", {"placement": "late-50%"}, 2, id="selective: attention"),
    pytest.param("adaptformer", {"bottleneck": 4, "placement": "last"}, 3, id="adaptformer"),
    pytest.param("frozen-encoder", {}, 4, id="decoder only"),
]
NOT_CACHED = [
    pytest.param("lora", {"rank": 2}, 0, id="lora in all blocks"),
    pytest.param("ssf", {"placement": "all"}, -1, id="ssf in all blocks"),
]


class _Spy:
    """Counts how often the unchanged part is computed, by what it is computed from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: dict[bytes, int] = {}
        for name in ("encode_prefix", "encode_tensor"):
            monkeypatch.setattr(encoder_module, name, self._counting(getattr(encoder_module, name)))

    def _counting(self, encode):  # type: ignore[no-untyped-def]  # of any arguments
        def counting(sam: object, x: Tensor, *rest: int) -> Tensor:
            key = x.numpy().tobytes()
            self.seen[key] = self.seen.get(key, 0) + 1
            found: Tensor = encode(sam, x, *rest)
            return found

        return counting


def _config(method: str, options: dict[str, object], **others: object) -> TrainingConfig:
    defaults = {"steps": 12, "validations": 3, "objects_per_step": 4, "rounds": 2}
    chosen = parse_method_config({"method": method, **options})
    return TrainingConfig.model_validate(
        {"method": chosen, "learning_rate": 2e-3, **defaults, **others}
    )


def _figures(events: Sequence[object]) -> list[float]:
    losses = [e.loss for e in events if isinstance(e, TrainingStep)]
    return losses + [e.iou for e in events if isinstance(e, Validated)]


def _run(
    model: SamModel, planes: list[AnnotatedPlane], config: TrainingConfig
) -> tuple[list[float], dict[str, Tensor]]:
    events, finished = finish(finetune(model, planes, config))
    return _figures(events), dict(finished.adapter.tensors)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("method", "options", "first"), [*CACHED, *NOT_CACHED])
def test_training_from_the_cache_is_training_without(
    method: str,
    options: dict[str, object],
    first: int,
    precision: str,
    planes: list[AnnotatedPlane],
) -> None:
    model = replace(build_tiny(), precision=precision)
    config = _config(method, options, steps=4, validations=2)
    assert config.method.first_changed_block(4) == first
    figures, adapter = _run(model, planes, config)
    same, again = _run(model, planes, config.model_copy(update={"cache_prefix": False}))
    assert figures == pytest.approx(same, rel=1e-5)
    assert adapter.keys() == again.keys()
    for name, tensor in adapter.items():
        torch.testing.assert_close(tensor, again[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("method", "options", "first"), CACHED)
def test_each_view_is_computed_once(
    method: str,
    options: dict[str, object],
    first: int,
    planes: list[AnnotatedPlane],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spy = _Spy(monkeypatch)
    # Twenty epochs of the eight orientations of one image; the other one is held out.
    list(finetune(build_tiny(), planes, _config(method, options, steps=40)))
    assert len(spy.seen) == 8 + 1
    assert set(spy.seen.values()) == {1}


@pytest.mark.parametrize(("method", "options", "first"), NOT_CACHED)
def test_where_all_blocks_change_nothing_is_kept(
    method: str,
    options: dict[str, object],
    first: int,
    planes: list[AnnotatedPlane],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spy = _Spy(monkeypatch)
    list(finetune(build_tiny(), planes, _config(method, options)))
    assert not spy.seen


def test_without_the_cache_the_same_is_computed_again(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = _Spy(monkeypatch)
    list(finetune(build_tiny(), planes, _config("frozen-encoder", {}, cache_prefix=False)))
    assert max(spy.seen.values()) > 1


def test_an_incumbent_and_its_challenger_share_what_both_leave_alone(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = _config("lora", {"rank": 2, "placement": "late-50%"}, steps=2)
    later = _config("lora", {"rank": 2, "placement": "last"}, steps=2)
    _, finished = finish(finetune(build_tiny(), planes, later))
    spy = _Spy(monkeypatch)
    list(finetune(build_tiny(), planes, late, incumbent=Incumbent(finished.adapter)))
    assert set(spy.seen.values()) == {1}


def test_going_on_asks_the_adapter_and_not_the_configuration(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, finished = finish(finetune(build_tiny(), planes, _config("lora", {"rank": 2}, steps=2)))
    spy = _Spy(monkeypatch)
    late = _config("lora", {"rank": 2, "placement": "last"}, steps=2)
    list(finetune(build_tiny(), planes, late, start=finished.adapter))
    assert not spy.seen


def test_crops_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    planes = [make_plane(f"image {i}", i) for i in range(2)]
    spy = _Spy(monkeypatch)
    config = _config("frozen-encoder", {}, steps=24, objects_per_step=8, views=2, validations=1)
    # Not to the end: a verdict that is open trains on other crops, too.
    run = finetune(build_random("builtin"), planes, config)
    steps = (each for each in run if isinstance(each, TrainingStep))
    assert len(list(islice(steps, 24))) == 24
    assert set(spy.seen.values()) == {1}
    assert len(spy.seen) < 20


def test_the_disk_takes_what_memory_cannot_and_is_emptied(planes: list[AnnotatedPlane]) -> None:
    config = _config("lora", {"rank": 2, "placement": "last"}, cache_bytes=5000)
    expected, _ = _run(build_tiny(), planes, config.model_copy(update={"cache_bytes": None}))
    run = finetune(build_tiny(), planes, config)
    events: list[object] = []
    used = 0
    for event in run:
        events.append(event)
        used = max(used, len(_files(scratch_folder())))
    assert used
    assert not _files(scratch_folder())
    assert _figures(events) == pytest.approx(expected, rel=1e-5)


def test_without_a_disk_there_is_memory(
    planes: list[AnnotatedPlane], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Path) -> None:
        raise PermissionError("not allowed")

    config = _config("lora", {"rank": 2, "placement": "last"}, cache_bytes=5000)
    expected, _ = _run(build_tiny(), planes, config)
    monkeypatch.setattr(encoder_module, "disk_usage", fail)
    found, _ = _run(build_tiny(), planes, config)
    assert found == pytest.approx(expected, rel=1e-5)
    assert "kept in memory only: not allowed" in caplog.text


def _files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]


def _views(architecture: Architecture, limit: int | None, model: SamModel) -> Views:
    planes = [make_plane("a"), make_plane("b", 1)]
    objects = split_objects(planes, 0.2, 0).training
    prepared = prepare_planes(planes, objects, model)
    return Views(objects, prepared, architecture, 3, 0, limit)


@pytest.mark.parametrize("name", ["tiny", "builtin"])
def test_limited_views_come_again_in_another_order(name: str) -> None:
    model = build_random(name)
    views = [view for epoch, view in islice(_views(model.architecture, 2, model), 40) if epoch <= 4]
    first, again = views[: len(views) // 2], views[len(views) // 2 :]
    assert set(first) == set(again)
    assert first != again


@pytest.mark.parametrize("name", ["tiny", "builtin"])
def test_each_epoch_sees_every_object_once(name: str) -> None:
    model, own = build_random(name), 0
    views, seen = _views(model.architecture, None, model), Counter[TrainingObject]()
    for epoch, view in views:
        seen.update(view.objects)
        own += view.own_prompts
        if epoch >= 60:
            break
    assert own
    assert seen == dict.fromkeys(views.objects, 60)


def test_planes_seen_as_a_whole_have_one_orientation_per_epoch(tiny_model: SamModel) -> None:
    found: dict[int, set[int]] = {}
    for epoch, view in islice(_views(tiny_model.architecture, 8, tiny_model), 200):
        if not view.own_prompts and epoch <= 8:
            found.setdefault(-int(-epoch // 1), set()).add(view.turn)
    assert all(len(turns) == 1 for turns in found.values())
    assert set.union(*found.values()) == set(range(8))
