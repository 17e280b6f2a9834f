"""Plain SAM weights with an adapter folded in, which any SAM software can load."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import SamModel
from napari_peftsam.models.sam_parts import Sam
from napari_peftsam.peft.adapter import Adapter, check_base
from napari_peftsam.peft.inject import Injection, check_method, check_not_adapted, operate
from napari_peftsam.peft.methods import METHODS
from napari_peftsam.peft.protocol import MethodConfig
from napari_peftsam.peft.surgery import Surgery

__all__ = ["merge"]


def merge(model: SamModel, adapter: Adapter, strength: float = 1.0) -> dict[str, Tensor]:
    """Return a state dict with exactly the keys of ``model.sam``, adapter included.

    The model is never changed, so another thread may go on predicting with it. Updates are summed
    in float64. Untouched tensors share memory with a model on the CPU.

    Raises
    ------
    ConfigurationError
        If the method cannot be folded into plain weights, or the model carries an
        adapter already.
    AdapterMismatchError
        If the adapter belongs to another base or its tensors do not fit.
    """
    method = adapter.config
    check_not_adapted(model.sam)
    check_method(model, adapter.config, running=False)
    if not method.mergeable:
        known = ", ".join(name for name, m in METHODS.items() if m.mergeable)
        raise ConfigurationError(
            f"{method.title} cannot be merged into plain weights: keep its adapter file, or "
            f"train one of {known}"
        )
    check_base(model, adapter)
    merged = {name: tensor.detach().cpu() for name, tensor in model.sam.state_dict().items()}
    for name, tensor in _changes(model, adapter, strength).items():
        merged[name] = tensor.to(merged[name].dtype)
    return merged


def _changes(model: SamModel, adapter: Adapter, strength: float) -> dict[str, Tensor]:
    injection, surgery = adapted_twin(model, adapter)
    injection.set_strength(strength)
    if strength == 0:
        return {}
    changes: dict[str, Tensor] = {}
    for path, value in surgery.tuned(strength).items():
        changes[path] = value.detach().cpu()
    for path, module in surgery.replacements.items():
        changes.update({f"{path}.{key}": value for key, value in module.folded_state().items()})
    return changes


def adapted_twin(
    model: SamModel, adapter: Adapter, config: MethodConfig | None = None
) -> tuple[Injection, Surgery]:
    """Put an adapter into a copy of the network that shares its storage.

    The model is never changed, so another thread may go on predicting with it. `config` defaults
    to the adapter's own; see `MethodConfig.over_plain_layers`.
    """
    twin = replace(model, sam=_structural_copy(model.sam), dense_head=None)
    config = config or adapter.config
    with torch.random.fork_rng(devices=[]):
        surgery = operate(twin, config, loading=True, running=False)
    injection = Injection(twin, config, surgery)
    injection.load(adapter.injected)
    return injection, surgery


def _structural_copy(sam: Sam) -> Sam:
    """Copy all modules but share all storage; parameters are new objects, to be frozen."""
    shared: dict[int, object] = {id(b): b for b in sam.buffers()}
    for parameter in sam.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(sam, shared)
