"""Folding the LoRA layers of micro-sam's own finetuning into plain weights."""

from __future__ import annotations

import re

from torch import Tensor

__all__ = ["fold_micro_sam_lora"]

_UP = re.compile(r"(.+\.(?:attn\.qkv|mlp))\.w_b_linear_([qkv12])\.weight")
_BASE = {"attn.qkv.qkv_proj.": "attn.qkv.", "mlp.mlp_layer.": "mlp."}


def fold_micro_sam_lora(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return plain SAM weights where micro-sam's LoRA layers are beside the frozen ones.

    In its attention layers the query, key and value parts of ``qkv`` have their own pair of
    matrices; in its MLPs each layer has one. The sum of products is not scaled (its ``alpha``
    is the constant 1). A state dict without such layers is returned as it is, and so is
    whatever else does not fit.
    """
    pairs = {
        up.group(0): up for up in map(_UP.fullmatch, state) if up and _down(up.group(0)) in state
    }
    if not pairs:
        return state
    gone = pairs.keys() | {_down(key) for key in pairs}
    folded = {_plain(key): value for key, value in state.items() if key not in gone}
    for key, up in pairs.items():
        layer, part = up.groups()
        update = state[key].double() @ state[_down(key)].double()
        if part in "qkv":
            target, start = f"{layer}.weight", "qkv".index(part) * len(update)
        else:
            target, start = f"{layer}.lin{part}.weight", 0
        base = folded[target].double()
        base[start : start + len(update)] += update
        folded[target] = base.float()
    return folded


def _down(key: str) -> str:
    return key.replace(".w_b_linear_", ".w_a_linear_")


def _plain(key: str) -> str:
    for wrapped, plain in _BASE.items():
        key = key.replace(wrapped, plain)
    return key
