"""How each method asks to be optimised: groups, rates, weight decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from napari_peftsam.peft import inject, parse_method_config
from tests.peft._cases import CASES, tiny

RATE, DECAY = 1e-4, 0.1
PUBLISHED = (".C", ".S", ".quaternion")
COEFFICIENTS = (*PUBLISHED, ".gamma")


@pytest.mark.parametrize(
    ("options", "special"),
    [
        pytest.param({"method": "lora"}, {}, id="lora"),
        pytest.param(
            {"method": "lora", "lora_plus_ratio": 16}, {"B": (16, DECAY, ".B")}, id="LoRA+"
        ),
        pytest.param(
            {"method": "dora", "lora_plus_ratio": 4},
            {"B": (4, DECAY, ".B"), "magnitudes": (1, 0, ".magnitude")},
            id="DoRA with LoRA+",
        ),
        pytest.param(
            {"method": "cobot-lora", "coefficient_rate": "100x", "lora_plus_ratio": 2},
            {"B": (2, DECAY, ".B"), "coefficients": (100, 0, COEFFICIENTS)},
            id="COBOT",
        ),
        pytest.param(
            {"method": "cobot-adaptformer", "bottleneck": 4},
            {
                "scales": (1, 0, ".mlp.scale"),
                "coefficients": (10, 0, COEFFICIENTS),
            },
            id="AdaptFormer with COBOT",
        ),
        pytest.param(
            {"method": "cobot-lora", "coefficient_rate": "1.25e-4", "fast_gamma": False},
            {"coefficients": (1.25, 0, PUBLISHED), "gamma": (1, 0, ".gamma")},
            id="COBOT as published",
        ),
        pytest.param(
            {"method": "cobot-lora", "relations": "fixed", "projection": "linear"},
            {"coefficients": (10, 0, (".C", ".gamma", ".linear"))},
            id="COBOT with fixed relations and a linear layer",
        ),
        pytest.param(
            {"method": "cobot-lora", "relations": "none", "projection": "none"},
            {"coefficients": (10, 0, (".C", ".gamma"))},
            id="coefficient sets alone",
        ),
        pytest.param({"method": "ssf"}, {"scales": (1, 0, (".gamma", ".beta"))}, id="SSF"),
    ],
)  # fmt: skip
def test_groups(options: dict[str, Any], special: dict[str, tuple[float, float, Any]]) -> None:
    injection = inject(tiny(), parse_method_config(options))
    parameters = injection.trainable_parameters()
    names = {id(p): n for n, p in parameters.items()}
    groups = {g["name"]: g for g in injection.parameter_groups(RATE, DECAY)}
    assert groups.keys() == {"main", *special}
    assert (groups["main"]["lr"], groups["main"]["weight_decay"]) == (RATE, DECAY)
    for name, (factor, decay, endings) in special.items():
        assert groups[name]["lr"] == pytest.approx(factor * RATE)
        assert groups[name]["weight_decay"] == decay
        found = {names[id(p)] for p in groups[name]["params"]}
        assert found == {n for n in parameters if n.endswith(endings)}


@pytest.mark.parametrize("rate", [1e-6, 1e-3])
def test_an_absolute_rate_does_not_follow_the_learning_rate(rate: float) -> None:
    config = parse_method_config({"method": "cobot-lora", "coefficient_rate": 1.5e-4})
    groups = {g["name"]: g for g in inject(tiny(), config).parameter_groups(rate, DECAY)}
    assert groups["coefficients"]["lr"] == 1.5e-4
    assert groups["main"]["lr"] == rate


@pytest.mark.parametrize("name", [n for n in CASES if n.endswith("-0,2")])
def test_every_parameter_is_in_one_group(name: str) -> None:
    injection = inject(tiny(), CASES[name])
    groups = injection.parameter_groups(RATE, DECAY)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in injection.trainable_parameters().values())
    torch.optim.AdamW(groups)
