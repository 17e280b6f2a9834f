"""Folders that HF peft wrote by itself become adapters, or are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as HfLoraConfig
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_peftsam.errors import AdapterMismatchError, PeftSamError
from napari_peftsam.peft import import_adapter, inject
from tests.peft._cases import image, outputs, perturb, tiny
from tests.peft._exchange import BLOCK, CONFIG, WEIGHTS, assert_same

QKV = [f"{BLOCK}{block}.attn.qkv" for block in (1, 3)]
LIN1 = [f"{BLOCK}{block}.mlp.lin1" for block in (1, 3)]


def vanilla(folder: Path, into_encoder: bool = False, **options: Any) -> Tensor:
    """Let peft make, move and save an adapter; return what it computes."""
    model = tiny()
    root = model.sam.image_encoder if into_encoder else model.sam
    theirs = get_peft_model(root, HfLoraConfig(**{"target_modules": QKV, **options}))
    if into_encoder:
        model.sam.image_encoder = theirs.base_model.model
    perturb({n: p for n, p in theirs.named_parameters() if p.requires_grad}, 0.05)
    theirs.eval().save_pretrained(folder)
    return outputs(model, image())


VANILLA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fused": ({"r": 4, "lora_alpha": 8}, {"rank": 4, "alpha": 2.0, "matrices": "q,k,v"}),
    "rank-stabilised": (
        {"r": 4, "lora_alpha": 8, "use_rslora": True}, {"rank": 4, "alpha": 4.0},
    ),
    "separate": (
        {"r": 3, "lora_alpha": 3, "target_modules": LIN1}, {"rank": 3, "matrices": "lin1"},
    ),
    "all of it": (
        {"r": 2, "target_modules": r".*blocks\.\d\.(attn\.qkv|mlp\.lin[12])"},
        {"rank": 2, "alpha": 4.0, "matrices": "all-linear", "placement": "all"},
    ),
    "ranks and factors by name": (
        {
            "r": 2, "lora_alpha": 2, "target_modules": QKV + LIN1, "rank_pattern": {"lin1": 4},
            "alpha_pattern": {r"blocks\.3\..*": 6},
        },
        {"rank": 4, "alpha": 1.0, "matrices": "q,k,v,lin1"},
    ),
    "DoRA": (
        {"r": 2, "use_dora": True, "target_modules": QKV + LIN1},
        {"method": "dora", "rank": 2, "matrices": "q,k,v,lin1"},
    ),
    "with the decoder": (
        {"r": 2, "modules_to_save": ["mask_decoder", "prompt_encoder"]},
        {"tune_mask_decoder": True, "tune_prompt_encoder": True},
    ),
    "LoRA in the decoder": (
        {"r": 2, "target_modules": [*QKV, "q_proj", "v_proj"]},
        {"decoder_lora_rank": 2, "tune_prompt_encoder": False},
    ),
    "into the encoder alone": (
        {"r": 2, "into_encoder": True, "target_modules": [".".join(q.split(".")[1:]) for q in QKV]},
        {"rank": 2},
    ),
    "another start": ({"r": 2, "init_lora_weights": "gaussian"}, {"rank": 2}),
}  # fmt: skip


@pytest.mark.parametrize(("theirs", "ours"), VANILLA.values(), ids=VANILLA.keys())
def test_what_vanilla_peft_trained_computes_the_same_here(
    theirs: dict[str, Any], ours: dict[str, Any], tmp_path: Path
) -> None:
    expected = vanilla(tmp_path / "hf", **theirs)
    found = import_adapter(tmp_path / "hf", tiny())
    assert_same(found, expected)
    wanted = {"method": "lora", "placement": "1,3", "tune_mask_decoder": False, **ours}
    if "decoder_lora_rank" in ours:
        wanted["tune_mask_decoder"] = True
    options = found.config.model_dump(mode="json")
    assert {name: options[name] for name in wanted} == wanted
    assert found.provenance == {"imported_from": "hf"}
    again = inject(tiny(), found.config)  # and it can be trained
    assert again.trainable_parameters().keys() == found.tensors.keys()


def test_a_shared_matrix_is_copied(tmp_path: Path) -> None:
    vanilla(tmp_path / "hf", r=4)
    shared = load_file(tmp_path / "hf" / WEIGHTS)[f"base_model.model.{QKV[0]}.lora_A.weight"]
    tensors = import_adapter(tmp_path / "hf", tiny()).tensors
    for part in "qkv":
        assert torch.equal(tensors[f"encoder.blocks.1.attn.qkv.slots.{part}.A"], shared)


def test_missing_ranks_are_new_directions_without_effect(tmp_path: Path) -> None:
    vanilla(tmp_path / "hf", r=2, target_modules=QKV + LIN1, rank_pattern={"lin1": 4})
    for _ in range(2):
        found = import_adapter(tmp_path / "hf", tiny())
        name = "encoder.blocks.1.attn.qkv.slots.q."
        assert found.tensors[f"{name}A"][2:].norm() > 0
        assert not found.tensors[f"{name}B"][:, 2:].any()
    assert found.digest == import_adapter(tmp_path / "hf", tiny()).digest


def edited(**changes: Any) -> Callable[[Path], None]:
    """Return what changes the configuration of a folder."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps(config))

    return edit


