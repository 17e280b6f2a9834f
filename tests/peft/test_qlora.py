"""QLoRA. Its arithmetic runs on the CPU here; that a GPU is asked for is switched off."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft import (
    METHODS,
    capture,
    inject,
    merge,
)
from napari_peftsam.peft.methods.qlora import QLoraConfig
from tests.peft._cases import image, outputs, perturb, same, snapshot, step, tiny

pytest.importorskip("bitsandbytes")
CONFIG = QLoraConfig(rank=4, matrices="q,v,lin1", placement="2-3")


@pytest.fixture
def on_any_device(monkeypatch) -> None:
    monkeypatch.setattr(QLoraConfig, "obstacle", staticmethod(lambda device: ""))


def test_it_is_refused_without_cuda() -> None:
    model = tiny()
    base = snapshot(model)
    message = r"^QLoRA needs an NVIDIA GPU \(CUDA\).*found cpu: choose lora$"
    with pytest.raises(ConfigurationError, match=message):
        inject(model, CONFIG)
    assert same(snapshot(model), base)
    reasons = {name: method.obstacle("cpu") for name, method in METHODS.items()}
    assert reasons.pop("qlora").startswith("needs an NVIDIA GPU")
    assert not any(reasons.values())
    assert not any(method.obstacle("cuda") for method in METHODS.values())


def test_it_is_refused_without_bitsandbytes(monkeypatch) -> None:
    monkeypatch.setattr("napari_peftsam.peft.methods.qlora.find_spec", lambda name: None)
    assert "pip install 'napari-peftsam[qlora]'" in QLoraConfig.obstacle("cuda")


@pytest.mark.usefixtures("on_any_device")
def test_it_trains_over_four_bits_and_gives_the_base_back() -> None:
    model = tiny()
    base, expected = snapshot(model), outputs(model, image())
    blocks = model.sam.image_encoder.blocks
    injection = inject(model, CONFIG)
    start = outputs(model, image())
    # Quantised weights are other weights: this one method does not start as the base.
    assert 0 < (start - expected).norm() < 0.7 * expected.norm()
    assert blocks[1].attn.proj.weight.dtype == torch.float32
    packed = [blocks[3].attn.qkv.base, blocks[3].attn.proj, blocks[3].mlp.lin1.base]
    assert all(layer.packed.dtype == torch.uint8 for layer in (*packed, blocks[3].mlp.lin2))
    frozen = [layer.packed.clone() for layer in packed]
    optimiser = torch.optim.AdamW(injection.parameter_groups(1e-2, 0.1))
    losses = [step(model, optimiser) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(torch.equal(a, b.packed) for a, b in zip(frozen, packed, strict=True))
    assert all(".slots." in n for n in injection.state() if n.startswith("encoder."))
    with injection.disabled():
        assert torch.equal(outputs(model, image()), expected)
    injection.remove()
    assert same(snapshot(model), base)


@pytest.mark.usefixtures("on_any_device")
def test_resting_layers_share_nothing_with_the_live_model() -> None:
    model = tiny()
    originals = [
        layer for block in model.sam.image_encoder.blocks[2:] for layer in block.modules()
        if isinstance(layer, torch.nn.Linear)
    ]  # fmt: skip
    inject(model, CONFIG)
    live = {p.data_ptr() for p in model.sam.parameters()}
    resting = [p for layer in originals for p in layer.parameters()]
    assert resting
    assert live.isdisjoint(p.data_ptr() for p in resting)


def test_it_is_merged_without_a_gpu(monkeypatch) -> None:
    model = tiny()
    with monkeypatch.context() as patch:
        patch.setattr(QLoraConfig, "obstacle", staticmethod(lambda device: ""))
        with inject(model, CONFIG) as injection:
            perturb(injection.trainable_parameters())
            adapter = capture(injection)
    merged = merge(model, adapter)
    assert list(merged) == list(snapshot(model))
    monkeypatch.setattr("napari_peftsam.peft.methods.qlora.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"needs bitsandbytes: pip install"):
        merge(model, adapter)


@pytest.mark.usefixtures("on_any_device")
def test_merged_weights_are_the_dequantised_ones_with_the_update() -> None:
    model = tiny()
    injection = inject(model, CONFIG)
    perturb(injection.trainable_parameters())
    expected, adapter = outputs(model, image()), capture(injection)
    for twin in (copy.deepcopy(injection), pickle.loads(pickle.dumps(injection))):
        torch.testing.assert_close(outputs(twin.model, image()), expected)
    injection.remove()
    plain = tiny()
    plain.sam.load_state_dict(merge(model, adapter))
    error = (outputs(plain, image()) - expected).norm() / expected.norm()
    assert error <= 1e-5
