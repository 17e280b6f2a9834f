"""Masks in pixels as mask prompts, for planes of one tile and of several."""

from __future__ import annotations

import numpy as np
import pytest

from napari_peftsam.embeddings import PlaneReady
from napari_peftsam.models import build_tiny
from napari_peftsam.segmentation import mask_prompt_of
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import Box, Prompts


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(build_tiny())


def embedded(engine: Engine, shape: tuple[int, int]) -> object:
    pixels = np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16)
    *_, ready = (e for e in engine.embed("x", pixels) if isinstance(e, PlaneReady))
    return ready.embedding


@pytest.mark.parametrize("shape", [(48, 60), (64, 20)], ids=str)
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut out"])
def test_a_mask_is_sampled_where_the_decoder_sees_it(
    engine: Engine, shape: tuple[int, int], is_cut: bool
) -> None:
    embedding = embedded(engine, shape)
    whole = np.zeros(shape, bool)
    whole[10:30, 5:15] = True
    part, offset = (whole[10:30, 5:15], (10, 5)) if is_cut else (whole, (0, 0))
    found = mask_prompt_of(embedding, part, offset)
    side = found.logits.shape[0]
    scale = max(shape) / side
    for row in range(side):
        for col in range(side):
            at = int((row + 0.5) * scale), int((col + 0.5) * scale)
            inside = at[0] < shape[0] and at[1] < shape[1] and whole[at]
            assert (found.logits[row, col] > 0) == inside


@pytest.mark.parametrize("shape", [(48, 60), (200, 300)], ids=["one tile", "several"])
def test_a_mask_is_refined(engine: Engine, shape: tuple[int, int]) -> None:
    embedding = embedded(engine, shape)
    prompts = Prompts(box=Box(10, 10, 40, 40))
    plain = engine.predict(embedding, prompts)
    mask = np.ones((30, 30), bool)
    refined = engine.predict(embedding, prompts, mask_prompt_of(embedding, mask, (10, 10)))
    assert plain is not None
    assert refined is not None
    assert refined.plane_shape == shape
    assert refined.logits.tobytes() != plain.logits.tobytes()
