"""A network like that of a model, sharing its tensors, with an adapter in it."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from segment_anything.modeling import Sam
from torch import nn

from napari_peftsam.models import SamModel
from napari_peftsam.peft._surgery import Surgery
from napari_peftsam.peft.adapter import Adapter
from napari_peftsam.peft.config import MethodConfig
from napari_peftsam.peft.inject import Injection, operate

__all__ = ["adapted_twin"]


def adapted_twin(
    model: SamModel, adapter: Adapter, config: MethodConfig | None = None
) -> tuple[Injection, Surgery]:
    """Put an adapter into a copy of the network, to look at what it became there.

    The model itself is not changed, not even for a moment, so another thread may go on
    predicting with it. What the adapter does not touch shares memory with the model.

    Parameters
    ----------
    model
        The base, without adapter.
    adapter
        What is put in.
    config
        By default the adapter's own; see `PeftMethod.over_plain_layers`.

    Raises
    ------
    AdapterMismatchError
        If its tensors do not fit.
    ConfigurationError
        If its method does not fit the model.
    """
    twin = replace(model, sam=_structural_copy(model.sam), dense_head=None)
    config = config or adapter.config
    with torch.random.fork_rng(devices=[]):
        surgery = operate(twin, config, loading=True, running=False)
    injection = Injection(twin, config, surgery)
    injection.load(adapter.tensors)
    return injection, surgery


def _structural_copy(sam: Sam) -> Sam:
    """Copy all modules but share all storage; an injection writes to none of it.

    Parameters are new objects, since an injection freezes those that it finds.
    """
    shared: dict[int, object] = {id(b): b for b in sam.buffers()}
    for parameter in sam.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(sam, shared)
