"""Adapter files: what must be refused, and how it is said."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from napari_peftsam.errors import (
    AdapterMismatchError,
    ConfigurationError,
    ExportError,
    InputFileError,
)
from napari_peftsam.limits import BUDGET_VARIABLE
from napari_peftsam.models import build_tiny
from napari_peftsam.peft import (
    CobotLoraConfig,
    LoraConfig,
    apply_adapter,
    capture,
    inject,
    load_adapter,
    merge,
    save_adapter,
)
from tests.peft._cases import perturb, snapshot, tiny


@pytest.fixture
def adapter(tiny_model):
    with inject(tiny_model, CobotLoraConfig(rank=4)) as injection:
        perturb(injection.trainable_parameters())
        return capture(injection)


@pytest.fixture
def path(adapter, tmp_path):
    save_adapter(adapter, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


def edited_header(path, **changes):
    """Rewrite the JSON description in an adapter file."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["napari_peftsam"]) | changes
    save_file(tensors, path, metadata={"napari_peftsam": json.dumps(header)})


def test_a_file_holds_each_tensor_once_and_describes_itself(adapter, path) -> None:
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(adapter.tensors)
        header = json.loads(file.metadata()["napari_peftsam"])
    assert header["format_version"] == 1
    assert header["config"]["method"] == "cobot-lora"
    assert header["config"]["placement"] == "all"
    assert header["base"] == dataclasses.asdict(adapter.base)
    assert header["normalisation"] == "percentile-0.1-99.9-joint"
    assert len([n for n in adapter.tensors if n.endswith((".C", ".S"))]) == 2
    # Close to what the tensors weigh: nothing of the base is in it.
    weight = sum(t.numel() * t.element_size() for t in adapter.tensors.values())
    assert path.stat().st_size < weight + 40_000


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -1000])
def test_truncated_files_are_refused(path, keep) -> None:
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AdapterMismatchError, match=r"damaged.*again"):
        load_adapter(path)


def test_files_of_holes_are_refused(path, monkeypatch) -> None:
    monkeypatch.setenv(BUDGET_VARIABLE, "40000000")
    os.truncate(path, 50_000_000)
    with pytest.raises(AdapterMismatchError, match="would take 50 MB of memory"):
        load_adapter(path)


def test_garbage_is_refused(path) -> None:
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(AdapterMismatchError, match="damaged or not a safetensors file"):
        load_adapter(path)


def test_a_flipped_bit_is_noticed(path) -> None:
    content = bytearray(path.read_bytes())
    content[-50] ^= 1
    path.write_bytes(content)
    with pytest.raises(AdapterMismatchError, match="do not match its checksum"):
        load_adapter(path)


