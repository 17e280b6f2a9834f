"""Adapters from the checkpoints of micro-sam's LoRA training, that is of PEFT-SAM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from napari_peftsam.errors import AdapterMismatchError, CheckpointError
from napari_peftsam.models import (
    SamModel,
    available_models,
    checkpoint_state,
    read_lora_checkpoint,
    read_state_dict,
)
from napari_peftsam.peft._found import FoundUpdate, Told, assemble_found
from napari_peftsam.peft._low_rank import Factors
from napari_peftsam.peft._matrices import Slot
from napari_peftsam.peft.adapter import Adapter

__all__ = ["read_checkpoint"]

_ENCODER = "image_encoder."
_FACTOR = 1.0  # of micro-sam's updates: a constant there, and in no checkpoint


def read_checkpoint(path: Path, model: SamModel, told: Told) -> Adapter:
    """Read a checkpoint; see `napari_peftsam.peft.exchange.import_adapter`."""
    weights, pairs = read_lora_checkpoint(path, model)
    base = {
        name: tensor.detach().cpu()
        for name, tensor in checkpoint_state(model.architecture, model.sam.state_dict()).items()
    }
    trained = {name for name, _ in model.sam.named_parameters() if not name.startswith(_ENCODER)}
    frozen = {name: tensor for name, tensor in weights.items() if name not in trained}
    if not _same(frozen, base):
        raise AdapterMismatchError(
            f"{path} was not trained on {model.name}: its frozen image encoder is another one; "
            f"choose the model {_origin(frozen, model)}"
        )
    scale = _FACTOR if told.alpha is None else told.alpha
    updates = [
        FoundUpdate(Slot(pair.layer, pair.part), Factors(pair.down, pair.up, scale))
        for pair in pairs
    ]
    whole = {name: weights[name] for name in sorted(trained)}
    return assemble_found(path.name, model, updates, whole, told)


def _same(frozen: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> bool:
    return all(
        name in base and torch.equal(tensor.float(), base[name].float())
        for name, tensor in frozen.items()
    )


def _origin(frozen: Mapping[str, Tensor], model: SamModel) -> str:
    """Say which model on this computer has this encoder, or where to look for it."""
    kinds = ("", model.architecture.name)  # of some only the checkpoint tells
    entries = [entry for entry in available_models() if entry.architecture in kinds]
    for entry in entries:
        if entry.path is None:
            continue
        try:
            state = read_state_dict(entry.path)
        except CheckpointError:
            continue
        if _same(frozen, state):
            return f"{entry.name}, which has it"
    names = [entry.name for entry in entries if entry.name != model.name]
    return f"that it was trained from: {', '.join([*names, 'or the path of its checkpoint'])}"
