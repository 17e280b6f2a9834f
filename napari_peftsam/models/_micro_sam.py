"""LoRA layers of micro-sam's own finetuning, folded into plain weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from napari_peftsam.models._fit import is_whole

__all__ = ["fold_micro_sam_lora"]

_UP = re.compile(r"(.+\.(?:attn\.qkv|mlp))\.w_b_linear_([qkv12])\.weight")
_BASE = {"attn.qkv.qkv_proj.": "attn.qkv.", "mlp.mlp_layer.": "mlp."}


def fold_micro_sam_lora(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return plain SAM weights where micro-sam's LoRA layers are beside the frozen ones.

    In its attention layers the query, key and value parts of ``qkv`` have their own pair of
    matrices; in its MLPs each layer has one. ``up @ down`` is added unscaled (its ``alpha`` is
    the constant 1). A state dict without such pairs is returned as it is, and half a pair is
    left in it: a name that no network has.

    Raises
    ------
    ValueError
        If a pair has nothing to adapt, or is not exactly as large as what it adapts.
    """
    found = {
        up.group(0): up for up in map(_UP.fullmatch, state) if up and _down(up.group(0)) in state
    }
    if not found:
        return state
    gone = found.keys() | {_down(key) for key in found}
    plain = {_plain(key): value for key, value in state.items() if key not in gone}
    folded = dict(plain)
    for key, up in found.items():
        layer, part = up.groups()
        is_fused = part in "qkv"
        target = f"{layer}.weight" if is_fused else f"{layer}.lin{part}.weight"
        _check(key, state, target, plain, 3 if is_fused else 1)
        update = state[key].detach().double() @ state[_down(key)].detach().double()
        start = "qkv".index(part) * len(update) if is_fused else 0
        base = folded[target].detach().to(torch.float64, copy=True)
        base[start : start + len(update)] += update
        folded[target] = base.float()
    return folded


def _check(
    key: str, state: Mapping[str, Tensor], target: str, folded: Mapping[str, Tensor], blocks: int
) -> None:
    """Refuse what adding would broadcast or cut, before anything is computed."""
    if target not in folded:
        raise ValueError(f"there is no {target} for {key}")
    up, down, base = matrices = state[key], state[_down(key)], folded[target]
    if not all(matrix.ndim == 2 and is_whole(matrix) for matrix in matrices):
        raise ValueError(f"{key}, its pair or {target} is no plain matrix")
    if up.shape[1] != down.shape[0] or base.shape != (blocks * up.shape[0], down.shape[1]):
        sizes = " and ".join(" x ".join(map(str, matrix.shape)) for matrix in (up, down))
        raise ValueError(
            f"{key} and its pair are {sizes}, {target} is {base.shape[0]} x {base.shape[1]}"
        )


def _down(key: str) -> str:
    return key.replace(".w_b_linear_", ".w_a_linear_")


def _plain(key: str) -> str:
    for wrapped, plain in _BASE.items():
        key = key.replace(wrapped, plain)
    return key
