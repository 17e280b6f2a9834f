"""Smaller frames: positions are interpolated, and whatever depends on the frame knows it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import Tensor, nn
from torch.nn import functional

from napari_peftsam.app.app import App
from napari_peftsam.app.exchange import export_model, export_model_file
from napari_peftsam.batch.plan import ModelSource
from napari_peftsam.embeddings import embedding_key
from napari_peftsam.errors import AdapterMismatchError, ConfigurationError
from napari_peftsam.models import (
    ARCHITECTURES,
    Architecture,
    SamModel,
    build,
    build_random,
    encode_tensor,
    find_architecture,
    recommend_frame,
)
from napari_peftsam.peft import LoraConfig, capture, inject, load_adapter, save_adapter
from napari_peftsam.types import ModelReference
from tests.interoperability._cases import randomise_positions
from tests.models._mobile_sam import checkpoint as mobile_sam
from tests.peft._cases import perturb

POSITIONS = "image_encoder.pos_embed"
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
FRAMES = [pytest.param(64, id="published"), pytest.param(48, id="three quarters"),
          pytest.param(32, id="half")]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint whose positions count, published with a frame of 64 pixels."""
    sam = build_random("tiny").sam
    randomise_positions(sam)
    path = tmp_path_factory.mktemp("models") / "tiny.pth"
    torch.save(sam.state_dict(), path)
    return path


def at(checkpoint: Path, frame: int | None = None) -> SamModel:
    return build(str(ModelReference(str(checkpoint), frame)))


