"""The table that every method must pass: methods x placements on a tiny SAM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from napari_peftsam.models import SamModel, build_tiny
from napari_peftsam.peft import MethodConfig, parse_method_config

METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "rank": 4},
    "lora-k-lin1": {"method": "lora", "rank": 4, "matrices": ["lin1", "k"]},
    "lora-decoder": {"method": "lora", "rank": 4, "decoder_lora_rank": 2, "lora_plus_ratio": 4},
    "lora-all-linear": {"method": "lora", "rank": 2, "alpha": 0.5, "matrices": "all-linear"},
    "cobot": {"method": "cobot-lora", "rank": 4},
    "cobot-official": {
        "method": "cobot-lora", "rank": 8, "alpha": 2.0, "init": "official",
        "matrices": "all-linear",
    },
    "cobot-sets": {
        "method": "cobot-lora", "rank": 4, "relations": "none", "projection": "none",
    },
    "cobot-fixed-linear": {
        "method": "cobot-lora", "rank": 4, "init": "official", "relations": "fixed",
        "projection": "linear",
    },
    "rslora": {"method": "rslora", "rank": 4},
    "dora": {"method": "dora", "rank": 4},
    "pissa": {"method": "pissa", "rank": 4, "alpha": 0.5},
    "fact": {"method": "fact", "rank": 4},
    "fact-per-block": {"method": "fact", "rank": 4, "dropout": 0.0, "shared": False},
    "ssf": {"method": "ssf"},
    "adaptformer": {"method": "adaptformer", "bottleneck": 4},
    "adaptformer-norm": {
        "method": "adaptformer", "bottleneck": 4, "input_norm": True, "learn_scale": False,
    },
    "cobot-adaptformer": {"method": "cobot-adaptformer", "bottleneck": 8},
    "cobot-adaptformer-published": {
        "method": "cobot-adaptformer", "bottleneck": 4, "input_norm": True, "learn_scale": False,
        "dropout": 0.1, "init": "official",
    },
    "attention-tuning": {"method": "attention-tuning"},
    "bias-tuning": {"method": "bias-tuning"},
    "layernorm-tuning": {"method": "layernorm-tuning"},
    "late-finetuning": {"method": "late-finetuning"},
    "full-finetuning": {"method": "full-finetuning"},
    "frozen-encoder": {"method": "frozen-encoder"},
    "decoder-lora": {"method": "frozen-encoder", "decoder_lora_rank": 4},
}  # fmt: skip
UNPLACED = ("full-finetuning", "frozen-encoder", "decoder-lora")
PLACEMENTS = ("all", "late-50%", "last", "first", "0,2")

CASES: dict[str, MethodConfig] = {
    f"{name}-{placement}": parse_method_config({**options, "placement": placement})
    for name, options in METHOD_OPTIONS.items()
    if name not in UNPLACED
    for placement in PLACEMENTS
} | {name: parse_method_config(METHOD_OPTIONS[name]) for name in UNPLACED}


def tiny() -> SamModel:
    """Build a tiny SAM whose relative positions are not zero, so that they count."""
    model = build_tiny()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    return model


def image(batch: int = 1) -> Tensor:
    """Return a model input ``(B, 3, 64, 64)``."""
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def outputs(model: SamModel, x: Tensor) -> Tensor:
    """Return embedding and mask logits of one point prompt, in one flat tensor."""
    sam = model.sam
    embedding = sam.image_encoder(x)
    points = (torch.tensor([[[20.0, 30.0]]]), torch.ones(1, 1))
    sparse, dense = sam.prompt_encoder(points=points, boxes=None, masks=None)
    masks, iou = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return torch.cat([embedding.flatten(), masks.flatten(), iou.flatten()])


def step(model: SamModel, optimiser: torch.optim.Optimizer) -> float:
    """Take one training step on a fixed made-up objective."""
    optimiser.zero_grad()
    loss = outputs(model, image()).square().mean()
    loss.backward()
    optimiser.step()
    return loss.item()


def perturb(parameters: dict[str, torch.nn.Parameter], size: float = 0.1) -> None:
    """Move every parameter, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in parameters.values():
            p.add_(torch.randn(p.shape, generator=generator) * size)


def snapshot(model: SamModel) -> dict[str, Tensor]:
    """Return copies of all tensors."""
    return {k: v.clone() for k, v in model.sam.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two states have the same keys, in order, and bits."""
    return list(first) == list(second) and all(torch.equal(first[k], second[k]) for k in first)
