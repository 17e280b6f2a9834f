"""Reading of folders that HF `peft` wrote, without it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from math import inf, sqrt
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError
from napari_peftsam.limits import validated
from napari_peftsam.models import SamModel
from napari_peftsam.peft.adapter import Adapter, BaseIdentity, read_tensors
from napari_peftsam.peft.exchange._write import (
    CONFIG_FILE,
    PREFIX,
    WEIGHTS_FILE,
    WHOLE_MODULES,
    read_config,
    row_lengths,
)
from napari_peftsam.peft.inject import decoder_layers, public_name
from napari_peftsam.peft.low_rank import Factors, random_start
from napari_peftsam.peft.merge import adapted_twin
from napari_peftsam.peft.methods import parse_method_config
from napari_peftsam.peft.methods.lora import DoraConfig, LoraConfig
from napari_peftsam.peft.methods.selective import FrozenEncoderConfig
from napari_peftsam.peft.placement import Placement, Target
from napari_peftsam.peft.protocol import MethodConfig

_LAYER_NAMES = re.compile(r"[\w.*]+")
_LORA = re.compile(r"(.+)\.lora_(?:(A|B)\.weight|(magnitude_vector))")
_ENCODER_LAYER = re.compile(r"image_encoder\.blocks\.\d+\.(?:attn\.qkv|mlp\.lin[12])")
# Starts that leave the base weights as they are; others are of use with changed ones only.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
# Options that change the meaning of the matrices, and the value at which they do not.
_UNKNOWN_HERE: dict[str, Any] = {
    "bias": "none",
    "lora_bias": False,
    "use_qalora": False,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "kasa_config": None,
    "monteclora_config": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "velora_config": None,
}
_MERGE = "merge it into the weights where it was made, and use these as a model"
_SAME_LENGTH = 1e-5  # relative; float32 norms of float32 rows
_Updates = dict[Target, Factors]


def read_folder(folder: Path, model: SamModel, placement: Placement | None) -> Adapter:
    """Read a folder; see `napari_peftsam.peft.exchange.import_adapter`."""
    config = read_config(folder)
    _check_options(folder, config)
    lora, whole = _sorted_out(folder, read_tensors(folder / WEIGHTS_FILE)[1])
    layers = {path: _factors(folder, config, model, path, lora[path]) for path in lora}
    updates: _Updates = {}
    for path, factors in layers.items():
        updates |= _updates(folder, model, path, factors)
    updates = _without_idle(updates)
    return _assembled(folder.name, model, updates, _tuned(folder, model, whole), placement)


def _check_options(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ConfigurationError(
            f"{folder} holds an adapter of the type {kind!r}: of HF peft, only LORA can be read "
            "(LoRA, rsLoRA, DoRA)"
        )
    for option, neutral in _UNKNOWN_HERE.items():
        value = config.get(option, neutral)
        if value != neutral and value not in ([], {}):
            raise ConfigurationError(
                f"{folder} was trained with {option} {value!r}, which adapters here do not have: "
                f"train it with {option} {neutral!r}, or merge it into the weights there and use "
                "these as a model"
            )
    start = config.get("init_lora_weights", True)
    if start not in _HARMLESS_STARTS:
        raise ConfigurationError(
            f"{folder} started with init_lora_weights {start!r}, which changes the base weights "
            "themselves: save it with peft's path_initial_model_for_weight_conversion, which "
            "writes plain LoRA"
        )


def _sorted_out(
    folder: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return LoRA matrices by layer (A, B and perhaps lengths), and whole weights by path."""
    lora: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        path = _path(key)
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise AdapterMismatchError(
                f"{path} in {folder} is not made of finite numbers: copy it again"
            )
        if match := _LORA.fullmatch(path):
            lora.setdefault(match[1], {})[match[2] or "lengths"] = tensor.float()
        else:
            whole[path] = tensor.float()
    return lora, whole


def _path(key: str) -> str:
    """Return a path from the model's root, also where `peft` wrapped the encoder only."""
    path = key.removeprefix(PREFIX).removeprefix("sam.")
    return f"image_encoder.{path}" if path.startswith("blocks.") else path


