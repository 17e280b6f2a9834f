"""Placement, options, and the one-line messages for what is wrong with them."""

from __future__ import annotations

import json
import pickle

import pytest
from pydantic import BaseModel, ValidationError

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft import (
    METHODS,
    CobotLoraConfig,
    FrozenEncoderConfig,
    LoraConfig,
    MethodField,
    Placement,
    parse_method_config,
)
from tests.peft._cases import CASES


@pytest.mark.parametrize(
    ("text", "depth", "blocks", "canonical"),
    [
        ("all", 3, (0, 1, 2), "all"),
        ("late-50%", 12, (6, 7, 8, 9, 10, 11), "late-50%"),
        ("late-25%", 12, (9, 10, 11), "late-25%"),
        ("late-25%", 4, (3,), "late-25%"),
        ("late-50%", 5, (2, 3, 4), "late-50%"),
        ("early-50%", 4, (0, 1), "early-50%"),
        ("late-1%", 12, (11,), "late-1%"),
        ("LATE-50% ", 2, (1,), "late-50%"),
        ("last", 12, (11,), "last"),
        ("first", 12, (0,), "first"),
        ("0,3,5-7", 12, (0, 3, 5, 6, 7), "0,3,5-7"),
        ("7, 5,6,0,0", 12, (0, 5, 6, 7), "0,5-7"),
        ("4", 5, (4,), "4"),
    ],
)
def test_placement(text, depth, blocks, canonical) -> None:
    placement = Placement.parse(text)
    assert placement.blocks(depth) == blocks
    assert str(placement) == canonical
    assert Placement.parse(str(placement)) == placement


@pytest.mark.parametrize(
    "text", ["", "middle", "late", "late-0%", "late-101%", "3-1", "1,,2", "-1", "1.5", "0-2-4"]
)
def test_unknown_placement(text) -> None:
    with pytest.raises(ConfigurationError, match="is not known: use all, late-50%"):
        Placement.parse(text)


def test_placement_outside_the_encoder() -> None:
    with pytest.raises(ConfigurationError, match=r"names block 12.*choose from 0-11"):
        Placement.parse("3,12").blocks(12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"no method is given: choose one of lora, cobot-lora, rslora, "),
        ({"method": "dora2"}, r"unknown method 'dora2': choose one of lora, "),
        ({"method": ["lora"]}, r"unknown method \['lora'\]"),
        ({"method": "lora", "rank": 0}, r"option 'rank' is 0, allowed is at least 1"),
        ({"method": "lora", "rank": 1.5}, r"option 'rank' is 1.5: .*valid integer"),
        ({"method": "lora", "alpha": 0}, r"option 'alpha' is 0, allowed is more than 0"),
        ({"method": "lora", "alpha": float("nan")}, r"option 'alpha' is nan, "),
        ({"method": "lora", "bias": 1}, r"unknown option 'bias', allowed are .*rank, alpha"),
        ({"method": "lora", "matrices": "proj"}, r"'proj' are not known: use attention, all-l"),
        (
            {"method": "lora", "matrices": []},
            r"'matrices' is \[\]: matrices '' are not known",
        ),
        ({"method": "fact", "dropout": 1.0}, r"'dropout' is 1.0, allowed is less than 1"),
        ({"method": "lora", "lora_plus_ratio": 0.5}, r"'lora_plus_ratio' is 0.5, .* at least 1"),
        (
            {"method": "lora", "decoder_lora_rank": 2, "tune_mask_decoder": False},
            r"^method lora: decoder_lora_rank is 2, but tune_mask_decoder is False: let",
        ),
        ({"method": "lora", "placement": "top"}, r"option 'placement' is 'top': .* use all"),
        ({"method": "lora", "placement": []}, r"option 'placement' is \[\]: .* is not known"),
        ({"method": "lora", "placement": 3}, r"option 'placement' is 3: "),
        ({"method": "cobot-lora", "rank": 6}, r"'rank' is 6, allowed is .* divisible by 4"),
        ({"method": "cobot-lora", "init": "zero"}, r"one of 'neutral' or 'official'"),
        (
            {"method": "cobot-lora", "coefficient_rate": "10"},
            r"use a factor .* as 10x, or a rate b",
        ),
        ({"method": "cobot-lora", "coefficient_rate": 0}, r"'coefficient_rate' is 0: use a factor"),
        ({"method": "cobot-lora", "coefficient_rate": "fast"}, r"'coefficient_rate' is 'fast': "),
        ({"method": "cobot-lora", "coefficient_rate": "nanx"}, r"'coefficient_rate' is 'nanx': "),
        ({"method": "cobot-lora", "relations": "some"}, r"one of 'learned', 'fixed' or 'none'"),
        ({"method": "adaptformer", "dropout": 1}, r"'dropout' is 1, allowed is less than 1"),
        ({"method": "frozen-encoder", "rank": 4}, r"unknown option 'rank'"),
        ({"method": "lora", "rank": 0, "alpha": -1}, r"'rank' is 0.*; option 'alpha' is -1"),
    ],
)
def test_wrong_options_are_explained_in_one_line(options, message) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        parse_method_config(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ({}, "10x"),
        ({"coefficient_rate": " 2.50X"}, "2.5x"),
        ({"coefficient_rate": "1.25e-4"}, "0.000125"),
        ({"coefficient_rate": 1e-5}, "1e-05"),
        ({"coefficient_lr_multiplier": 100.0}, "100x"),
        ({"coefficient_lr_multiplier": "3"}, "3x"),
    ],
    ids=str,
)
def test_rates_of_coefficients_are_factors_or_absolute(given, canonical) -> None:
    config = parse_method_config({"method": "cobot-adaptformer", **given})
    assert config.coefficient_rate == canonical
    assert parse_method_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
