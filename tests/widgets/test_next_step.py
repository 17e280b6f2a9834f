"""What the dock says comes next, in every situation."""

from __future__ import annotations

import pytest

from napari_peftsam.app.prompting import PromptState
from napari_peftsam.widgets._next_step import Situation, next_step

READY, FAILED = PromptState("ready"), PromptState("failed", reason="the image is constant")
EMBEDDING = PromptState("embedding", fraction=0.4)


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        pytest.param(Situation(READY, has_image=False), "Open an image", id="no image"),
        pytest.param(Situation(READY), "Click on an object to segment", id="no object"),
        pytest.param(Situation(READY, objects=1), "2 more and you can finetune", id="one object"),
        pytest.param(Situation(READY, objects=3), "or finetune", id="enough objects"),
        pytest.param(Situation(READY, tool="box"), "Drag a box", id="box tool"),
        pytest.param(Situation(READY, tool=""), "Choose Point or Box", id="no tool"),
        pytest.param(Situation(READY, painting=7), "object 7 by hand", id="brush"),
        pytest.param(Situation(FAILED), "the image is constant", id="failed"),
        pytest.param(Situation(EMBEDDING, prompts=1), "prompt is kept", id="waiting"),
        pytest.param(Situation(READY, prompts=1, has_mask=True), "Accept the mask", id="mask"),
        pytest.param(
            Situation(READY, prompts=1, has_mask=True, is_empty=True),
            "Nothing was found there",
            id="empty mask",
        ),
        pytest.param(Situation(READY, prompts=4), "4 objects are asked for", id="many boxes"),
    ],
)
def test_the_next_step_fits_the_situation(situation: Situation, expected: str) -> None:
    assert expected in next_step(situation)
