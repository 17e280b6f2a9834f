"""Running code without its data: shapes are followed, nothing is computed or held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from napari_peftsam.models.memory import LiveBytes

__all__ = ["pretend", "pretend_weights"]

_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


@contextmanager
def pretend() -> Iterator[LiveBytes]:
    """Follow shapes, devices and precisions inside the ``with`` block, and count their bytes.

    Tensors made inside hold no values. Where the code asks for one, it hears that all is
    true, and 1; a selection by a mask selects everything, a search finds nothing.
    """
    with FakeTensorMode(), _Pretending() as live:
        yield live


class _Pretending(LiveBytes):
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func.overloadpacket in _INDEXING:
            args = (args[0], _all_selected(args[1]), *args[2:])
        if func is torch.ops.aten.nonzero.default:
            return args[0].new_empty(0, args[0].dim(), dtype=torch.long)
        try:
            return super().__torch_dispatch__(func, types, args, kwargs)
        except DataDependentOutputException:
            kind = args[0].dtype
            return kind is torch.bool or (1.0 if kind.is_floating_point else 1)


def _all_selected(index: list[Tensor | None]) -> list[Tensor | None]:
    """Replace masks by numbers of as many elements as they have."""
    found: list[Tensor | None] = []
    for part in index:
        if part is None or part.dtype is not torch.bool:
            found.append(part)
        else:
            numbers = torch.empty(part.numel(), dtype=torch.long, device=part.device)
            found += [numbers] * part.dim()
    return found


def pretend_weights(module: nn.Module, device: torch.device) -> None:
    """Let a network that was built on torch's meta device have its weights on `device`.

    To be called inside `pretend`, whose tensors they are.
    """
    known: dict[int, Tensor] = {}

    def stand_in(old: Tensor) -> Tensor:
        if id(old) not in known:
            new = torch.empty(old.shape, dtype=old.dtype, device=device)
            known[id(old)] = (
                nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            )
        return known[id(old)]

    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, stand_in(parameter))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, stand_in(buffer))
