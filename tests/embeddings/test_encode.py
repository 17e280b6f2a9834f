"""Encoding as a stream: every block is an event, bad images do not stop the others."""

from __future__ import annotations

import logging
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_peftsam.embeddings import (
    EmbeddingStore,
    Encoded,
    EncodeFailed,
    EncodeProgress,
    EncodeRequest,
    EncodeStarted,
    embedding_key,
    encode,
    encode_one,
)
from napari_peftsam.errors import CheckpointError, ImageError, PeftSamError
from napari_peftsam.models import build_tiny, encode_tensor, to_model_input
from napari_peftsam.types import Frame

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4000, (50, 37)).astype(np.uint16)
RGB = RNG.integers(0, 255, (20, 90, 3)).astype(np.uint8)

BAD_IMAGES = [
    pytest.param(np.full((9, 9), np.nan), id="all NaN"),
    pytest.param(np.full((9, 9), 7), id="constant"),
    pytest.param(np.zeros((0, 9)), id="empty"),
    pytest.param(np.arange(9.0), id="one axis"),
    pytest.param(np.zeros((2, 9, 9, 3)), id="stack"),
    pytest.param(np.zeros((9, 9), complex), id="complex"),
    pytest.param(np.full((9, 9), None), id="objects"),
]


@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey uint16", "RGB"])
def test_blockwise_encoding_equals_the_whole(pixels: np.ndarray) -> None:
    model = build_tiny()
    embedding = encode_one(model, pixels)
    with torch.inference_mode(), model.autocast():
        expected = encode_tensor(model.sam, to_model_input(pixels, model))[0].float().numpy()
    assert embedding.features.dtype == np.float32
    np.testing.assert_array_equal(embedding.features, expected)
    assert embedding.frame == Frame(*pixels.shape[:2], 64)
    assert embedding.key == embedding_key(model, pixels)


def test_events_of_one_image() -> None:
    model = build_tiny()
    events = list(encode(model, [EncodeRequest("cells", GREY)]))
    assert events[0] == EncodeStarted("cells", 0, 1)
    assert isinstance(events[-1], Encoded)
    assert events[-1].from_store is False
    fractions = [e.fraction for e in events if isinstance(e, EncodeProgress)]
    assert len(fractions) == len(events) - 2 >= model.architecture.depth
    assert all(a < b for a, b in pairwise(fractions))
    assert fractions[-1] == 1.0


def test_the_second_time_it_comes_from_the_store(tmp_path: Path) -> None:
    model, store = build_tiny(), EmbeddingStore(tmp_path)
    first = encode_one(model, GREY, store)
    *_, event = encode(model, [EncodeRequest("again", GREY)], store)
    assert isinstance(event, Encoded)
    assert event.from_store
    np.testing.assert_array_equal(event.embedding.features, first.features)


def test_another_model_adapter_or_image_is_computed(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path)
    encode_one(build_tiny(), GREY, store)
    for model, pixels, adapter in [
        (build_tiny(seed=1), GREY, "base"),
        (build_tiny(), GREY + np.uint16(1), "base"),
        (build_tiny(), GREY, "0123"),
    ]:
        *_, event = encode(model, [EncodeRequest("x", pixels)], store, adapter)
        assert isinstance(event, Encoded)
        assert not event.from_store


@pytest.mark.parametrize("pixels", BAD_IMAGES)
def test_a_bad_image_fails_alone(pixels: np.ndarray, tmp_path: Path) -> None:
    requests = [EncodeRequest("bad", pixels), EncodeRequest("good", GREY)]
    events = list(encode(build_tiny(), iter(requests), EmbeddingStore(tmp_path)))
    [failed] = [e for e in events if isinstance(e, EncodeFailed)]
    assert failed.name == "bad"
    assert isinstance(failed.error, ImageError)
    assert [e.name for e in events if isinstance(e, Encoded)] == ["good"]
    with pytest.raises(ImageError):
        encode_one(build_tiny(), pixels)


def test_a_broken_model_is_told_and_not_stored(tmp_path: Path) -> None:
    model, store = build_tiny(), EmbeddingStore(tmp_path)
    model.sam.image_encoder.blocks[1].mlp.lin1.weight.data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        encode_one(model, GREY, store)
    assert store.size_bytes() == 0


def test_closing_in_between_stores_nothing_and_can_be_redone(tmp_path: Path) -> None:
    model, store = build_tiny(), EmbeddingStore(tmp_path)
    stream = encode(model, [EncodeRequest("a", GREY)], store)
    for event in stream:
        if isinstance(event, EncodeProgress):
            break
    stream.close()
    assert store.size_bytes() == 0
    assert encode_one(model, GREY, store).features.shape == (16, 8, 8)


def test_the_consumer_keeps_its_own_modes() -> None:
    for _ in encode(build_tiny(), [EncodeRequest("a", GREY)]):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")


def test_without_a_writable_store_it_goes_on_and_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    requests = [EncodeRequest("a", GREY), EncodeRequest("b", RGB)]
    with caplog.at_level(logging.WARNING):
        events = list(encode(build_tiny(), requests, EmbeddingStore(tmp_path / "file" / "x")))
    assert [e.name for e in events if isinstance(e, Encoded)] == ["a", "b"]
    assert caplog.text.count("not kept") == 1


def test_images_are_loaded_one_by_one() -> None:
    loaded: list[str] = []

    def load(name: str, pixels: np.ndarray) -> EncodeRequest:
        loaded.append(name)
        return EncodeRequest(name, pixels)

    stream = encode(build_tiny(), [partial(load, "a", GREY), partial(load, "b", RGB)])
    next(stream)
    assert loaded == ["a"]
    assert len([e for e in stream if isinstance(e, Encoded)]) == 2
    assert loaded == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        pytest.param(
            "can't allocate memory", PeftSamError, "not enough memory on cpu", id="memory"
        ),
        pytest.param("cannot be multiplied", RuntimeError, "cannot be multiplied", id="a bug"),
    ],
)
def test_a_lack_of_memory_is_told(
    text: str, kind: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_tiny()

    def fails(*_: object) -> torch.Tensor:
        raise RuntimeError(text)

    monkeypatch.setattr(model.sam.image_encoder.neck, "forward", fails)
    with pytest.raises(kind, match=told):
        encode_one(model, GREY)
