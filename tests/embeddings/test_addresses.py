"""Addresses of embeddings and figures of predictions, recorded: stored files stay valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.app.engine import Engine
from napari_peftsam.embeddings import EmbeddingKey, EmbeddingStore
from napari_peftsam.models import SamModel
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
# The image's part of the address and its normalisation, then for each stored embedding.
PLANE_KEYS = {}
STORED = {}
# Shape of the logits, their sum and that of their absolute values; pixels of each candidate's
# mask; scores.
FIGURES = {}


def test_the_name_of_an_entry_is_made_of_the_key() -> None:
    key = EmbeddingKey("0123", "abcd", "base", JOINT, 64, "fp32")
    assert key.digest == "DIGEST"


@pytest.mark.parametrize("name", PLANES)
def test_addresses_and_predictions_are_those_recorded(
    name: str, tiny_model: SamModel, tmp_path: Path
) -> None:
    engine, plane = Engine(tiny_model, EmbeddingStore(tmp_path)), PLANES[name]
    engine.keeps_prefixes = False
    list(engine.embed(name, plane))
    embedding = engine.embedding(plane, name)
    assert embedding is not None
    key = embedding.key
    assert (key.image, key.normalisation) == PLANE_KEYS[name]
    found = engine.predict(embedding, PROMPTS[name])
    assert found is not None
    stored = {
        EmbeddingKey(image, tiny_model.weights_hash, "base", key.normalisation, 64, "fp32").digest
        for image in STORED[name]
    }
    assert {path.stem for path in tmp_path.glob("*.zarr")} == stored
    shape, total, size, pixels, scores = FIGURES[name]
    assert found.logits.shape == shape
    assert found.logits.sum(dtype=np.float64) == pytest.approx(total, rel=1e-5, abs=1e-3)
    assert np.abs(found.logits).sum(dtype=np.float64) == pytest.approx(size, rel=1e-5)
    assert found.masks.sum(axis=(1, 2)).tolist() == pixels
    assert found.scores.tolist() == pytest.approx(scores, abs=1e-5)
