"""MobileSAM: timm's TinyViT takes the tensors of its checkpoints and computes what they mean."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_peftsam.embeddings import encode_one
from napari_peftsam.errors import CheckpointError, ConfigurationError
from napari_peftsam.models import (
    Architecture,
    SamModel,
    architecture,
    build,
    build_random,
    checkpoint_state,
    construct,
    encode_steps,
    encode_tensor,
    hash_weights,
    network_state,
)
from napari_peftsam.segmentation import Predictor
from napari_peftsam.types import Box, Point, Prompts
from tests.models._mobile_sam import (
    State,
    Weights,
    checkpoint,
    encode,
    encoder_shapes,
)

VIT_T = architecture("vit_t")
NO_TIMM = r'comes from timm, which is not installed: pip install "napari-peftsam\[mobile\]"$'


@pytest.fixture(scope="module")
def state() -> State:
    return checkpoint()


@pytest.fixture(scope="module")
def path(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mobile") / "mobile_sam.pt"
    torch.save(state, path)
    return path


@pytest.fixture
def model(path: Path, small_vit_t: Architecture) -> SamModel:
    return build(path)


# --- names and shapes ------------------------------------------------------------------


def test_the_checkpoint_has_the_tensors_of_mobile_sam(state: State) -> None:
    with torch.device("meta"):
        ours = checkpoint_state(VIT_T, construct(VIT_T).state_dict())
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}
    # As many as `mobile_sam.pt` has, and its size
    assert len(ours) == 439
    assert len(encoder_shapes()) == 302
    assert round(sum(v.numel() * v.itemsize for v in state.values()) / 1e6) == 41


def test_every_tensor_has_one_name_in_each_naming(state: State) -> None:
    network = network_state(VIT_T, state)
    assert network.keys() == build_random("vit_t").sam.state_dict().keys()
    again = checkpoint_state(VIT_T, network)
    assert list(again) == list(state)
    assert all(again[name] is state[name] for name in state)


@pytest.mark.parametrize(
    ("mobile_sam", "timm"),
    [
        ("patch_embed.seq.0.c.weight", "patch_embed.conv1.conv.weight"),
        ("patch_embed.seq.2.bn.running_var", "patch_embed.conv2.bn.running_var"),
        ("layers.0.blocks.1.conv3.c.weight", "stages.0.blocks.1.conv3.conv.weight"),
        ("layers.0.downsample.conv1.c.weight", "stages.1.downsample.conv1.conv.weight"),
        ("layers.2.downsample.conv2.bn.bias", "stages.3.downsample.conv2.bn.bias"),
        ("layers.1.blocks.0.attn.attention_biases", "stages.1.blocks.0.attn.attention_biases"),
        ("layers.3.blocks.1.attn.qkv.weight", "stages.3.blocks.1.attn.qkv.weight"),
        ("layers.2.blocks.5.local_conv.c.weight", "stages.2.blocks.5.local_conv.conv.weight"),
        ("layers.2.blocks.5.mlp.fc2.bias", "stages.2.blocks.5.mlp.fc2.bias"),
        ("norm_head.weight", "head.norm.weight"),
        ("head.bias", "head.fc.bias"),
        ("neck.2.weight", "neck.2.weight"),
    ],
)
def test_names(mobile_sam: str, timm: str, state: State) -> None:
    one = {f"image_encoder.{mobile_sam}": state[f"image_encoder.{mobile_sam}"]}
    assert list(network_state(VIT_T, one)) == [f"image_encoder.{timm}"]


def test_the_architecture_is_recognised_and_nothing_is_lost(path: Path, state: State) -> None:
    model = build(path)
    assert (model.architecture, model.image_size, model.name) == (VIT_T, 1024, "mobile_sam")
    assert model.weights_hash == hash_weights(state)
    back = checkpoint_state(VIT_T, model.sam.state_dict())
    assert all(torch.equal(back[k], v) and back[k].dtype == v.dtype for k, v in state.items())


def test_a_training_programs_checkpoint(state: State, tmp_path: Path) -> None:
    path = tmp_path / "vit_t.pt"
    torch.save({"model_state": {f"sam.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    assert build(path).weights_hash == hash_weights(state)


@pytest.mark.parametrize("kind", [torch.int32, torch.float16], ids=str)
def test_counts_may_have_another_number_format(
    kind: torch.dtype, state: State, tmp_path: Path
) -> None:
    path, counts = tmp_path / "mobile.pt", "num_batches_tracked"
    torch.save({k: v.to(kind) if k.endswith(counts) else v for k, v in state.items()}, path)
    model = build(path)
    assert model.weights_hash == hash_weights(state)
    found = [v for k, v in model.sam.state_dict().items() if k.endswith(counts)]
    assert {v.dtype for v in found} == {torch.int64}


def without(part: str, state: State) -> State:
    return {name: tensor for name, tensor in state.items() if part not in name}


MISFITS: dict[str, tuple[Callable[[State], State], str]] = {
    "missing": (
        lambda s: without("norm_head", s),
        r"2 missing \(image_encoder\.norm_head\.bias, image_encoder\.norm_head\.weight\)$",
    ),
    "unexpected": (
        lambda s: {**s, "image_encoder.layers.1.extra": torch.zeros(1)},
        r"1 unexpected \(image_encoder\.layers\.1\.extra\)$",
    ),
    "another shape": (
        lambda s: {**s, "image_encoder.head.weight": torch.zeros(10, 320)},
        r"\(image_encoder\.head\.weight: 10 x 320 instead of 1000 x 320\)$",
    ),
    "a name of timm": (
        lambda s: {
            **without("seq.0.c.weight", s),
            "image_encoder.patch_embed.conv1.conv.weight": torch.zeros(32, 3, 3, 3),
        },
        r"1 missing \(.*\.seq\.0\.c\.weight\); 1 unexpected \(.*\.conv1\.conv\.weight\)$",
    ),
    "another depth": (
        lambda s: without("layers.2.blocks.5.", s),
        r"5 blocks, 160 wide \+ 2 blocks, 320 wide: .*vit_t \(2 x 64 \+ 2 x 128 \+ 6 x 160 \+ ",
    ),
    "another width": (
        lambda s: {**s, "image_encoder.layers.3.blocks.0.local_conv.bn.weight": torch.zeros(448)},
        "2 blocks, 448 wide",
    ),
    "a count that is no number": (
        lambda s: {
            **s,
            "image_encoder.patch_embed.seq.0.bn.num_batches_tracked": torch.tensor(True),
        },
        r"1 of another kind of number \(.*num_batches_tracked: bool instead of int64\)$",
    ),
    "an endless count": (
        lambda s: {
            **s,
            "image_encoder.patch_embed.seq.0.bn.num_batches_tracked": torch.tensor(torch.inf),
        },
        r"1 not finite \(image_encoder\.patch_embed\.seq\.0\.bn\.num_batches_tracked\)$",
    ),
    "no stage whole": (lambda s: without("bn.weight", s), "no SAM image encoder"),
}


@pytest.mark.parametrize(("spoil", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_a_misfit_is_told_in_the_names_of_the_file(
    spoil: Callable[[State], State], message: str, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "misfit.pt"
    torch.save(spoil(state), path)
    with pytest.raises(CheckpointError, match=message):
        build(path)


# --- what it computes ------------------------------------------------------------------


def test_the_embedding_is_that_of_the_reference(model: SamModel, state: State) -> None:
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    weights = Weights(state)
    expected = encode(weights, x)
    assert expected.shape == (1, 256, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(encode_tensor(model.sam, x), expected, rtol=1e-4, atol=1e-4)
    # The classifier is in the checkpoint only, and so is the count of training steps.
    assert {name for name in weights.unused if not name.endswith("num_batches_tracked")} == {
        "norm_head.weight",
        "norm_head.bias",
        "head.weight",
        "head.bias",
    }


def test_encoding_in_steps_equals_encoding_at_once(model: SamModel) -> None:
    x = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        *progress, (last, embedding) = encode_steps(model.sam, x)
        torch.testing.assert_close(embedding, encode_tensor(model.sam, x), rtol=0, atol=0)
    assert [*(fraction for fraction, _ in progress), last] == [n / 6 for n in range(1, 7)]


@pytest.mark.parametrize(
    "prompts",
    [
        pytest.param(Prompts((Point(20, 10),)), id="point"),
        pytest.param(Prompts((Point(20, 10), Point(3, 3, positive=False))), id="points"),
        pytest.param(Prompts(box=Box(5, 6, 30, 20)), id="box"),
    ],
)
def test_prompts_are_answered(prompts: Prompts, model: SamModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 37)).astype(np.uint8)
    found = Predictor(model).predict(encode_one(model, pixels), prompts)
    assert found.masks.shape == (3, 50, 37)
    assert np.isfinite(found.logits).all()
    again = Predictor(model).predict(encode_one(model, pixels), prompts)
    np.testing.assert_array_equal(found.logits, again.logits)


def test_the_whole_frame_gives_an_embedding_of_64_by_64() -> None:
    model = build_random("vit_t")
    with torch.inference_mode():
        assert encode_tensor(model.sam, torch.zeros(1, 3, 1024, 1024)).shape == (1, 256, 64, 64)


# --- without timm ----------------------------------------------------------------------


@pytest.fixture
def _no_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n == "timm" or n.startswith("timm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)


@pytest.mark.usefixtures("_no_timm")
def test_without_timm_the_error_names_the_extra(path: Path) -> None:
    with pytest.raises(ConfigurationError, match=NO_TIMM):
        build(path)
    with pytest.raises(ConfigurationError, match=NO_TIMM):
        build_random("vit_t")
    assert build_random("tiny").image_size == 64