def test_configs_survive_json_and_pickle(config) -> None:
    text = json.dumps(config.model_dump(mode="json"))
    assert parse_method_config(json.loads(text)) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_placement_and_matrices_are_texts_or_lists() -> None:
    listed = LoraConfig.model_validate({"placement": [5, 0, 1], "matrices": ["v", "q", "k"]})
    assert listed == LoraConfig.model_validate({"placement": "0-1,5", "matrices": "q,k,v"})


def test_configs_are_frozen_and_refuse_unknown_options() -> None:
    with pytest.raises(ValidationError):
        LoraConfig().rank = 3
    with pytest.raises(ValidationError):
        LoraConfig(ranks=3)
    with pytest.raises(ValidationError, match="multiple of 4"):
        CobotLoraConfig(rank=6)


def test_any_method_is_a_field_of_another_config() -> None:
    class Training(BaseModel):
        method: MethodField = LoraConfig()

    made = Training.model_validate({"method": {"method": "cobot-lora", "placement": "last"}})
    assert made.method == CobotLoraConfig(placement=Placement("last"))
    assert made.model_dump(mode="json")["method"]["placement"] == "last"
    assert Training.model_validate_json(made.model_dump_json()) == made
    assert Training(method=FrozenEncoderConfig()).method == FrozenEncoderConfig()
    with pytest.raises(ValidationError, match="unknown method 'x'"):
        Training.model_validate({"method": {"method": "x"}})
    with pytest.raises(ValidationError):
        Training.model_validate({"method": 3})


@pytest.mark.parametrize(
    ("config", "block"),
    [
        (LoraConfig(), 0),
        (LoraConfig(placement=Placement("late-50%")), 6),
        (CobotLoraConfig(placement=Placement("3,5")), 3),
        (FrozenEncoderConfig(), 12),
    ],
)
def test_first_changed_block(config, block) -> None:
    assert config.first_changed_block(12) == block


@pytest.mark.parametrize("name", METHODS)
def test_every_method_describes_itself_and_its_options(name) -> None:
    method = METHODS[name]
    assert parse_method_config({"method": name}) == method()
    assert method.title
    assert method.description.endswith(".")
    assert method.changes
    assert method.use_when
    options = {key: field for key, field in method.model_fields.items() if key != "method"}
    assert all(option.title and option.description for option in options.values())
    defaults = method().model_dump(mode="json", exclude={"method"})
    assert defaults.keys() == options.keys()
    assert parse_method_config({"method": name, **defaults}) == method()