def test_other_safetensors_files_are_refused(tmp_path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(AdapterMismatchError, match="not an adapter of napari-peftsam: choose"):
        load_adapter(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["missing.safetensors", "."], ids=["missing", "folder"])
def test_missing_files_are_refused(tmp_path, name) -> None:
    with pytest.raises(InputFileError, match="no adapter file at"):
        load_adapter(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "has adapter format 2, but this version reads format 1: update"),
        ({"format_version": "1"}, "has adapter format '1'"),
        ({"config": {"method": "new"}}, "unknown method 'new'.*update napari-peftsam"),
        ({"config": {"method": "lora", "new": 1}}, "unknown option 'new'.*update"),
        ({"config": None}, "description inside .* is damaged"),
        ({"base": {"name": "x"}}, "description inside .* is damaged"),
        ({"normalisation": "other"}, "do not match its checksum"),
    ],
)
def test_wrong_descriptions_are_refused(path, changes, message) -> None:
    edited_header(path, **changes)
    with pytest.raises(AdapterMismatchError, match=message) as caught:
        load_adapter(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", "{}"])
def test_broken_json_is_refused(path, text) -> None:
    save_file({"x": torch.zeros(1)}, path, metadata={"napari_peftsam": text})
    with pytest.raises(AdapterMismatchError, match="is damaged"):
        load_adapter(path)


def test_a_file_with_the_old_name_of_the_coefficients_rate_is_read() -> None:
    old = load_adapter(Path(__file__).parent / "data" / "old_cobot.safetensors")
    assert old.config.coefficient_rate == "100x"
    with apply_adapter(tiny(), old) as injection:
        groups = {g["name"]: g["lr"] for g in injection.parameter_groups(1e-4, 0.1)}
    assert groups == {"main": 1e-4, "coefficients": pytest.approx(1e-2)}


def test_unknown_keys_in_the_description_are_allowed(path, adapter) -> None:
    edited_header(path, colour="blue")
    assert load_adapter(path).digest == adapter.digest


def described(change):
    def spoil(path):
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            text = change(file.metadata()["napari_peftsam"])
        save_file(tensors, path, metadata={"napari_peftsam": text})

    return spoil


def holding(name, change):
    def spoil(path):
        found = load_adapter(path)
        tensors = {**found.tensors, name: change(found.tensors[name])}
        save_adapter(dataclasses.replace(found, tensors=tensors), path)

    return spoil


def asking_for(rank):
    def spoil(path):
        found = load_adapter(path)
        config = found.config.model_copy(update={"rank": rank})
        save_adapter(dataclasses.replace(found, config=config), path)

    return spoil


def judging(features, ious, **more):
    def spoil(path):
        found = load_adapter(path)
        judged = {"features": torch.as_tensor(features), "ious": torch.as_tensor(ious), **more}
        scorer = {f"automatic.scorer.{name}": values for name, values in judged.items()}
        save_adapter(dataclasses.replace(found, tensors={**found.tensors, **scorer}), path)

    return spoil


HOSTILE = {
    "nested": (described(lambda _: '{"a":' + "[" * 100_000), "nested too deeply"),
    "a long description": (described(lambda text: text + " " * 10**7), "10 MB, which is too much"),
    "two values of an option": (
        described(lambda text: text.replace('"config": {', '"config": {"method": "lora", ')),
        "a key is named twice",
    ),
    "not a number": (holding("encoder.cobot_hub.C", lambda t: t * float("nan")), "finite numbers"),
    "infinite": (holding("encoder.cobot_hub.C", lambda t: t / 0), "finite numbers"),
    "integers": (holding("encoder.cobot_hub.C", lambda t: t.int()), "finite numbers"),
    "complex": (holding("encoder.cobot_hub.C", lambda t: t.cfloat()), "finite numbers"),
    "a rank that it has not": (asking_for(10**9), "no tensor of the rank 1000000000"),
    "an infinite feature": (judging([[1.0, float("inf")]], [0.5]), "finite numbers"),
    "whole numbers as IoU": (judging([[1.0, 2.0]], [1]), "finite numbers"),
    "an IoU above 1": (judging([[1.0, 2.0]], [1.5]), "judged proposals in .* are damaged"),
    "fewer IoUs than proposals": (judging([[1.0], [2.0]], [0.5]), "judged proposals .* damaged"),
    "more proposals than it may have": (
        judging(torch.zeros(1001, 2), torch.zeros(1001)), "judged proposals .* damaged",
    ),
    "too many features": (judging(torch.zeros(1, 65), [0.5]), "judged proposals .* damaged"),
    "features without shape": (judging(1.0, 0.5), "judged proposals .* damaged"),
    "another tensor among them": (
        judging([[1.0]], [0.5], more=torch.zeros(1)), "judged proposals .* damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_adapters_are_refused_before_a_model_is_changed(path, spoil, message) -> None:
    spoil(path)
    with pytest.raises(AdapterMismatchError, match=message):
        load_adapter(path)


def test_more_names_than_can_be_read_are_left_out(adapter, path) -> None:
    many = {"trained_on": {"cells": list(range(1_200_000))}, "steps": 3}
    save_adapter(dataclasses.replace(adapter, provenance=many), path)
    assert load_adapter(path).provenance == {"steps": 3}


def test_names_of_images_can_be_left_out(adapter, tmp_path) -> None:
    provenance = {
        "trained_on": {"secret": [1]}, "imported_from": "secret", "step": 3,
        "training": {"leave_out": ["secret"], "steps": 1},
    }  # fmt: skip
    base = dataclasses.replace(adapter.base, name="secret@512")
    named = dataclasses.replace(adapter, provenance=provenance, base=base)
    save_adapter(named.anonymous(), tmp_path / "public.safetensors")
    assert b"secret" not in (tmp_path / "public.safetensors").read_bytes()
    found = load_adapter(tmp_path / "public.safetensors")
    assert found.digest == adapter.digest
    assert found.provenance == {"step": 3, "training": {"steps": 1}}
    assert found.base.name == f"{adapter.base.architecture}@512"


@pytest.mark.parametrize(
    ("count", "kept"),
    [pytest.param(0, 0, id="none"), pytest.param(3, 3, id="few"),
     pytest.param(1200, 1000, id="of many, the last")],
)  # fmt: skip
def test_judged_proposals_come_along(adapter, tmp_path, count, kept) -> None:
    rng = np.random.default_rng(0)
    features, ious = rng.normal(size=(count, 17)), rng.random(count)
    save_adapter(adapter.with_judged(features, ious).anonymous(), tmp_path / "judged.safetensors")
    found = load_adapter(tmp_path / "judged.safetensors")
    np.testing.assert_array_equal(found.judged[1], ious.astype(np.float32)[count - kept :])
    if kept:
        expected = features.astype(np.float32)[count - kept :]
        np.testing.assert_array_equal(found.judged[0], expected)
    assert found.injected.keys() == adapter.tensors.keys()
    assert (found.digest == adapter.digest) == (kept == 0)
    assert found.with_judged(features[:0], ious[:0]).digest == adapter.digest


def test_judged_proposals_that_are_damaged_are_left_out(adapter, tmp_path) -> None:
    features, ious = np.ones((4, 17)), np.array([0.5, 0.5, 1.0001, np.nan])
    features[1, 3] = np.nan
    save_adapter(adapter.with_judged(features, ious), tmp_path / "judged.safetensors")
    assert load_adapter(tmp_path / "judged.safetensors").judged[1].tolist() == [0.5]


def without(tensors, name):
    return {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "encoder.cobot_hub.C"), "missing: encoder.cobot_hub.C"),
        (lambda t: {**t, "encoder.x": torch.zeros(1)}, "unknown: encoder.x"),
        (
            lambda t: {**t, "encoder.cobot_hub.C": torch.zeros(4, 1)},
            r"of another shape: encoder.cobot_hub.C \(4, 1\) for \(4, 8\)",
        ),
        (lambda t: {}, "missing: .* and [0-9]+ more"),
    ],
    ids=["missing", "extra", "shape", "empty"],
)
def test_wrong_tensors_are_refused_and_leave_the_model_whole(
    tiny_model, adapter, change, message
) -> None:
    base = snapshot(tiny_model)
    wrong = dataclasses.replace(adapter, tensors=change(dict(adapter.tensors)))
    for use in (apply_adapter, merge):
        with pytest.raises(AdapterMismatchError, match=message):
            use(tiny_model, wrong)
    assert all(torch.equal(v, base[k]) for k, v in snapshot(tiny_model).items())
    apply_adapter(tiny_model, adapter)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        pytest.param("tiny-lm", "load random-tiny to use it", id="another model"),
        pytest.param("random-tiny", "other weights of random-tiny.*train again", id="a newer one"),
    ],
)
def test_another_base_is_refused_with_what_to_do(adapter, name, advice) -> None:
    other = dataclasses.replace(build_tiny(seed=1), name=name)
    own, foreign = adapter.base.weights_hash[:8], other.weights_hash[:8]
    message = rf"random-tiny \(weights {own}\), but the model is {name} \(weights {foreign}\)"
    for use in (apply_adapter, merge):
        with pytest.raises(AdapterMismatchError, match=f"{message}: .*{advice}"):
            use(other, adapter)


