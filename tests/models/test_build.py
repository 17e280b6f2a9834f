"""Models are built by name or path, safely, and misfits are explained."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_peftsam.errors import CheckpointError, ConfigurationError, ImageError
from napari_peftsam.models import (
    ARCHITECTURES,
    architecture,
    autocast,
    available_models,
    build,
    build_random,
    build_tiny,
    construct,
    encode_steps,
    encode_tensor,
    hash_weights,
    pick_device,
    to_model_input,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(build_tiny().sam.state_dict(), path)
    return path


def test_a_checkpoint_path_gives_the_same_network(checkpoint: Path) -> None:
    model, original = build(checkpoint), build_tiny()
    assert model.name == "tiny"
    assert model.architecture == architecture("tiny")
    assert model.weights_hash == original.weights_hash
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encode_tensor(model.sam, x), encode_tensor(original.sam, x))


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_architectures_have_the_keys_of_segment_anything(name: str) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        ours = construct(architecture(name)).state_dict()
        theirs = sam_model_registry[name]().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_a_vit_b_checkpoint_is_loaded_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(build_random("vit_b").sam.state_dict(), path)
    model = build(path)
    assert (model.architecture.name, model.image_size) == ("vit_b", 1024)
    assert model.sam.image_encoder.pos_embed.shape == (1, 64, 64, 768)


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda s: {"model_state": s, "epoch": 3}, id="model_state"),
        pytest.param(lambda s: {"state_dict": s}, id="state_dict"),
        pytest.param(lambda s: {f"module.{k}": v for k, v in s.items()}, id="module-prefix"),
        pytest.param(lambda s: {f"sam.{k}": v for k, v in s.items()}, id="sam-prefix"),
    ],
)
def test_wrapped_state_dicts_are_recognised(wrap, tmp_path: Path) -> None:
    path = tmp_path / "wrapped.pt"
    torch.save(wrap(build_tiny().sam.state_dict()), path)
    assert build(path).weights_hash == build_tiny().weights_hash


def test_safetensors_in_half_precision_are_loaded_as_float(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({k: v.half().contiguous() for k, v in build_tiny().sam.state_dict().items()}, path)
    model = build(path)
    assert next(model.sam.parameters()).dtype == torch.float32


class _Evil:
    """What a hostile checkpoint holds: code that runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil-was-here"),)


def _write(path: Path, kind: str) -> None:
    state = build_tiny().sam.state_dict()
    if kind == "pickled objects":
        torch.save({"state": _Evil()}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(_Evil(), protocol=2))
    elif kind == "garbage":
        path.write_bytes(b"not a checkpoint at all")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "another network":
        torch.save(torch.nn.Linear(3, 3).state_dict(), path)
    elif kind == "unknown width":
        torch.save({"image_encoder.blocks.0.norm1.weight": torch.zeros(7)}, path)
    elif kind == "missing keys":
        torch.save({k: v for k, v in state.items() if "mask_decoder" not in k}, path)
    elif kind == "extra keys":
        torch.save({**state, "surprise": torch.zeros(1)}, path)
    else:
        torch.save([1, 2, 3], path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickled objects", "could run code"),
        ("plain pickle", "could run code|not a readable checkpoint"),
        ("garbage", "not a readable checkpoint|could run code"),
        ("empty", "not a readable checkpoint"),
        ("truncated", "not a readable checkpoint"),
        ("another network", "no SAM image encoder"),
        ("unknown width", "1 blocks, 7 wide"),
        ("missing keys", "missing"),
        ("extra keys", "unexpected.*surprise"),
        ("a list", "not a state dict"),
    ],
)
def test_bad_checkpoints_are_refused_with_the_reason(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    _write(path, kind)
    with pytest.raises(CheckpointError, match=message):
        build(path)
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize("first", range(0, 256, 5))
def test_no_first_byte_gets_through(first: int, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(bytes([first]) * 50)
    with pytest.raises(CheckpointError):
        build(path)


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        build(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nonsense", "unknown model 'nonsense'.*builtin"), ("vit_b", "not on this computer")],
)
def test_a_name_that_cannot_be_loaded_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(name)


def test_the_registry_lists_the_models_of_the_issue() -> None:
    assert [m.name for m in available_models()] == ["builtin", "vit_b", "vit_l", "vit_h"]
    assert {m.architecture for m in available_models()} <= set(ARCHITECTURES)


def test_unknown_architectures_and_devices_name_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="vit_b"):
        architecture("vit_x")
    with pytest.raises(ConfigurationError, match="cuda"):
        pick_device("tpu")
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in {"cpu", "cuda", "mps"}


def test_the_hash_sees_values_and_names_but_not_order() -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(2)}
    same = dict(reversed(state.items()))
    assert hash_weights(state) == hash_weights(same)
    assert hash_weights(state) != hash_weights({**state, "b": torch.tensor([0.0, 1e-7])})
    assert hash_weights(state) != hash_weights({"a": state["a"], "c": state["b"]})


