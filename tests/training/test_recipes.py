"""Recipes: the papers' settings, and what is recommended for a model and its memory."""

from __future__ import annotations

import pytest

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import architecture
from napari_peftsam.peft import CobotLoraConfig, FrozenEncoderConfig, LoraConfig, count_parameters
from napari_peftsam.training import RECIPES, RECOMMENDED, TrainingConfig, recipe

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "method", "rate"),
    [
        (
            "peft-sam",
            LoraConfig(rank=32, alpha=1, matrices="all-linear", placement="late-50%"),
            1e-5,
        ),
        (
            "peft-sam-many",
            LoraConfig(rank=32, alpha=1, matrices="all-linear", placement="late-50%"),
            1e-5,
        ),
        ("peft-sam-small", FrozenEncoderConfig(), 1e-5),
        ("cobot", CobotLoraConfig(rank=4, coefficient_lr_multiplier=100), None),
    ],
)
def test_the_papers_settings(name, method, rate) -> None:
    made = RECIPES[name]
    assert (made.method, made.learning_rate) == (method, rate)
    assert TrainingConfig(steps=1, **made.settings()).learning_rate == rate


def test_one_recipe_learns_many_objects_in_each_step() -> None:
    config = TrainingConfig(steps=1, **RECIPES["peft-sam-many"].settings())
    assert (config.objects_per_step, config.rounds) == (30, 4)


def test_peft_sam_trains_what_its_paper_says() -> None:
    counts = count_parameters(architecture("vit_b"), RECIPES["peft-sam"].method)
    assert counts.encoder == 2_359_296


@pytest.mark.parametrize(
    ("model", "memory", "method", "placement"),
    [
        ("builtin", None, "full-finetuning", None),
        ("builtin", 8, "full-finetuning", None),
        ("vit_t", 80, "frozen-encoder", None),
        ("vit_b", None, "frozen-encoder", None),
        ("vit_b", 6, "frozen-encoder", None),
        ("vit_b", 10, "lora", "last"),
        ("vit_b", 12, "lora", "late-25%"),
        ("vit_b", 16, "lora", "late-50%"),
        ("vit_l", 16, "lora", "last"),
        ("vit_l", 24, "lora", "late-25%"),
        ("vit_l", 32, "lora", "late-50%"),
        ("vit_h", 24, "lora", "late-25%"),
        ("vit_h", 80, "lora", "late-50%"),
    ],
)
def test_what_is_recommended(model, memory, method, placement) -> None:
    made = recipe(RECOMMENDED, architecture(model), memory and memory * GIB)
    found = getattr(made.method, "placement", None)
    assert (made.method.method, found and str(found)) == (method, placement)
    count_parameters(architecture(model), made.method)


@pytest.mark.parametrize("model", ["builtin", "vit_t", "vit_b", "vit_h"])
@pytest.mark.parametrize("memory", [None, 4 * GIB, 80 * GIB])
@pytest.mark.parametrize("name", [RECOMMENDED, *RECIPES])
def test_each_is_explained_in_one_sentence(name, memory, model) -> None:
    explanation = recipe(name, architecture(model), memory).explanation
    assert explanation.endswith(".")
    assert len(explanation) < 160
    assert "\n" not in explanation


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    message = "unknown recipe 'best': choose one of recommended, peft-sam, peft-sam-many, "
    message += "peft-sam-small, cobot"
    with pytest.raises(ConfigurationError, match=message):
        recipe("best", architecture("builtin"), None)