def _factors(
    folder: Path,
    config: Mapping[str, Any],
    model: SamModel,
    path: str,
    tensors: Mapping[str, Tensor],
) -> Factors:
    if not _ENCODER_LAYER.fullmatch(path) and path not in decoder_layers(model.sam):
        raise ConfigurationError(
            f"{folder} adapts {path}, where adapters here do not act (only on attn.qkv, mlp.lin1 "
            "and mlp.lin2 of the image encoder, and q_proj and v_proj of the mask decoder): "
            f"{_MERGE}"
        )
    down, up, lengths = (tensors.get(name) for name in ("A", "B", "lengths"))
    if down is None or up is None or (lengths is None) == bool(config.get("use_dora")):
        raise AdapterMismatchError(
            f"{folder} has not all tensors of {path} that {CONFIG_FILE} asks for: copy it again"
        )
    rows, columns = _shape(folder, model, path)
    good = down.ndim == up.ndim == 2 and down.shape[1] == columns and up.shape[0] == rows
    if not good or len(down) != up.shape[1] or (lengths is not None and lengths.shape != (rows,)):
        raise AdapterMismatchError(
            f"{folder} has {tuple(up.shape)} and {tuple(down.shape)} for {path}, which is "
            f"({rows}, {columns}) in {model.name}: choose the model it was trained on"
        )
    return Factors(down, up, _scale(folder, config, path, len(down)), lengths)


def _shape(folder: Path, model: SamModel, path: str) -> tuple[int, int]:
    try:
        weight = model.sam.get_parameter(f"{path}.weight")
    except AttributeError:
        raise AdapterMismatchError(
            f"{folder} adapts {path}, which {model.name} does not have: choose the model it was "
            "trained on"
        ) from None
    return weight.shape[0], weight.shape[1]


def _scale(folder: Path, config: Mapping[str, Any], path: str, rank: int) -> float:
    options = validated(_Options, config, folder / CONFIG_FILE, AdapterMismatchError)
    alpha = _for_layer(folder, options.alpha_pattern or {}, path, options.lora_alpha)
    wanted = _for_layer(folder, options.rank_pattern or {}, path, options.r or rank)
    if wanted != rank:
        raise AdapterMismatchError(
            f"{folder} has rank {rank} in {path}, but {CONFIG_FILE} says {wanted:g}: copy it again"
        )
    if not 0 < alpha < inf:
        raise ConfigurationError(
            f"{folder} has lora_alpha {alpha:g} for {path}: only factors above 0 can be read"
        )
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


class _Options(BaseModel):
    """What ``adapter_config.json`` says of ranks and factors."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    r: int | None = Field(None, ge=1)
    lora_alpha: float = 8
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None


def _for_layer(folder: Path, pattern: Mapping[str, float], path: str, default: float) -> float:
    """Return the value of a layer; its expressions are not run, since one may take for ever."""
    for key, value in pattern.items():
        name = key.removeprefix("^").replace("\\.", ".").replace(".*", "*")
        if not _LAYER_NAMES.fullmatch(name):
            raise ConfigurationError(
                f"{folder} names layers by the expression {key!r}: write names into {CONFIG_FILE}, "
                "in which .* stands for anything"
            )
        if fnmatchcase(f".{path}", f"*.{name}"):
            return value
    return default


def _updates(folder: Path, model: SamModel, path: str, factors: Factors) -> _Updates:
    if path.endswith(".qkv"):
        parts = [Target(path, part) for part in "qkv"]
        rows = [slice(*target.rows(len(factors.up))) for target in parts]
        return {t: replace(factors, up=factors.up[r]) for t, r in zip(parts, rows, strict=True)}
    if factors.magnitude is not None and not _ENCODER_LAYER.fullmatch(path):
        weight = model.sam.get_parameter(f"{path}.weight")
        plain = row_lengths(weight, factors)
        if not torch.allclose(factors.magnitude, plain, rtol=_SAME_LENGTH, atol=0):
            raise ConfigurationError(
                f"{folder} has DoRA in the mask decoder ({path}), where there is LoRA only here: "
                "train it with LoRA, or merge it into the weights there and use these as a model"
            )
        factors = replace(factors, magnitude=None)
    return {Target(path, "all"): factors}


def _without_idle(updates: _Updates) -> _Updates:
    """Drop parts of fused layers that act in no block, and unused directions of rank space."""
    used = {t: (f.up != 0).any(dim=0) for t, f in updates.items() if t.part != "all"}
    active = {target.part for target, directions in used.items() if directions.any()}
    if not active:  # untrained
        return updates
    rank = max(1, *(int(directions.sum()) for directions in used.values()))
    kept: _Updates = {}
    for target, factors in updates.items():
        if target.part == "all":
            kept[target] = factors
        elif target.part in active:
            order = torch.argsort(~used[target], stable=True)[:rank]
            kept[target] = replace(factors, down=factors.down[order], up=factors.up[:, order])
    return kept


def _tuned(folder: Path, model: SamModel, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tuned weights without buffers, which must be those of the model."""
    buffers, tuned = dict(model.sam.named_buffers()), {}
    for path, tensor in whole.items():
        if path.partition(".")[0] not in WHOLE_MODULES:
            raise ConfigurationError(
                f"{folder} also holds {path}, but beside LoRA only {' and '.join(WHOLE_MODULES)} "
                f"can be tuned here: {_MERGE}"
            )
        if path not in buffers:
            tuned[path] = tensor
        elif not torch.equal(buffers[path].cpu().float(), tensor):
            raise AdapterMismatchError(
                f"{folder} was not trained on {model.name}: its {path} is another one; choose the "
                "model it was trained on"
            )
    return tuned