def sam_of(frame: int) -> Sam:
    """Return the tiny SAM as segment_anything builds it, for an image size."""
    encoder = ImageEncoderViT(
        img_size=frame, patch_size=8, embed_dim=16, depth=4, num_heads=2, out_chans=16,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=4,
        global_attn_indexes=(1, 3),
    )  # fmt: skip
    prompts = PromptEncoder(16, (frame // 8,) * 2, (frame,) * 2, 16)
    transformer = TwoWayTransformer(2, 16, 2, 32)
    decoder = MaskDecoder(transformer_dim=16, transformer=transformer, iou_head_hidden_dim=16)
    return Sam(encoder, prompts, decoder).eval()


def embedded(model: SamModel | Sam) -> Tensor:
    sam = model if isinstance(model, Sam) else model.sam
    side = sam.image_encoder.img_size
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return encode_tensor(sam, x)


# --- positions --------------------------------------------------------------------------


def test_a_wrapped_checkpoint_is_framed_like_a_plain_one(checkpoint: Path, tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in torch.load(checkpoint, weights_only=True).items()}
    torch.save({"model_state": state, "iteration": 3}, tmp_path / "wrapped.pt")
    plain, wrapped = at(checkpoint, 32), at(tmp_path / "wrapped.pt", 32)
    assert wrapped.weights_hash == plain.weights_hash
    torch.testing.assert_close(embedded(wrapped), embedded(plain))


def test_the_published_frame_changes_nothing(checkpoint: Path) -> None:
    plain, named = at(checkpoint), at(checkpoint, 64)
    assert (named.name, named.weights_hash) == (plain.name, plain.weights_hash)
    published = torch.load(checkpoint, weights_only=True)
    state = named.sam.state_dict()
    assert all(torch.equal(state[key], value) for key, value in published.items())


@pytest.mark.parametrize("frame", FRAMES)
def test_positions_fit_the_frame(frame: int, checkpoint: Path) -> None:
    model, published = at(checkpoint, frame), torch.load(checkpoint, weights_only=True)
    grid = frame // 8
    state = model.sam.state_dict()
    assert (model.image_size, model.architecture.grid) == (frame, grid)
    assert embedded(model).shape == (1, 16, grid, grid)
    wanted = functional.interpolate(
        published[POSITIONS].permute(0, 3, 1, 2), (grid, grid), mode="bicubic"
    )
    torch.testing.assert_close(state[POSITIONS], wanted.permute(0, 2, 3, 1))
    for block, distances in ((0, 7), (1, 2 * grid - 1)):  # in windows of 4, and global
        key = f"image_encoder.blocks.{block}.attn.rel_pos_h"
        table = functional.interpolate(published[key].T[None], distances, mode="linear")[0].T
        torch.testing.assert_close(state[key], table)
    rest = published.keys() - {key for key in published if "rel_pos" in key or key == POSITIONS}
    assert all(torch.equal(state[key], published[key]) for key in rest)


@pytest.mark.parametrize("frame", FRAMES)
def test_it_computes_what_sam_does_at_this_image_size(frame: int, checkpoint: Path) -> None:
    """SAM interpolates its relative positions itself, where they are of another frame."""
    model, theirs = at(checkpoint, frame), sam_of(64)
    theirs.load_state_dict(torch.load(checkpoint, weights_only=True))
    theirs.image_encoder.pos_embed.data = model.sam.image_encoder.pos_embed.data
    theirs.image_encoder.img_size = frame
    torch.testing.assert_close(embedded(model), embedded(theirs), atol=1e-5, rtol=1e-5)


def test_a_mobile_sam_has_nothing_to_interpolate(
    small_vit_t: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "vit_t", replace(small_vit_t, frames=(128, 64)))
    torch.save(mobile_sam(), tmp_path / "mobile.pt")
    whole, half = at(tmp_path / "mobile.pt"), at(tmp_path / "mobile.pt", 64)
    assert (whole.image_size, half.image_size) == (128, 64)
    assert embedded(half).shape[2:] == (4, 4)
    assert whole.weights_hash != half.weights_hash


# --- what knows the frame ---------------------------------------------------------------


def test_an_embedding_has_another_address_at_each_frame(checkpoint: Path) -> None:
    keys = [embedding_key(at(checkpoint, frame), PIXELS) for frame in (None, 64, 48, 32)]
    assert keys[0] == keys[1]
    assert len({key.digest for key in keys}) == len({key.model for key in keys}) == 3


def adapter_at(checkpoint: Path, frame: int, path: Path) -> SamModel:
    """Write an adapter that training has moved; return the model with it."""
    model = at(checkpoint, frame)
    injection = inject(model, LoraConfig(rank=2))
    perturb(injection.trainable_parameters(), 0.2)
    save_adapter(capture(injection), path)
    return model


@pytest.mark.parametrize(
    ("trained", "loaded", "remedy"),
    [
        pytest.param(32, 64, "load tiny with the frame 32 to use it", id="of a smaller one"),
        pytest.param(64, 32, "load tiny without a frame to use it", id="of the published one"),
        pytest.param(48, 32, "load tiny with the frame 48 to use it", id="of another one"),
        pytest.param(32, 32, "", id="of the same one"),
    ],
)
def test_an_adapter_belongs_to_its_frame(
    trained: int, loaded: int, remedy: str, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "adapter.safetensors"
    adapted = embedded(adapter_at(checkpoint, trained, path))
    assert load_adapter(path).base.name == ("tiny" if trained == 64 else f"tiny@{trained}")
    source = ModelSource(checkpoint, path, frame=loaded)
    if remedy:
        with pytest.raises(AdapterMismatchError, match=remedy):
            source.engine()
    else:
        torch.testing.assert_close(embedded(source.engine().model), adapted)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_merged_export_loads_in_segment_anything_at_its_frame(
    frame: int, checkpoint: Path, tmp_path: Path
) -> None:
    adapter, merged = tmp_path / "adapter.safetensors", tmp_path / "merged.pth"
    adapted = embedded(adapter_at(checkpoint, frame, adapter))
    export_model_file(str(ModelReference(str(checkpoint), frame)), adapter, merged)
    state = torch.load(merged, weights_only=True)
    assert state._metadata[""] == {"image_size": frame}
    theirs = sam_of(frame)
    theirs.load_state_dict(state)
    torch.testing.assert_close(embedded(theirs), adapted, atol=1e-4, rtol=1e-4)
    again = build(merged)  # nobody has to know the frame
    assert (again.name, again.image_size) == ("merged", frame)
    torch.testing.assert_close(embedded(again), adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_a_vit_b_of_512_loads_in_segment_anything(tmp_path: Path) -> None:
    model = build_random("vit_b")
    torch.save(model.sam.state_dict(), tmp_path / "sam_vit_b.pth")
    export_model(build(f"{tmp_path / 'sam_vit_b.pth'}@512"), None, tmp_path / "merged.pth")
    with torch.device("meta"):
        encoder = ImageEncoderViT(
            img_size=512, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True,
            window_size=14, global_attn_indexes=(2, 5, 8, 11), out_chans=256,
        )  # fmt: skip
        prompts = PromptEncoder(256, (32, 32), (512, 512), 16)
        decoder = MaskDecoder(transformer_dim=256, transformer=TwoWayTransformer(2, 256, 8, 2048))
        theirs = Sam(encoder, prompts, decoder)
    theirs.load_state_dict(torch.load(tmp_path / "merged.pth", weights_only=True), assign=True)
    assert find_architecture(tmp_path / "merged.pth").image_size == 512


def test_a_project_remembers_the_frame(checkpoint: Path, tmp_path: Path) -> None:
    with App(tmp_path / "a.peftsam") as app:
        app.load_model(checkpoint, frame=32)
        assert app.workspace.source == f"{checkpoint}@32"
    with App(tmp_path / "a.peftsam") as app:
        app.load_model()
        assert app.workspace.engine.model.image_size == 32
        app.load_model(checkpoint, frame=64)
        assert app.workspace.source == str(checkpoint)


# --- references and refusals ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        pytest.param("vit_b", ModelReference("vit_b"), id="no frame"),
        pytest.param("vit_b@512", ModelReference("vit_b", 512), id="a frame"),
        pytest.param("/x/a@b.pth", ModelReference("/x/a@b.pth"), id="no number"),
        pytest.param("/x/a@b.pth@768", ModelReference("/x/a@b.pth", 768), id="of a path"),
        pytest.param("here@512", ModelReference("here@512"), id="a file that is called so"),
    ],
)
def test_references(
    text: str, reference: ModelReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here@512").touch()
    assert ModelReference.parse(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        pytest.param("vit_b@600", "vit_b cannot .* 600 pixels: choose 1024, 768 or 512", id="size"),
        pytest.param("vit_t@0", "vit_t cannot .* 0 pixels: choose 1024, 768 or 512", id="nothing"),
        pytest.param("builtin@512", "builtin has a frame of 384 .* without a frame", id="builtin"),
        pytest.param("vit_b@-1", "vit_b cannot .* -1 pixels: choose 1024, 768 or 512", id="less"),
        pytest.param("vit_b@99999999", "vit_b cannot .* 99999999 pixels", id="very many"),
        pytest.param("vit_x@512", "unknown model 'vit_x'", id="unknown model"),
    ],
)
def test_a_frame_that_a_model_does_not_have(reference: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        find_architecture(reference)
    if "vit_b" not in reference and "vit_t" not in reference:  # they are not on this computer
        with pytest.raises(ConfigurationError, match=words):
            build(reference)


def test_what_was_saved_at_a_smaller_frame_has_no_other(checkpoint: Path, tmp_path: Path) -> None:
    export_model(at(checkpoint, 32), None, tmp_path / "small.pth")
    with pytest.raises(ConfigurationError, match="small has a frame of 32 pixels and no other"):
        at(tmp_path / "small.pth", 64)


# --- recommendation ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "memory", "frame"),
    [
        pytest.param((512, 300), None, 512, id="a small image on a CPU"),
        pytest.param((513, 300), None, None, id="a larger one"),
        pytest.param((512, 300), 8 * 10**9, None, id="on a GPU"),
    ],
)
def test_the_recommended_frame(
    shape: tuple[int, int], memory: int | None, frame: int | None
) -> None:
    recommended, why = recommend_frame(shape, memory)
    assert recommended == frame
    assert bool(why) == (frame is not None)
