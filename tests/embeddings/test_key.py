"""An embedding's address: everything it depends on, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_peftsam.embeddings import EmbeddingKey, embedding_key, image_signature
from napari_peftsam.errors import ImageError
from napari_peftsam.models import build_tiny
from napari_peftsam.normalisation import NORMALISATION

KEY = EmbeddingKey("image", "model", "base", "normalisation", 64, "fp32")
PIXELS = np.arange(24, dtype=np.uint16).reshape(4, 6)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(PIXELS + np.uint16(1), id="values"),
        pytest.param(PIXELS.astype(np.int16), id="type"),
        pytest.param(PIXELS.reshape(6, 4), id="shape"),
        pytest.param(PIXELS.T, id="transposed"),
        pytest.param(PIXELS[:, ::-1], id="mirrored"),
    ],
)
def test_another_image_has_another_signature(other: np.ndarray) -> None:
    assert image_signature(other) != image_signature(PIXELS)


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(np.asfortranarray(PIXELS), id="column order"),
        pytest.param(np.repeat(PIXELS, 2, axis=1)[:, ::2], id="strided view"),
    ],
)
def test_memory_layout_does_not_count(same: np.ndarray) -> None:
    assert image_signature(same) == image_signature(PIXELS)


def test_python_objects_are_no_image() -> None:
    with pytest.raises(ImageError, match="real numbers"):
        image_signature(np.array([[None, "a"]]))


@pytest.mark.parametrize(
    "change",
    [
        {"image": "b"},
        {"model": "b"},
        {"adapter": "b"},
        {"normalisation": "b"},
        {"image_size": 128},
        {"precision": "bf16"},
        {"orientations": 2},
        {"image": "imagemodel", "model": ""},
    ],
    ids="+".join,
)
def test_every_part_of_the_key_changes_the_digest(change: dict[str, str | int]) -> None:
    other = replace(KEY, **change)
    assert other.digest != KEY.digest
    assert len(other.digest) == len(KEY.digest) == 32


def test_key_names_image_model_adapter_and_normalisation() -> None:
    model = build_tiny()
    key = embedding_key(model, PIXELS, "adapter-digest")
    assert key == EmbeddingKey(
        image_signature(PIXELS),
        model.weights_hash,
        "adapter-digest",
        NORMALISATION,
        64,
        model.precision,
    )