def _assembled(
    source: str,
    model: SamModel,
    updates: _Updates,
    whole: Mapping[str, Tensor],
    placement: Placement | None,
) -> Adapter:
    """Return an adapter of `model` from updates and tuned weights (`whole`, by path).

    All updates get the largest of their ranks. The added directions start as LoRA does: B is zero,
    so that the output stays the same, and A is drawn, so that it can be trained. `source` is for
    messages and the provenance; `placement` names the adapted blocks if it fits.
    """
    encoder = {t: f for t, f in updates.items() if t.layer.startswith("image_encoder.")}
    decoder = {t: f for t, f in updates.items() if t not in encoder}
    options: dict[str, Any] = {
        # LoRA trains the mask decoder as well.
        "tune_mask_decoder": bool(decoder) or any(p.startswith("mask_decoder.") for p in whole),
        "tune_prompt_encoder": any(p.startswith("prompt_encoder.") for p in whole),
    }
    method: type[MethodConfig] = FrozenEncoderConfig
    if decoder:
        _check_decoder(source, model, decoder)
        options["decoder_lora_rank"] = _largest_rank(decoder)
    if encoder:
        first, blocks = next(iter(encoder.values())), _check_encoder(source, encoder)
        depth = model.architecture.depth
        if placement is None or placement.blocks(depth) != blocks:
            placement = Placement.of(blocks, depth)
        method = LoraConfig if first.magnitude is None else DoraConfig
        options |= {
            "rank": _largest_rank(encoder),
            "alpha": first.scale,
            "placement": placement,
            "matrices": sorted(set(map(_matrix, encoder))),
        }
    config = parse_method_config({"method": method.model_fields["method"].default, **options})
    tensors = {public_name(path): tensor for path, tensor in whole.items()}
    tensors |= _tensors(decoder, 1.0) | _tensors(encoder, options.get("alpha", 1.0))
    tensors |= {
        f"{public_name(target.layer)}.magnitude": factors.magnitude.float()
        for target, factors in encoder.items()
        if factors.magnitude is not None
    }
    adapter = Adapter(config, BaseIdentity.of(model), tensors, provenance={"imported_from": source})
    adapted_twin(model, adapter)
    return adapter


def _matrix(target: Target) -> str:
    """Return q, k, v, lin1 or lin2."""
    return target.layer.rpartition(".")[2] if target.part == "all" else target.part


def _check_encoder(source: str, updates: _Updates) -> tuple[int, ...]:
    """Return the adapted blocks, if it is the same matrices in each."""
    placed: dict[str, set[int]] = {}
    for target in updates:
        placed.setdefault(_matrix(target), set()).add(int(target.layer.split(".")[2]))
    (first, blocks), *others = placed.items()
    for matrix, own in others:
        if own != blocks:
            raise ConfigurationError(
                f"{source} adapts {first} in the blocks {Placement.of(blocks)} and {matrix} in "
                f"{Placement.of(own)}, but adapters here act on the same matrices of every block "
                f"they are placed in: {_MERGE}"
            )
    return tuple(sorted(blocks))


def _check_decoder(source: str, model: SamModel, updates: _Updates) -> None:
    expected = set(decoder_layers(model.sam))
    found = {target.layer for target in updates}
    if found != expected:
        raise ConfigurationError(
            f"{source} adapts {len(found)} layers of the mask decoder ({min(found)}, …), but "
            f"adapters here act on q_proj and v_proj of all its {len(expected) // 2} attention "
            f"layers or on none: {_MERGE}"
        )


def _largest_rank(updates: _Updates) -> int:
    return max((factors.rank for factors in updates.values()), default=0)


def _tensors(updates: _Updates, scale: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rank, tensors = _largest_rank(updates), {}
    for target, factors in updates.items():
        name = f"{public_name(target.layer)}.slots.{target.part}."
        missing = rank - factors.rank
        # Of a fused layer, q, k and v have the same A; here each has its own.
        down, up = factors.down.float().clone(), factors.up.float() * (factors.scale / scale)
        if missing:
            fresh = random_start(missing, down.shape[1], generator)
            down, up = torch.cat([down, fresh]), nn.functional.pad(up, (0, missing))
        tensors[f"{name}A"], tensors[f"{name}B"] = down.contiguous(), up.contiguous()
    return tensors