def test_encoding_in_steps_equals_encoding_at_once() -> None:
    model = build_tiny()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        *progress, (last, embedding) = encode_steps(model.sam, x)
        torch.testing.assert_close(embedding, encode_tensor(model.sam, x), rtol=0, atol=0)
    fractions = [fraction for fraction, _ in progress]
    assert fractions == sorted(fractions)
    assert last == 1
    assert len(fractions) == model.architecture.depth + 1


@pytest.mark.parametrize(
    ("shape", "inner"),
    [
        pytest.param((32, 32), (64, 64), id="enlarged"),
        pytest.param((128, 64), (64, 32), id="portrait"),
        pytest.param((10, 40), (16, 64), id="landscape"),
        pytest.param((64, 64, 3), (64, 64), id="rgb"),
    ],
)
def test_images_are_scaled_by_the_longer_side_and_padded(
    shape: tuple[int, ...], inner: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    x = to_model_input(pixels, build_tiny())
    assert x.shape == (1, 3, 64, 64)
    rows, cols = inner
    assert x[..., :rows, :cols].abs().sum() > 0
    assert x[..., rows:, :].abs().sum() == 0
    assert x[..., cols:].abs().sum() == 0


@pytest.mark.parametrize(
    ("make", "same"),
    [
        pytest.param(lambda x: x.astype(np.uint16) * 257, True, id="16-bit"),
        pytest.param(lambda x: x.astype(np.float32) / 255 - 3, True, id="float"),
        pytest.param(lambda x: x[..., None].repeat(3, -1), True, id="grey-as-rgb"),
        pytest.param(lambda x: 255 - x, False, id="inverted"),
    ],
)
def test_the_model_sees_the_same_whatever_the_number_format(make, same: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    model = build_tiny()
    ours, theirs = to_model_input(pixels, model), to_model_input(make(pixels), model)
    assert torch.allclose(ours, theirs, atol=1e-3) is same


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        pytest.param(np.full((8, 8), 7), "constant", id="constant"),
        pytest.param(np.full((8, 8), np.nan), "no finite value", id="all-nan"),
        pytest.param(np.zeros((2, 8, 8)), "one plane", id="stack"),
        pytest.param(np.zeros((0, 8)), "one plane", id="empty"),
        pytest.param(np.zeros((8, 8), complex), "real numbers", id="complex"),
    ],
)
def test_images_without_content_are_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        to_model_input(pixels, build_tiny())


def test_a_few_missing_values_count_as_the_darkest() -> None:
    pixels = np.random.default_rng(0).random((32, 32))
    pixels[0, 0] = pixels.min()
    holed = pixels.copy()
    holed[0, 0] = np.nan
    model = build_tiny()
    torch.testing.assert_close(to_model_input(holed, model), to_model_input(pixels, model))


def test_autocast_is_either_bfloat16_or_off() -> None:
    with autocast("cpu"):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype in (torch.bfloat16, torch.float32)
