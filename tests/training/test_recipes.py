"""Recipes: the papers' settings, and what is recommended for a model and its memory."""

from __future__ import annotations

import pytest

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import architecture, build_random, build_tiny
from napari_peftsam.peft import (
    CobotLoraConfig,
    FrozenEncoderConfig,
    LoraConfig,
    count_parameters,
    inject,
    parse_method_config,
)
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
        (
            "peft-sam-trainer",
            LoraConfig(rank=32, alpha=1, matrices="all-linear", placement="late-50%"),
            1e-5,
        ),
        (
            "cobot",
            CobotLoraConfig(rank=4, init="official", coefficient_rate="1.25e-4", fast_gamma=False),
            1e-4,
        ),
        (
            "cobot-adaptformer",
            parse_method_config(
                {
                    "method": "cobot-adaptformer",
                    "bottleneck": 16,
                    "input_norm": True,
                    "scale": 1.0,
                    "learn_scale": False,
                    "dropout": 0.1,
                    "init": "official",
                    "coefficient_rate": "1.25e-4",
                    "fast_gamma": False,
                }
            ),
            1e-4,
        ),
    ],
)
def test_the_papers_settings(name, method, rate) -> None:
    made = RECIPES[name]
    assert (made.method, made.learning_rate) == (method, rate)
    assert TrainingConfig(steps=1, **made.settings()).learning_rate == rate


def test_one_recipe_learns_many_objects_in_each_step() -> None:
    config = TrainingConfig(steps=1, **RECIPES["peft-sam-many"].settings())
    assert (config.objects_per_step, config.rounds) == (30, 4)


def test_one_recipe_trains_as_peft_sams_trainer() -> None:
    config = TrainingConfig(steps=1, **RECIPES["peft-sam-trainer"].settings())
    assert (config.rounds, config.objects_per_step, config.images_per_step) == (8, 25, 2)
    assert (config.loss, config.prompts) == ("dice", "peft-sam")
    assert (config.schedule, config.early_stopping, config.validations) == ("plateau", 10, 0)
    assert config.weight_decay == 0.01  # of torch's AdamW, which it leaves alone


@pytest.mark.parametrize("name", ["cobot", "cobot-adaptformer"])
@pytest.mark.parametrize("model", ["builtin", "tiny"])
def test_cobot_learns_at_published_rates_in_published_groups(name: str, model: str) -> None:
    made = RECIPES[name]
    sam = build_tiny() if model == "tiny" else build_random(model)
    groups = inject(sam, made.method).parameter_groups(made.learning_rate, 0.01)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"main": 1e-4, "coefficients": 1.25e-4, "gamma": 1e-4}


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("peft-sam", 2_359_296),
        ("peft-sam-trainer", 2_359_296),
        ("cobot", 148_320),  # the paper prints 148.3 K ...
        ("cobot-adaptformer", 324_048),  # ... and 324.0 K
    ],
)
def test_a_recipe_trains_what_its_paper_says(name: str, encoder: int) -> None:
    assert count_parameters(architecture("vit_b"), RECIPES[name].method).encoder == encoder


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
    message += "peft-sam-small, peft-sam-trainer, cobot, cobot-adaptformer"
    with pytest.raises(ConfigurationError, match=message):
        recipe("best", architecture("builtin"), None)
