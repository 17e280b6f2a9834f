"""A checkpoint with the names that micro-sam's LoRA training gives, without micro-sam."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from napari_peftsam.models import SamModel
from tests.peft._cases import image, outputs, tiny

_BLOCK = "image_encoder.blocks."


def micro_sam_checkpoint(
    path: Path,
    blocks: tuple[int, ...] = (0, 2),
    parts: str = "qv",
    rank: int = 3,
    model: SamModel | None = None,
) -> Tensor:
    """Write what its LoRA training leaves; return what its network computes.

    It wraps the frozen layers, names the matrices ``w_a_linear_*`` (down) and ``w_b_linear_*``
    (up), 1 and 2 in the MLP, and trains mask decoder and prompt encoder, too.
    """
    model, generator = model or tiny(), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in model.sam.named_parameters():
            if not name.startswith("image_encoder."):
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    state, plain = {}, {k: v.clone() for k, v in model.sam.state_dict().items()}
    wrapped = {"attn.qkv.": "qkv_proj."} if set(parts) & set("qkv") else {}
    wrapped |= {"mlp.": "mlp_layer."} if set(parts) & set("12") else {}
    prefixes = {f"{_BLOCK}{b}.{layer}": wrapped[layer] for b in blocks for layer in wrapped}
    for key, value in plain.items():
        prefix = next((p for p in prefixes if key.startswith(p)), "")
        state[f"sam.{prefix}{prefixes.get(prefix, '')}{key.removeprefix(prefix)}"] = value.clone()
    for block in blocks:
        for part in parts:
            layer, target = ("attn.qkv", "attn.qkv") if part in "qkv" else ("mlp", f"mlp.lin{part}")
            weight = plain[f"{_BLOCK}{block}.{target}.weight"]
            third = len(weight) // (3 if part in "qkv" else 1)
            start = "qkv".index(part) * third if part in "qkv" else 0
            down = torch.randn(rank, weight.shape[1], generator=generator) * 0.2
            up = torch.randn(third, rank, generator=generator) * 0.2
            state[f"sam.{_BLOCK}{block}.{layer}.w_a_linear_{part}.weight"] = down
            state[f"sam.{_BLOCK}{block}.{layer}.w_b_linear_{part}.weight"] = up
            weight[start : start + third] += up @ down
    torch.save({"model_state": state, "init": {"loader": Path("data")}, "iteration": 7}, path)
    model.sam.load_state_dict(plain)
    return outputs(model, image())
