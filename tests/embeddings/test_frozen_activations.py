"""An encoding that begins late gives what one from the beginning gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from napari_peftsam.embeddings import (
    ActivationCache,
    Embedding,
    EmbeddingStore,
    Encoded,
    EncodeProgress,
    EncodeRequest,
    FrozenActivations,
    encode,
    encode_one,
)
from napari_peftsam.errors import ImageError
from napari_peftsam.models import SamModel, build, build_tiny
from napari_peftsam.peft import LoraConfig, MethodConfig, Placement, inject
from napari_peftsam.peft.methods.adaptformer import AdaptFormerConfig
from napari_peftsam.peft.methods.selective import LateFinetuningConfig
from napari_peftsam.peft.methods.ssf import SsfConfig
from tests.peft._cases import perturb

GREY = np.random.default_rng(0).integers(0, 4000, (50, 37)).astype(np.uint16)
DEPTH = 4
BYTES = 10**6


def tiny(precision: str = "auto", seed: int = 0) -> SamModel:
    return replace(build_tiny(seed), precision=precision)


def late(text: str) -> Placement:
    return Placement.parse(text)


METHODS = [
    pytest.param(LoraConfig(placement=late("late-50%")), id="LoRA, last half"),
    pytest.param(LoraConfig(placement=late("1,3")), id="LoRA, from block 1"),
    pytest.param(LoraConfig(placement=late("last")), id="LoRA, last block"),
    pytest.param(
        AdaptFormerConfig(bottleneck=8, placement=late("late-25%")), id="AdaptFormer, last quarter"
    ),
    pytest.param(LateFinetuningConfig(), id="late finetuning"),
]


def events(
    model: SamModel, frozen: FrozenActivations | None, adapter: str = "base"
) -> tuple[Embedding, int]:
    """Return the embedding and the number of steps it took."""
    found = list(encode(model, [EncodeRequest("a", GREY)], adapter=adapter, frozen=frozen))
    assert isinstance(found[-1], Encoded)
    return found[-1].embedding, sum(isinstance(e, EncodeProgress) for e in found)


def error(found: Embedding, expected: Embedding) -> float:
    difference = np.linalg.norm(found.features - expected.features)
    return float(difference / np.linalg.norm(expected.features))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_from_cached_activations_it_is_the_same(method: MethodConfig, precision: str) -> None:
    torch.manual_seed(0)  # adapters begin with random numbers
    model = tiny(precision)
    reach = method.first_changed_block(DEPTH)
    with ActivationCache(BYTES) as cache:
        base, _ = events(model, FrozenActivations(cache, DEPTH, (2, 3, reach)))
        with inject(model, method) as injection:
            perturb(injection.trainable_parameters())
            expected, all_steps = events(model, None, "0123")
            found, steps = events(model, FrozenActivations(cache, reach, (2, 3, reach)), "0123")
    assert steps == all_steps - 1 - reach
    np.testing.assert_array_equal(found.features, expected.features)
    assert error(expected, base) > 0.02, "else nothing was tested"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_it_is_with_the_built_in_model(precision: str) -> None:
    model = build("builtin", "cpu", precision=precision)
    method = LoraConfig(placement=late("late-25%"))
    with ActivationCache(10 * BYTES) as cache:
        events(model, FrozenActivations(cache, 8, (6,)))
        with inject(model, method) as injection:
            perturb(injection.trainable_parameters())
            expected, _ = events(model, None, "0123")
            found, steps = events(model, FrozenActivations(cache, 6, (6,)), "0123")
    assert steps == 3 * model.architecture.orientations
    np.testing.assert_array_equal(found.features, expected.features)


def test_the_latest_block_in_reach_is_taken_and_the_next_one_kept() -> None:
    model = build_tiny()
    with ActivationCache(BYTES) as cache:
        events(model, FrozenActivations(cache, DEPTH, (1, 3)))
        _, steps = events(model, FrozenActivations(cache, 2, (1, 2, 3)), "one")
        assert steps == 4, "blocks 1 to 3 and the neck"
        _, steps = events(model, FrozenActivations(cache, 2, (1, 2, 3)), "another")
        assert steps == 3
        _, steps = events(model, FrozenActivations(cache, DEPTH, (1, 2, 3)), "the base once more")
        assert steps == 2


@pytest.mark.parametrize("reach", [0, -1])
def test_where_all_blocks_change_nothing_is_kept(reach: int) -> None:
    assert SsfConfig().first_changed_block(DEPTH) <= 0
    with ActivationCache(BYTES) as cache:
        events(build_tiny(), FrozenActivations(cache, reach, (0, 2, 3, reach)), "0123")
        assert cache.memory_bytes == 0


def test_what_an_adapter_changed_is_not_kept() -> None:
    with ActivationCache(BYTES) as cache:
        events(build_tiny(), FrozenActivations(cache, 2, (1, 2, 3)), "0123")
        _, steps = events(build_tiny(), FrozenActivations(cache, DEPTH, (1, 2, 3)))
    assert steps == 3, "from block 2: block 3 was reached by the adapter's tokens"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"seed": 1, "precision": "fp32"}, id="other weights"),
        pytest.param({"precision": "bf16"}, id="other precision"),
    ],
)
def test_other_models_have_activations_of_their_own(other: dict[str, Any]) -> None:
    with ActivationCache(BYTES) as cache:
        events(tiny("fp32"), FrozenActivations(cache, DEPTH, (2,)))
        _, steps = events(tiny(**other), FrozenActivations(cache, DEPTH, (2,)))
    assert steps == DEPTH + 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_tokens_beside_absolute_positions_are_kept_in_full(precision: str) -> None:
    model = tiny(precision)
    with ActivationCache(BYTES) as cache:
        embedding, _ = events(model, FrozenActivations(cache, DEPTH, (2,)))
        block, tokens = FrozenActivations(cache, DEPTH, (2,)).latest(embedding.key)
    assert block == 2
    assert tokens is not None
    assert tokens.dtype == torch.float32
    assert tokens.shape == (1, 8, 8, 16)


def test_a_bad_image_leaves_nothing(tmp_path: Path) -> None:
    with ActivationCache(BYTES) as cache:
        requests = [EncodeRequest("bad", np.full((9, 9), 7)), EncodeRequest("good", GREY)]
        list(encode(build_tiny(), requests, frozen=FrozenActivations(cache, DEPTH, (2,))))
        assert cache.memory_bytes == 8 * 8 * 16 * 4
    with pytest.raises(ImageError):
        encode_one(build_tiny(), np.full((9, 9), 7))


def test_embeddings_and_activations_share_one_budget(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, budget=40_000)
    model = build_tiny()
    rng = np.random.default_rng(0)
    with ActivationCache(BYTES, store, write_through=True) as cache:
        for _ in range(12):
            image = EncodeRequest("a", rng.random((20, 30)))
            list(encode(model, [image], store, frozen=FrozenActivations(cache, DEPTH, (2, 3))))
    assert 20_000 < store.size_bytes() <= 40_000 * 17 / 16
    newest = list(encode(model, [image], store))[-1]
    assert isinstance(newest, Encoded)
    assert newest.from_store
