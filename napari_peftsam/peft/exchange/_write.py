"""Adapters as folders of HF `peft`, which loads them with ``PeftModel.from_pretrained``.

Our updates act on row ranges of a fused layer; there a layer has one pair of matrices. The pairs
of q and v become one of twice the rank: ``A = [A_q; A_v]``, and B has ``[B_q, 0]`` in the
rows of q, zeros in those of k and ``[0, B_v]`` in those of v. As HF scales by ``lora_alpha / r``,
``lora_alpha`` is that rank times our factor. `peft` itself is never imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn

from napari_peftsam.errors import AdapterMismatchError, ConfigurationError, ExportError
from napari_peftsam.files import atomic_path
from napari_peftsam.limits import CONFIGURATION_BYTES, parse_json, read_json
from napari_peftsam.models import SamModel
from napari_peftsam.peft.adapter import (
    Adapter,
    assemble_adapter,
    check_base,
    describe_adapter,
    read_tensors,
)
from napari_peftsam.peft.inject import check_not_adapted, public_name
from napari_peftsam.peft.low_rank import AdaptedLinear, Factors, RowUpdate, exact
from napari_peftsam.peft.merge import adapted_twin
from napari_peftsam.peft.methods import METHODS
from napari_peftsam.peft.placement import Target

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
WHOLE_MODULES = ("mask_decoder", "prompt_encoder")
"""Modules that may be tuned as a whole beside low-rank updates (``modules_to_save``)."""

_OWN_FILE = "napari_peftsam.safetensors"
_DESCRIPTION, _CONTENTS = "napari_peftsam_adapter", "napari_peftsam_export"
# No module has this name: `peft` then adapts none, and loads the tuned modules only.
_NO_TARGETS = "dummy-target-modules"


_Slots = Mapping[str, list[tuple[str, int]]]  # names and ranks of the updates of each layer


def export_hf_peft(
    model: SamModel, adapter: Adapter, folder: str | Path, *, anonymise: bool = False
) -> None:
    """Write a folder that HF `peft` loads onto the same base model.

    Parameters
    ----------
    model
        The base, without adapter.
    adapter
        An adapter of a low-rank method.
    folder
        A new folder, or an older export, which is replaced as a whole or not at all.
    anonymise
        Leave out the names of the images it was trained on, see `Adapter.anonymous`.

    Raises
    ------
    ConfigurationError
        If HF's LoRA cannot do what the method does; the message says what to do instead.
    AdapterMismatchError
        If the adapter belongs to another base or its tensors do not fit.
    ExportError
        If the folder holds anything else, or cannot be written.
    """
    folder = Path(folder)
    adapter = adapter.anonymous() if anonymise else adapter
    check_not_adapted(model.sam)
    _check_method(adapter)
    check_base(model, adapter)
    check_replaceable(folder)
    config, tensors, slots = _contents(model, adapter)
    found = _separated(tensors, slots)
    rest = {
        name: tensor
        for name, tensor in adapter.tensors.items()
        if name not in found or not _identical(found[name], tensor)
    }
    own = {
        "tensors": sorted(adapter.tensors),
        "elsewhere": sorted(rest),
        "slots": slots,
        "adapter_config": config,
    }
    metadata = {
        "format": "pt",
        _DESCRIPTION: describe_adapter(adapter),
        _CONTENTS: json.dumps(own),
    }
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        (temporary / WEIGHTS_FILE).write_bytes(save(tensors, metadata=metadata))
        if rest:
            (temporary / _OWN_FILE).write_bytes(save(rest))


def check_replaceable(folder: Path) -> None:
    """Raise `ExportError` if a folder of this name holds anything but such an export."""
    if not folder.is_dir():
        return
    names = {path.name for path in folder.iterdir()}
    if names and (names - {CONFIG_FILE, WEIGHTS_FILE, _OWN_FILE} or not _is_export(folder)):
        raise ExportError(
            f"cannot write {folder}: it holds other files than an export of napari-peftsam and is "
            "not replaced; choose another name"
        )


def restore(folder: Path) -> Adapter | None:
    """Return the adapter that was exported to a folder, with its method and options.

    None if the folder has changed since: `peft` trained and saved it anew, its configuration was
    edited, or our own file in it was not copied.
    """
    metadata, tensors = read_tensors(folder / WEIGHTS_FILE)
    if _CONTENTS not in metadata or _DESCRIPTION not in metadata:
        return None
    try:
        where = f"the description inside {folder / WEIGHTS_FILE}"
        own = parse_json(metadata[_CONTENTS], where, AdapterMismatchError)
        names, elsewhere = list(own["tensors"]), bool(own["elsewhere"])
        if own["adapter_config"] != read_config(folder):
            return None
        if elsewhere and not (folder / _OWN_FILE).is_file():
            return None
        found = _separated(tensors, own["slots"])
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise AdapterMismatchError(
            f"the description inside {folder / WEIGHTS_FILE} is damaged: copy or export it again"
        ) from error
    if elsewhere:
        found |= read_tensors(folder / _OWN_FILE)[1]
    kept = {name: found[name] for name in names if name in found}
    return assemble_adapter(folder, metadata[_DESCRIPTION], kept)


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``adapter_config.json`` as it is, or raise `AdapterMismatchError`."""
    path = folder / CONFIG_FILE
    config = read_json(path, AdapterMismatchError, CONFIGURATION_BYTES)
    if not isinstance(config, dict):
        raise AdapterMismatchError(f"{path} must hold a JSON object: copy or download it again")
    return config