def test_the_same_weights_under_another_name_are_accepted(tiny_model, adapter) -> None:
    apply_adapter(dataclasses.replace(tiny_model, name="copy of it"), adapter)


def test_another_normalisation_is_refused(tiny_model, adapter, path) -> None:
    foreign = dataclasses.replace(adapter, normalisation="min-max")
    save_adapter(foreign, path)
    with pytest.raises(AdapterMismatchError, match="'min-max', but this version uses"):
        apply_adapter(tiny_model, load_adapter(path))


def test_digest_names_what_determines_the_output(tiny_model, adapter) -> None:
    assert dataclasses.replace(adapter, metrics={"ap": 1}).digest == adapter.digest
    tensors = {k: v.clone() for k, v in adapter.tensors.items()}
    assert dataclasses.replace(adapter, tensors=tensors).digest == adapter.digest
    tensors["encoder.cobot_hub.C"][0, 0] += 1e-6
    different = (
        dataclasses.replace(adapter, tensors=tensors),
        dataclasses.replace(adapter, config=adapter.config.model_copy(update={"alpha": 2.0})),
        dataclasses.replace(adapter, normalisation="other"),
    )
    assert len({a.digest for a in (adapter, *different)}) == 4


def test_half_precision_tensors_are_kept(tiny_model, tmp_path) -> None:
    injection = inject(tiny_model, LoraConfig())
    for dtype in (torch.bfloat16, torch.float16):
        halves = {k: v.to(dtype) for k, v in injection.state().items()}
        save_adapter(dataclasses.replace(capture(injection), tensors=halves), tmp_path / "h")
        loaded = load_adapter(tmp_path / "h")
        assert {t.dtype for t in loaded.tensors.values()} == {dtype}
        injection.load(loaded.tensors)


def test_a_failed_write_leaves_the_old_file(path, adapter) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
        save_adapter(dataclasses.replace(adapter, metrics={"ap": object()}), path)
    with pytest.raises(ExportError):
        save_adapter(adapter, path.parent / "nowhere" / "a.safetensors")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_loaded_adapter_does_not_depend_on_its_file(path, adapter) -> None:
    loaded = load_adapter(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert loaded.digest == adapter.digest
