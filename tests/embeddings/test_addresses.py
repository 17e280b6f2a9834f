"""Addresses of embeddings and figures of predictions, recorded: stored files stay valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import xxhash
import zarr

from napari_peftsam.embeddings import EmbeddingKey, EmbeddingStore
from napari_peftsam.models import SamModel
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import Box, Plane, Point, Prompts

JOINT = "percentile-0.1-99.9-joint"


def noise(*shape: int) -> np.ndarray:
    """Return blobs of a few pixels, the same on every machine."""
    values = np.random.default_rng(7).integers(0, 250, shape, np.uint8)
    return np.repeat(np.repeat(values, 4, axis=0), 4, axis=1)


SMALL = noise(10, 12)
STACK = np.random.default_rng(8).integers(0, 4000, (3, 50, 41), np.uint16)
COLOURS = noise(16, 9, 3)
LARGE = noise(60, 75)  # 240 x 300: tiles
PLANES: dict[str, Plane] = {
    "small": SMALL, "plane of a stack": STACK[1], "colours": COLOURS, "large": LARGE,
}  # fmt: skip
PROMPTS = {
    "small": Prompts((Point(12, 20), Point(30, 5, positive=False))),
    "plane of a stack": Prompts(box=Box(5, 6, 30, 28)),
    "colours": Prompts((Point(40, 20),)),
    "large": Prompts(box=Box(30, 35, 75, 92)),  # over the borders of tiles
}
# The image's part of the plane's address and its normalisation; for the stored embeddings,
# how many there are and the hash of the image parts of their addresses.
KEYS = {
    "small": ("ec43a4b388ec84a2cf136114de3bc182", JOINT, 1, "214c44be88fd5a9c81588cb890281183"),
    "plane of a stack": (
        "ed6ecbe21a318afd5e26e9b72231b8ef",
        JOINT,
        1,
        "6fc7ec8adc80180e4681331b6b2e41f5",
    ),
    "colours": ("788eb80b8ebe5b7f61a59a98c57cfd57", JOINT, 1, "9296c985d2677dd87a08d35bc61ae4b4"),
    "large": (
        "91b1534fdc631b334a3428c231841b19",
        f"{JOINT}:0.0:249.0",
        25,
        "04e5dfc35abd83e9f0af737d3a8488ed",
    ),
}
# Shape of the logits, their sum and that of their absolute values; pixels of each candidate's
# mask; scores.
FIGURES = {
    "small": ((3, 32, 32), 15.0453, 99.6024, [1557, 1546, 93], [0.299261, 0.218906, 0.091529]),
    "plane of a stack": (
        (3, 32, 32), 7.4604, 95.8808, [1527, 1898, 35], [0.401032, 0.31209, 0.111368],
    ),
    "colours": ((3, 32, 32), -86.5415, 124.8009, [1711, 99, 11], [0.175275, 0.112329, 0.0]),
    "large": (
        (3, 120, 126), -2490.1969, 4753.5832, [48415, 49035, 45060], [0.342849, 0.268023, 0.123009],
    ),
}  # fmt: skip


def test_the_name_of_an_entry_is_made_of_the_key() -> None:
    key = EmbeddingKey("0123", "abcd", "base", JOINT, 64, "fp32")
    assert key.digest == "6f8a5cd9f4a345d2f94842fc253efbf5"


@pytest.mark.parametrize("name", PLANES)
def test_addresses_and_predictions_are_those_recorded(
    name: str, tiny_model: SamModel, tmp_path: Path
) -> None:
    engine, plane = Engine(tiny_model, EmbeddingStore(tmp_path)), PLANES[name]
    engine.keeps_activations = False
    list(engine.embed(name, plane))
    embedding = engine.embedding(plane, name)
    assert embedding is not None
    found = engine.predict(embedding, PROMPTS[name])
    assert found is not None
    keys = [_stored_key(path) for path in tmp_path.glob("*.zarr")]
    key, parts = embedding.key, "".join(sorted(key.image for key in keys))
    found_keys = (key.image, key.normalisation, len(keys), xxhash.xxh128_hexdigest(parts.encode()))
    assert found_keys == KEYS[name]
    normalised = {(each.model, each.adapter, each.normalisation) for each in keys}
    assert normalised == {(tiny_model.weights_hash, "base", key.normalisation)}
    shape, total, size, pixels, scores = FIGURES[name]
    assert found.logits.shape == shape
    if tiny_model.precision != "bf16":
        pytest.skip("figures are recorded in bfloat16, which this processor does not compute in")
    assert found.logits.sum(dtype=np.float64) == pytest.approx(total, rel=1e-5, abs=1e-3)
    assert np.abs(found.logits).sum(dtype=np.float64) == pytest.approx(size, rel=1e-5)
    assert found.masks.sum(axis=(1, 2)).tolist() == pixels
    assert found.scores.tolist() == pytest.approx(scores, abs=1e-5)


def _stored_key(path: Path) -> EmbeddingKey:
    """Return the key of an entry, by which it must be named."""
    attributes = dict(zarr.open_array(path, mode="r").attrs)
    key = EmbeddingKey(**cast("dict[str, Any]", attributes["key"]))
    assert path.stem == key.digest
    return key