def row_lengths(weight: Tensor, factors: Factors) -> Tensor:
    """Return the length of each row of ``weight + scale * up @ down``; float32, CPU."""
    whole = weight.detach().cpu().float() + factors.scale * (
        factors.up.float() @ factors.down.float()
    )
    lengths: Tensor = torch.linalg.norm(whole, dim=1)
    return lengths


def _check_method(adapter: Adapter) -> None:
    method = adapter.config
    if method.low_rank:
        return
    known = ", ".join(name for name, m in METHODS.items() if m.low_rank)
    instead = (
        "merge it into a plain checkpoint (export-model)"
        if method.mergeable
        else "use its adapter file"
    )
    raise ConfigurationError(
        f"{method.title} is no low-rank update of linear layers, which is all that LoRA in HF "
        f"peft can hold: {instead}, or train one of {known}"
    )


def _contents(
    model: SamModel, adapter: Adapter
) -> tuple[dict[str, Any], dict[str, Tensor], _Slots]:
    """Return configuration, tensors and slots of the folder."""
    config = adapter.config.over_plain_layers()
    injection, surgery = adapted_twin(model, adapter, config)
    layers = {path: _updates(layer) for path, layer in surgery.replacements.items()}
    with_lengths = any(layer.lengths() is not None for layer, _ in layers.values())
    fused = {
        path: _fused(path, layer, parts, with_lengths=with_lengths)
        for path, (layer, parts) in layers.items()
    }
    tensors: dict[str, Tensor] = {}
    for path, factors in fused.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = factors.down
        tensors[f"{PREFIX}{path}.lora_B.weight"] = factors.up
        if factors.magnitude is not None:
            tensors[f"{PREFIX}{path}.lora_magnitude_vector"] = factors.magnitude
    tuned = {path.partition(".")[0] for path in surgery.tuned()}
    whole = [name for name in WHOLE_MODULES if name in tuned]
    state = injection.model.sam.state_dict()
    for name, value in state.items():
        if name.partition(".")[0] in whole:  # with its buffers, which `peft` asks for, too
            tensors[PREFIX + name] = value
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
    slots = {
        path: [(part, f.rank) for part, f in parts.items()] for path, (_, parts) in layers.items()
    }
    return _config(fused, whole), tensors, slots


def _updates(layer: nn.Module) -> tuple[AdaptedLinear, dict[str, Factors]]:
    assert isinstance(layer, AdaptedLinear)  # as `MethodConfig.low_rank` promises
    parts = {}
    for name, update in layer.slots.items():
        assert isinstance(update, RowUpdate)
        found = update.low_rank()
        parts[name] = replace(found, down=found.down.float(), up=found.up.float())
    return layer, parts


def _fused(
    path: str, layer: AdaptedLinear, parts: Mapping[str, Factors], *, with_lengths: bool
) -> Factors:
    """Return one update of all rows of a layer, zero where none of `parts` acts."""
    first = next(iter(parts.values()))
    weight = layer.base.weight
    up = torch.zeros(len(weight), sum(f.rank for f in parts.values()), dtype=first.up.dtype)
    start = 0
    for name, factors in parts.items():
        rows, columns = slice(*layer.rows[name]), slice(start, start + factors.rank)
        up[rows, columns] = factors.up * (factors.scale / first.scale)
        start += factors.rank
    fused = Factors(torch.cat([f.down for f in parts.values()]), up, first.scale)
    if not with_lengths:
        return fused
    if not row_lengths(weight, fused).all():
        raise ConfigurationError(
            f"a row of {path} is zero, and HF peft's DoRA divides by its length: merge the adapter "
            "into a plain checkpoint (export-model)"
        )
    own = layer.lengths()
    lengths = row_lengths(weight, fused) if own is None else own.float()
    return replace(fused, magnitude=lengths)


def _config(layers: Mapping[str, Factors], whole: list[str]) -> dict[str, Any]:
    ranks = {path: factors.rank for path, factors in layers.items()}
    alphas = {path: _number(factors.rank * factors.scale) for path, factors in layers.items()}
    rank, alpha = next(iter(ranks.values()), 1), next(iter(alphas.values()), 1)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": any(factors.magnitude is not None for factors in layers.values()),
        "target_modules": list(layers) or _NO_TARGETS,
        "modules_to_save": whole or None,
        "rank_pattern": {path: r for path, r in ranks.items() if r != rank},
        "alpha_pattern": {path: a for path, a in alphas.items() if a != alpha},
    }


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _separated(tensors: Mapping[str, Tensor], slots: _Slots) -> dict[str, Tensor]:
    """Return the adapter's tensors from those of a folder: the inverse of `_fused`."""
    found = {
        public_name(k.removeprefix(PREFIX)): v for k, v in tensors.items() if ".lora_" not in k
    }
    for path, parts in slots.items():
        down, up = (tensors[f"{PREFIX}{path}.lora_{half}.weight"] for half in "AB")
        lengths = tensors.get(f"{PREFIX}{path}.lora_magnitude_vector")
        start = 0
        for part, rank in parts:
            rows, columns = slice(*Target(path, part).rows(len(up))), slice(start, start + rank)
            name = f"{public_name(path)}.slots.{part}."
            found[f"{name}A"] = down[columns].contiguous()
            found[f"{name}B"] = up[rows, columns].contiguous()
            start += rank
        if lengths is not None:
            found[f"{public_name(path)}.magnitude"] = lengths
    return found


def _identical(first: Tensor, second: Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(exact(first), exact(second))


def _is_export(folder: Path) -> bool:
    try:
        return _CONTENTS in read_tensors(folder / WEIGHTS_FILE)[0]
    except (OSError, SafetensorError):
        return False
