"""Several adapters of one model: switching, disabling, weakening."""

from __future__ import annotations

import pytest
import torch

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError
from napari_peftsam.models import build_tiny
from napari_peftsam.peft import Adapter, AdapterSwitch, apply_adapter, capture, inject
from tests.peft._cases import CASES, image, outputs, perturb, same, snapshot, tiny

METHODS = ("lora-late-50%", "cobot-all", "dora-all", "ssf-all", "full-finetuning", "decoder-lora")


@pytest.fixture(scope="module")
def adapters() -> dict[str, Adapter]:
    made = {}
    for name in METHODS:
        with inject(tiny(), CASES[name]) as injection:
            perturb(injection.trainable_parameters())
            made[name] = capture(injection)
    return made


def test_each_answers_as_if_it_were_alone_however_often_they_change(adapters) -> None:
    model = tiny()
    base, expected = snapshot(model), {None: outputs(model, image())}
    for name, adapter in adapters.items():
        with apply_adapter(tiny(), adapter) as injection:
            expected[name] = outputs(injection.model, image())
    switch = AdapterSwitch(model)
    for name in (*METHODS, None, *reversed(METHODS), METHODS[0], METHODS[1], METHODS[0], None):
        switch.use(None if name is None else adapters[name])
        assert torch.equal(outputs(model, image()), expected[name])
        assert switch.live is (None if name is None else adapters[name])
    assert same(snapshot(model), base)


def test_a_second_use_builds_nothing(adapters, monkeypatch) -> None:
    switch = AdapterSwitch(tiny())
    for name in METHODS[:2]:
        switch.use(adapters[name])
    monkeypatch.setattr("napari_peftsam.peft.switch.apply_adapter", None)
    for name in METHODS[:2]:
        switch.use(adapters[name])


def test_strength_is_between_base_and_adapter(adapters) -> None:
    model = tiny()
    switch, base = AdapterSwitch(model), outputs(model, image())
    switch.use(adapters["cobot-all"])
    full = outputs(model, image())
    switch.use(adapters["cobot-all"], 0.5)
    half = outputs(model, image())
    assert switch.strength == 0.5
    assert 0 < (half - base).norm() < (full - base).norm()
    switch.use(adapters["cobot-all"], 0)
    assert torch.equal(outputs(model, image()), base)
    switch.use(adapters["cobot-all"])
    assert torch.equal(outputs(model, image()), full)


@pytest.mark.parametrize("before", [None, "lora-late-50%"])
def test_what_cannot_be_used_leaves_the_live_one(adapters, before) -> None:
    model = tiny()
    switch = AdapterSwitch(model)
    live = None if before is None else adapters[before]
    switch.use(live, 1.0 if live is None else 0.5)
    expected = outputs(model, image())
    foreign = capture(inject(build_tiny(seed=5), CASES["lora-all"]))
    for wrong, strength, error in (
        (foreign, 1.0, AdapterMismatchError),
        (adapters["dora-all"], 0.5, ConfigurationError),
        (adapters["cobot-all"], 2.0, ConfigurationError),
        (None, 7.0, ConfigurationError),
    ):
        with pytest.raises(error):
            switch.use(wrong, strength)
        assert switch.live is live
        assert torch.equal(outputs(model, image()), expected)
