"""What ``methods`` shows: every method, its options in effect, its exact counts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from napari_peftsam.peft import METHODS
from tests.cli._cases import Program

KEYS = [
    "name", "title", "trainable_encoder_parameters", "trainable_parameters", "mergeable",
    "options", "description", "changes", "use_when", "unavailable", "problem",
]  # fmt: skip
VIT_B = ("--architecture", "vit_b")
BESIDE_ENCODER = 4_064_560


def listed(program: Program, *options: str) -> dict[str, dict[str, Any]]:
    outcome = program("methods", *options, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert isinstance(found, list)
    return {entry["name"]: entry for entry in found}


@pytest.mark.parametrize("architecture", ["builtin", "vit_b", "vit_l", "vit_h"])
def test_all_methods(architecture: str, program: Program) -> None:
    entries = listed(program, "--architecture", architecture)
    assert list(entries) == list(METHODS)
    for name, method in METHODS.items():
        entry = entries[name]
        assert list(entry) == KEYS
        assert entry["options"] == method().model_dump(mode="json", exclude={"method"})
        assert entry["mergeable"] is (name not in ("adaptformer", "cobot-adaptformer"))
        assert entry["problem"] is None
    assert entries["frozen-encoder"]["trainable_encoder_parameters"] == 0
    beside = entries["frozen-encoder"]["trainable_parameters"]
    assert beside == (780_928 if architecture == "builtin" else BESIDE_ENCODER)
    for entry in entries.values():
        assert entry["trainable_parameters"] - entry["trainable_encoder_parameters"] == beside


def test_the_builtin_model_is_the_default(program: Program) -> None:
    assert listed(program) == listed(program, "--architecture", "builtin")


@pytest.mark.parametrize(
    ("options", "name", "encoder", "values"),
    [
        ("--method lora --rank 32", "lora", 1_179_648, {"rank": 32, "matrices": "attention"}),
        (
            "--method lora --rank 32 --matrices all-linear --placement late-50%",
            "lora", 2_359_296, {"matrices": "all-linear", "placement": "late-50%"},
        ),
        ("--method lora --cobot --rank 4", "cobot-lora", 148_320, {"init": "neutral"}),
        ("--method cobot-lora --cobot --rank 4", "cobot-lora", 148_320, {"rank": 4}),
        ("--method Cobot_LoRA --rank 4", "cobot-lora", 148_320, {"rank": 4}),
        ("--cobot --method lora --set init=official", "cobot-lora", 296_256, {"init": "official"}),
        (
            "--method adaptformer --cobot --set input-norm=true --set learn_scale=false",
            "cobot-adaptformer", 324_048, {"bottleneck": 16, "learn_scale": False},
        ),
        ("--method fact --rank 4 --set shared=no", "fact", 74_112, {"shared": False}),
        ("--method ssf --set patch_embedding=0", "ssf", 202_752, {"patch_embedding": False}),
        ("--method lora --alpha 0.5 --set lora_plus_ratio=16", "lora", 294_912,
         {"alpha": 0.5, "lora_plus_ratio": 16.0}),
    ],
)  # fmt: skip
def test_one_method(
    options: str, name: str, encoder: int, values: dict[str, object], program: Program
) -> None:
    entries = listed(program, *VIT_B, *options.split())
    assert list(entries) == [name]
    assert entries[name]["trainable_encoder_parameters"] == encoder
    assert entries[name]["trainable_parameters"] == encoder + BESIDE_ENCODER
    assert entries[name]["options"].items() >= values.items()


def test_lora_in_the_mask_decoder(program: Program) -> None:
    options = ("--method", "frozen-encoder", "--decoder-lora-rank", "4")
    [entry] = listed(program, *VIT_B, *options).values()
    assert entry["trainable_encoder_parameters"] == 0
    # q and v of two layers (256 -> 256, twice 256 -> 128) and of the last attention
    layers = 2 * (2 * 4 * (256 + 256) + 2 * 2 * 4 * (256 + 128)) + 2 * 4 * (256 + 128)
    assert entry["trainable_parameters"] == layers + 6_220


def test_an_option_applies_to_the_methods_that_have_it(program: Program) -> None:
    plain = listed(program, *VIT_B)
    entries = listed(program, *VIT_B, "--rank", "32", "--bottleneck", "128")
    assert list(entries) == list(METHODS)
    for name, entry in entries.items():
        fields = METHODS[name].model_fields
        if "rank" in fields or "bottleneck" in fields:
            assert entry["options"].get("rank", 32) == 32
            assert entry["options"].get("bottleneck", 128) == 128
        else:
            assert entry == plain[name]
    assert entries["rslora"]["trainable_encoder_parameters"] == 1_179_648
    assert entries["adaptformer"]["trainable_encoder_parameters"] == 2_370_060


def test_with_cobot_the_orchestrated_methods_are_listed(program: Program) -> None:
    assert list(listed(program, "--cobot")) == ["cobot-lora", "cobot-adaptformer"]


def test_what_one_method_cannot_take_is_its_problem(program: Program) -> None:
    entries = listed(program, *VIT_B, "--rank", "6")
    assert [name for name, entry in entries.items() if entry["problem"]] == ["cobot-lora"]
    entry = entries["cobot-lora"]
    assert entry["trainable_encoder_parameters"] is entry["trainable_parameters"] is None
    assert entry["problem"].endswith("option 'rank' is 6, allowed is a number divisible by 4")
    assert entry["options"]["rank"] == 6
    assert entries["lora"]["trainable_encoder_parameters"] == 221_184


def test_an_encoder_that_takes_no_adapters(program: Program) -> None:
    entries = listed(program, "--architecture", "vit_t")
    usable = [name for name, entry in entries.items() if not entry["problem"]]
    assert usable == ["frozen-encoder"]
    assert "no adapters fit" in entries["lora"]["problem"]


def test_the_table_is_aligned(program: Program) -> None:
    title, head, *rows = program("methods", *VIT_B, "--rank", "6").out.splitlines()
    assert "vit_b" in title
    assert [row.split()[0] for row in rows] == list(METHODS)
    ends = {row.index(" yes " if " yes " in row else " no ") for row in rows}
    merges = head.index("merges") + len("merges")
    assert {row[merges - 3 : merges].strip() for row in rows} == {"yes", "no"}
    assert len(ends) == 2  # right-aligned, so "no" begins one later
    lora, cobot = rows[:2]
    assert lora.split()[1:4] == ["221,184", "4,285,744", "yes"]
    assert cobot.split()[1:4] == ["-", "-", "yes"]
    assert "divisible by 4" in cobot
