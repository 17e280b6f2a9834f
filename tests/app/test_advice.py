"""The sentences that tell people what to do next, why something cannot be done, how it ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from napari_peftsam.app.adapters import AdapterEntry
from napari_peftsam.app.advice import (
    Situation,
    TrainingData,
    describe_adapter,
    describe_data,
    download_text,
    explain_adapter,
    explain_merging,
    explain_strength,
    explain_value,
    format_time,
    iou_text,
    next_step,
    outcome_text,
    plane_text,
    starting_text,
    why_no_training,
)
from napari_peftsam.evaluation import Answers, Trial, Verdict
from napari_peftsam.models import DownloadProgress, build_tiny
from napari_peftsam.peft import CobotLoraConfig, LoraConfig, capture, inject
from napari_peftsam.segmentation.engine import LiveAdapter
from napari_peftsam.training import TrainingConfig

# --- the next step -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        pytest.param(Situation("ready", has_image=False), "Open an image", id="no image"),
        pytest.param(Situation("ready"), "Click on an object to segment", id="no object"),
        pytest.param(Situation("ready", objects=1), "2 more and you can finetune", id="one object"),
        pytest.param(Situation("ready", objects=3), "or finetune", id="enough objects"),
        pytest.param(Situation("ready", tool="box"), "Drag a box", id="box tool"),
        pytest.param(
            Situation("ready", tool="box", proposal_keys=("A", "B", "C")),
            "A an object, B nothing, C another",
            id="a proposal",
        ),
        pytest.param(
            Situation("ready", tool="cut", proposal_keys=("A", "B", "C")),
            "Draw a line across an object",
            id="a tool beside a proposal",
        ),
        pytest.param(Situation("ready", tool=""), "Choose Point or Box", id="no tool"),
        pytest.param(Situation("ready", painting=7), "object 7 by hand", id="brush"),
        pytest.param(
            Situation("failed", reason="the image is constant"),
            "the image is constant",
            id="failed",
        ),
        pytest.param(Situation("embedding", prompts=1), "prompt is kept", id="waiting"),
        pytest.param(Situation("ready", prompts=1, has_mask=True), "Accept the mask", id="mask"),
        pytest.param(
            Situation("ready", prompts=1, has_mask=True, is_empty=True),
            "Nothing was found there",
            id="empty mask",
        ),
        pytest.param(Situation("ready", prompts=4), "4 objects are asked for", id="many boxes"),
    ],
)
def test_the_next_step_fits_the_situation(situation: Situation, expected: str) -> None:
    assert expected in next_step(situation)


# --- training ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            TrainingData(), "Accept at least 3 objects to finetune: annotate an image first.",
            id="nothing",
        ),
        pytest.param(
            TrainingData(1, 1), "1 object so far: accept 2 more objects to finetune.", id="one"
        ),
        pytest.param(
            TrainingData(1, 2), "2 objects so far: accept 1 more object to finetune.", id="two"
        ),
        pytest.param(TrainingData(1, 3), "Learns from 3 objects.", id="enough"),
        pytest.param(TrainingData(3, 41), "Learns from 41 objects in 3 images.", id="many"),
    ],
)  # fmt: skip
def test_the_data_or_the_next_step_are_named(data: TrainingData, expected: str) -> None:
    assert describe_data(data) == expected


def _outcome(saved: int, objects: int = 20, **changes: Any) -> str:
    """Return what is said of a run whose result saves 1, 0 or -1 clicks for each object."""
    new = {-1: (0.4, 0.6, 0.8), 0: (0.5, 0.8), 1: (0.8,)}[saved]
    trial = Trial("a", Answers((0.5,), (0.5, 0.8)), Answers(new[:1], new))
    trials = (trial,) * objects
    values: dict[str, Any] = {"before": "v2", "after": "", "steps": 9, "placement": "all"}
    return outcome_text(verdict=Verdict(trials), **(values | changes))


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param(
            _outcome(1, after="v3"),
            "v3 is live. Saves about 1.0 clicks per object (1.0–1.0, n = 20).",
            id="better",
        ),
        pytest.param(
            _outcome(0, objects=6),
            "No difference that 6 objects could show: the old one stays. Accept more objects, best "
            "in other images.",
            id="no difference on few objects",
        ),
        pytest.param(
            _outcome(0),
            "No difference that 20 objects could show: the old one stays. Train longer, or add "
            "objects that it gets wrong.",
            id="no difference",
        ),
        pytest.param(
            _outcome(0, objects=0),
            "No object was held out to compare the models on: the old one stays. Accept more "
            "objects, best in other images.",
            id="nothing held out",
        ),
        pytest.param(_outcome(0, steps=0), "Stopped before the first step, so v2 stays live.",
                     id="no step"),
        pytest.param(_outcome(0, steps=0, before="base"),
                     "Stopped before the first step, so the base model stays live.",
                     id="no step from the base"),
    ],
)  # fmt: skip
def test_the_end_of_a_run_is_said(outcome: str, expected: str) -> None:
    assert outcome == expected


@pytest.mark.parametrize(
    ("placement", "way"),
    [
        pytest.param("all", "let it change fewer parts of the model (Finetune… ▸ Placement).",
                     id="many blocks"),
        pytest.param("last", "let it learn more slowly (Finetune… ▸ Learning rate).",
                     id="few blocks"),
    ],
)  # fmt: skip
def test_a_worse_model_comes_with_a_way_out(placement: str, way: str) -> None:
    worse = "Costs about 1.0 more clicks per object (1.0–1.0, n = 20): the old one stays."
    advice = f"Add objects that it gets wrong, or {way}"
    assert _outcome(-1, placement=placement) == f"{worse} {advice}"


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        pytest.param({"seconds": 60}, "0:07 so far, then 1:00 of training.", id="seconds"),
        pytest.param({"steps": 200}, "0:07 so far, then 200 steps of training.", id="steps"),
        pytest.param({"epochs": 1}, "0:07 so far, then 1 epoch of training.", id="epochs"),
    ],
)
def test_the_start_says_how_long_it_takes(budget: dict[str, int], expected: str) -> None:
    assert starting_text(7.2, TrainingConfig(**budget)).endswith(expected)


def test_the_start_says_how_far_the_first_step_is() -> None:
    text = starting_text(7.2, TrainingConfig(steps=200), 0.4)
    assert text == "First step 40 %: 0:07 so far, then 200 steps of training."


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        pytest.param((), "cells", id="image"),
        pytest.param((12,), "plane 12 of cells", id="stack"),
        pytest.param((3, 12), "plane 3, 12 of cells", id="stack over time"),
    ],
)
def test_planes_of_stacks_are_named(index: tuple[int, ...], expected: str) -> None:
    assert plane_text("cells", index) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(-1, "0:00"), (34.4, "0:34"), (61, "1:01"), (3723, "1:02:03")]
)
def test_times_are_readable(seconds: float, expected: str) -> None:
    assert format_time(seconds) == expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param({"data": TrainingData(1, 1)}, "accept 2 more objects", id="few objects"),
        pytest.param({"has_model": False}, "still being loaded", id="no model yet"),
        pytest.param(
            {"has_model": False, "model_error": "no such file"}, "no such file", id="no model"
        ),
        pytest.param({"has_options": False}, "marked with ⚠", id="invalid options"),
        pytest.param({}, "", id="ready"),
    ],
)
def test_why_no_training_starts(state: dict[str, Any], expected: str) -> None:
    ready = {
        "data": TrainingData(1, 3), "has_model": True, "model_error": "", "has_options": True
    }  # fmt: skip
    reason = why_no_training(**{**ready, **state})
    assert expected in reason
    assert bool(reason) == bool(expected)


# --- options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "values", "expected"),
    [
        pytest.param(
            TrainingConfig, {"steps": 1, "learning_rate": "fast"},
            "must be a number such as 0.001", id="no number",
        ),
        pytest.param(
            TrainingConfig, {"steps": 1, "learning_rate": 0}, "must be more than 0", id="too low"
        ),
        pytest.param(CobotLoraConfig, {"rank": 6}, "must be divisible by 4", id="no multiple"),
        pytest.param(CobotLoraConfig, {"rank": -4}, "must be at least 4", id="below the minimum"),
        pytest.param(
            CobotLoraConfig, {"init": "new"}, "must be 'neutral' or 'official'", id="no choice"
        ),
        pytest.param(
            CobotLoraConfig, {"placement": "later"}, "placement 'later' is not known",
            id="own words",
        ),
        pytest.param(
            CobotLoraConfig, {"tune_mask_decoder": "perhaps"}, "'perhaps' is not allowed",
            id="other type",
        ),
    ],
)  # fmt: skip
def test_values_are_explained_without_the_words_of_pydantic(
    model: type[BaseModel], values: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    assert explain_value(caught.value.errors()[0]).startswith(expected)


# --- adapters and models -------------------------------------------------------------------


def test_the_base_model_is_neither_weakened_nor_refused_for_merging() -> None:
    base = AdapterEntry("base")
    assert describe_adapter(base) == "the model as it is"
    assert explain_adapter(base) == "Answer prompts with the model as it is"
    assert "no strength" in explain_strength(LiveAdapter()) == explain_strength(None)
    assert explain_merging(LiveAdapter()).startswith("Write a plain SAM checkpoint")


@pytest.mark.parametrize(
    ("judged", "expected"),
    [(0, "lora · all"), (1, "lora · all; it brings 1 judged proposal along"),
     (120, "lora · all; it brings 120 judged proposals along")],
)  # fmt: skip
def test_an_adapter_says_how_many_judgements_it_brings(judged: int, expected: str) -> None:
    adapter = capture(inject(build_tiny(), LoraConfig(rank=2, placement="all")))
    entry = AdapterEntry("v1", adapter.with_judged(np.zeros((judged, 17)), np.zeros(judged)))
    assert explain_adapter(entry) == f"Answer prompts with {expected}"


@pytest.mark.parametrize(
    ("entry", "measured", "text", "tip"),
    [
        pytest.param(AdapterEntry("base"), None, "", "last measured", id="not measured"),
        pytest.param(AdapterEntry("v1", iou=0.5), 0.756, "0.76", "last measured", id="measured"),
        pytest.param(AdapterEntry("v1", iou=0.5), None, "0.50", "last measured", id="trained"),
        pytest.param(
            AdapterEntry("a", iou=0.5, from_file=True), None, "(0.50)", "not to be compared",
            id="loaded",
        ),
    ],
)  # fmt: skip
def test_the_iou_of_other_objects_stands_in_brackets(
    entry: AdapterEntry, measured: float | None, text: str, tip: str
) -> None:
    shown, explained = iou_text(entry, measured)
    assert shown == text
    assert tip in explained


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        pytest.param(None, "◌ connecting", id="no answer"),
        pytest.param(DownloadProgress(5_000_000, None), "5 MB", id="unknown size"),
        pytest.param(DownloadProgress(5_000_000, 20_000_000), "5 of 20 MB", id="coming"),
        pytest.param(
            DownloadProgress(20_000_000, 20_000_000, verified=10), "◌ verifying", id="here"
        ),
    ],
)
def test_downloads_say_how_far_they_are(progress: DownloadProgress | None, expected: str) -> None:
    assert download_text(progress) == expected
