"""The numbers of trainable parameters that the papers and their code give, on the real networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from napari_peftsam.models import SamModel, architecture, construct
from napari_peftsam.peft import (
    METHODS,
    ParameterCounts,
    count_parameters,
    inject,
    parse_method_config,
    with_cobot,
)

MASK_DECODER, PROMPT_ENCODER = 4_058_340, 6_220

ALL_LINEAR = {"matrices": "all-linear"}
ADAPTER_16 = {"bottleneck": 16, "learn_scale": False}

# architecture, method, options, trainable parameters of the encoder
ENCODER: list[tuple[str, str, dict[str, Any], int]] = [
    ("vit_b", "lora", {"rank": 1}, 36_864),
    ("vit_b", "lora", {"rank": 4}, 147_456),
    ("vit_b", "lora", {"rank": 8}, 294_912),
    ("vit_b", "lora", {"rank": 16}, 589_824),
    ("vit_b", "lora", {"rank": 32}, 1_179_648),
    ("vit_b", "lora", {"rank": 64}, 2_359_296),
    ("vit_b", "lora", {"rank": 32} | ALL_LINEAR, 4_718_592),
    ("vit_b", "lora", {"rank": 32, "placement": "late-50%"} | ALL_LINEAR, 2_359_296),
    ("vit_b", "lora", {"rank": 32, "placement": "late-50%"}, 589_824),
    ("vit_l", "lora", {"rank": 32}, 3_145_728),
    ("vit_h", "lora", {"rank": 32}, 5_242_880),
    ("vit_b", "rslora", {"rank": 32}, 1_179_648),
    ("vit_b", "pissa", {"rank": 32}, 1_179_648),
    ("vit_b", "qlora", {"rank": 32}, 1_179_648),
    # LoRA's and the lengths of all rows of the fused layers: 12 * 2304.
    ("vit_b", "dora", {"rank": 32}, 1_207_296),
    ("vit_b", "dora", {"rank": 32, "matrices": "q,k,v"}, 1_769_472 + 27_648),
    ("vit_b", "fact", {"rank": 16}, 30_720),
    ("vit_b", "fact", {"rank": 4}, 6_528),
    ("vit_b", "fact", {"rank": 16, "shared": False}, 301_056),
    ("vit_b", "fact", {"rank": 4, "shared": False}, 74_112),
    ("vit_b", "ssf", {"patch_embedding": False}, 202_752),
    ("vit_b", "ssf", {"patch_embedding": True}, 204_288),
    ("vit_b", "adaptformer", {"bottleneck": 64}, 1_189_644),
    ("vit_b", "adaptformer", {"bottleneck": 128}, 2_370_060),
    ("vit_b", "adaptformer", {"bottleneck": 256}, 4_730_892),
    ("vit_b", "adaptformer", ADAPTER_16, 304_320),
    ("vit_b", "adaptformer", {"bottleneck": 16}, 304_320 + 12),
    ("vit_b", "adaptformer", ADAPTER_16 | {"input_norm": True}, 322_752),
    ("vit_b", "attention-tuning", {}, 28_441_088),
    ("vit_b", "bias-tuning", {}, 101_376),
    ("vit_b", "layernorm-tuning", {}, 36_864),
    ("vit_b", "late-finetuning", {}, 42_573_568),
    ("vit_b", "late-finetuning", {"placement": "late-50%"}, 42_573_568),
    ("vit_b", "late-finetuning", {"placement": "late-25%"}, 21_286_784),
    ("vit_b", "late-finetuning", {"placement": "last"}, 7_104_128),
    ("vit_b", "late-finetuning", {"placement": "first"}, 7_091_328),  # attends in windows
    ("vit_b", "frozen-encoder", {}, 0),
    ("vit_t", "frozen-encoder", {}, 0),
    ("vit_b", "full-finetuning", {}, 89_670_912),
    ("vit_b", "cobot-lora", {"rank": 4}, 148_320),
    ("vit_b", "cobot-adaptformer", ADAPTER_16 | {"input_norm": True}, 324_048),
]

# architecture, method, options, slots, parameters more than without COBOT
COBOT: list[tuple[str, str, dict[str, Any], int, int]] = [
    ("vit_b", "lora", {"rank": 4}, 24, 864),
    ("vit_b", "lora", {"rank": 32}, 24, 8_256),
    ("vit_b", "lora", {"rank": 32, "placement": "late-50%"}, 12, 3_984),
    ("vit_b", "lora", {"rank": 32, "placement": "late-50%"} | ALL_LINEAR, 30, 10_500),
    ("vit_l", "lora", {"rank": 4}, 48, 2_880),
    ("vit_h", "lora", {"rank": 4}, 64, 4_864),
    ("vit_b", "adaptformer", ADAPTER_16 | {"input_norm": True}, 12, 1_296),
    ("vit_l", "adaptformer", ADAPTER_16, 24, 2_880),
    ("vit_h", "adaptformer", ADAPTER_16, 32, 4_096),
]

# method, options, ablation, parameters more than without COBOT, on ViT-B: with V the width and T
# the slots, 2 V T coefficients, T^2 relations, T V^2 / 4 of the quaternion layer or T V^2
ABLATIONS: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
    ("lora", {"rank": 4}, {"relations": "none", "projection": "none"}, 192),
    ("lora", {"rank": 4}, {"projection": "none"}, 192 + 576),
    ("lora", {"rank": 4}, {"relations": "none"}, 192 + 96),
    ("lora", {"rank": 4}, {"relations": "fixed"}, 192 + 96),
    ("lora", {"rank": 4}, {"projection": "linear"}, 192 + 576 + 384),
    ("adaptformer", ADAPTER_16, {"relations": "none", "projection": "none"}, 384),
    ("adaptformer", ADAPTER_16, {"relations": "fixed"}, 384 + 768),
    ("adaptformer", ADAPTER_16, {"projection": "linear"}, 384 + 144 + 3_072),
]


def counts(model: str, method: str, options: dict[str, Any]) -> ParameterCounts:
    return count_parameters(architecture(model), parse_method_config({"method": method, **options}))


def label(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={v}" for name, v in value.items())
    return str(value)


@pytest.mark.parametrize(("model", "method", "options", "encoder"), ENCODER, ids=label)
def test_published_counts(model, method, options, encoder) -> None:
    found = counts(model, method, options)
    assert (found.encoder, found.total) == (encoder, encoder + MASK_DECODER + PROMPT_ENCODER)


@pytest.mark.parametrize(("model", "method", "options", "slots", "more"), COBOT, ids=label)
def test_what_cobot_adds(model, method, options, slots, more) -> None:
    plain = counts(model, method, options)
    orchestrated = counts(model, with_cobot(method), options)
    assert orchestrated.encoder - plain.encoder == more
    width = options.get("rank", options.get("bottleneck"))
    assert more == 2 * width * slots + slots**2 + slots * width**2 // 4
    arch = architecture(model)
    with torch.device("meta"):
        sam = SamModel(arch.name, arch, construct(arch), "")
    injection = inject(sam, parse_method_config({"method": with_cobot(method), **options}))
    assert injection.trainable_parameters()["encoder.cobot_hub.S"].shape == (slots, slots)


@pytest.mark.parametrize(("method", "options", "ablation", "more"), ABLATIONS, ids=label)
def test_what_cobot_adds_without_a_part(method, options, ablation, more) -> None:
    orchestrated = counts("vit_b", with_cobot(method), options | ablation)
    assert orchestrated.encoder - counts("vit_b", method, options).encoder == more


@pytest.mark.parametrize(
    ("options", "beside"),
    [
        ({}, MASK_DECODER + PROMPT_ENCODER),
        ({"tune_mask_decoder": False}, PROMPT_ENCODER),
        ({"tune_prompt_encoder": False}, MASK_DECODER),
        # q and v of two layers (one 256 -> 256, two 256 -> 128) and of the last attention
        ({"decoder_lora_rank": 4, "tune_prompt_encoder": False}, 2 * (4_096 + 2 * 3_072) + 3_072),
    ],
    ids=label,
)
def test_what_is_trained_beside_the_encoder(options, beside) -> None:
    found = counts("vit_b", "lora", {"rank": 4, **options})
    assert (found.encoder, found.total) == (147_456, 147_456 + beside)


def test_the_orchestrated_methods_are_there() -> None:
    forms = {name: method.cobot for name, method in METHODS.items() if method.cobot}
    assert forms == {"lora": "cobot-lora", "adaptformer": "cobot-adaptformer"}
    assert all("coefficient_rate" in METHODS[n].model_fields for n in forms.values())
    assert [with_cobot(name) for name in forms.values()] == list(forms.values())