def changed(part: str, make: Callable[[Tensor], Tensor | None]) -> Callable[[Path], None]:
    """Return what changes (or takes out) the tensors whose names contain `part`."""

    def change(folder: Path) -> None:
        tensors = {k: make(v) if part in k else v for k, v in load_file(folder / WEIGHTS).items()}
        kept = {k: v.contiguous() for k, v in tensors.items() if v is not None}
        assert len(kept) < len(tensors) or any(part in k for k in kept)
        save_file(kept, folder / WEIGHTS)

    return change


def unspoilt(folder: Path) -> None:
    """Leave it."""


CANNOT: dict[str, tuple[dict[str, Any], Callable[[Path], None], str]] = {
    "another type": ({}, edited(peft_type="IA3"), r"adapter of the type 'IA3': of HF peft, only"),
    "biases": ({}, edited(bias="all"), r"trained with bias 'all', which adapters here do not"),
    "activated LoRA": ({}, edited(alora_invocation_tokens=[1]), r"with alora_invocation_tokens"),
    "changed base": (
        {}, edited(init_lora_weights="pissa_niter_4"), r"init_lora_weights 'pissa_niter_4', which",
    ),
    "attn.proj": (
        {"target_modules": ["attn.proj"]}, unspoilt,
        r"adapts image_encoder\.blocks\.0\.attn\.proj, where adapters here do not act",
    ),
    "the neck": (
        {"modules_to_save": ["neck.0"]}, unspoilt,
        r"also holds image_encoder\.neck\.0\.weight, but beside LoRA only mask_decoder and",
    ),
    "other blocks per matrix": (
        {"target_modules": [*QKV, LIN1[0]]}, unspoilt,
        r"adapts q in the blocks 1,3 and lin1 in 1, but adapters here",
    ),
    "a part of the decoder": (
        {"target_modules": [*QKV, "self_attn.q_proj"]}, unspoilt,
        r"adapts 2 layers of the mask decoder \(.*\), but adapters here act on q_proj and v_proj",
    ),
    "DoRA in the decoder": (
        {"target_modules": [*QKV, "q_proj", "v_proj"], "use_dora": True}, unspoilt,
        r"has DoRA in the mask decoder",
    ),
    "no effect": ({}, edited(lora_alpha=0), r"has lora_alpha 0 for .*: only factors above 0"),
    "an expression without end": (
        {}, edited(alpha_pattern={"(([a-z._0-9]+)+)+!": 4}), "names layers by the expression"
    ),
    "another rank": ({}, edited(r=3), "has rank 8 in .* says 3"),
    "no number": ({}, edited(lora_alpha="much"), "lora_alpha must be a valid number"),
    "half a pair": ({}, changed("1.attn.qkv.lora_B", lambda v: None), r"has not all tensors of"),
    "other sizes": (
        {}, changed("lora_A", lambda v: v[:, :5]),
        r"has \(48, 8\) and \(8, 5\) for .*qkv, which is \(48, 16\) in random-tiny",
    ),
    "not a number": ({}, changed("lora_A", lambda v: v * torch.nan), r"not made of finite numbers"),
    "a half decoder": (
        {"modules_to_save": ["mask_decoder"]}, changed("iou_token", lambda v: None),
        r"missing: decoder\.mask_decoder\.iou_token\.weight",
    ),
    "other positions": (
        {"modules_to_save": ["prompt_encoder"]}, changed("gaussian", lambda v: v + 1),
        r"was not trained on random-tiny: its prompt_encoder\.pe_layer",
    ),
    "a rank too large": (
        {"r": 20}, unspoilt, r"rank 20 is larger than the width 16 of image_encoder",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "spoil", "message"), CANNOT.values(), ids=CANNOT.keys())
def test_what_has_no_equivalent_is_refused_in_one_line(
    options: dict[str, Any], spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    vanilla(tmp_path / "hf", **options)
    spoil(tmp_path / "hf")
    with pytest.raises(PeftSamError, match=message) as caught:
        import_adapter(tmp_path / "hf", tiny())
    assert "\n" not in str(caught.value)


def test_a_folder_for_a_larger_model_is_refused(tmp_path: Path) -> None:
    vanilla(tmp_path / "hf")
    changed("lora", lambda v: None)(tmp_path / "hf")
    lora = {f"base_model.model.{BLOCK}9.attn.qkv.lora_{h}.weight": torch.ones(2, 2) for h in "AB"}
    save_file(lora, tmp_path / "hf" / WEIGHTS)
    with pytest.raises(AdapterMismatchError, match=r"blocks\.9\.attn\.qkv, which random-tiny does"):
        import_adapter(tmp_path / "hf", tiny())
