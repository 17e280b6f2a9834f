"""Reversible changes of a SAM.

Base tensors are never written to: new modules take the place of old ones and tuned
weights are copies put in the place of the originals, so undoing is putting the very
same objects back and the base is restored bit for bit by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from napari_peftsam.errors import ConfigurationError


class Replacement(nn.Module):
    """A module that takes the place of another one.

    Attributes
    ----------
    strength
        Factor on its update, which must vanish linearly: at 0 the module would be the one it
        replaced. Of methods that cannot be weakened it stays 1.
    """

    strength: float = 1.0

    def folded_state(self) -> dict[str, Tensor]:
        """Return the replaced module's state dict with the adapter folded in, on CPU."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Swap:
    """One change; `old` is None for an addition, and moves to the CPU if `parked`."""

    path: str
    old: nn.Module | nn.Parameter | None
    new: nn.Module | nn.Parameter
    parked: bool = False


class Surgery:
    """Record changes made to one model so that they can be undone and done again.

    Paths are relative to `root`, e.g. ``image_encoder.blocks.3.attn.qkv``.

    Attributes
    ----------
    loading
        Whether a trained adapter overwrites all new tensors, so that a costly start is skipped.
    """

    def __init__(self, root: nn.Module, loading: bool = False) -> None:
        self.root = root
        self.loading = loading
        self._swaps: list[_Swap] = []

    @property
    def encoder(self) -> nn.Module:
        """The image encoder of the model."""
        return self.root.get_submodule("image_encoder")

    @property
    def depth(self) -> int:
        """The number of transformer blocks of the encoder."""
        return len(cast("nn.ModuleList", self.encoder.get_submodule("blocks")))

    @property
    def replacements(self) -> dict[str, Replacement]:
        """The new modules that stand in for old ones, by path."""
        return {s.path: s.new for s in self._swaps if isinstance(s.new, Replacement)}

    @property
    def constants(self) -> dict[str, Tensor]:
        """The untrained buffers of the new modules, by path."""
        return {
            f"{swap.path}.{name}": buffer
            for swap in self._swaps
            if isinstance(swap.new, nn.Module)
            for name, buffer in swap.new.named_buffers()
            if not name.startswith("base.")
        }

    def tuned(self, strength: float = 1.0) -> dict[str, nn.Parameter]:
        """Return the trainable copies of base weights, by path.

        Below strength 1, return copies interpolated between base and adapter.
        """
        return {
            swap.path: _weakened(swap, strength)
            for swap in self._swaps
            if isinstance(swap.new, nn.Parameter)
        }

    @property
    def changed(self) -> tuple[str, ...]:
        """Paths of everything replaced, added or tuned."""
        return tuple(s.path for s in self._swaps)

    def layer(self, path: str) -> nn.Linear:
        """Return the linear layer at `path`, or raise `ConfigurationError`."""
        try:
            found = self.root.get_submodule(path)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Linear):
            kind = "nothing" if found is None else type(found).__name__
            raise ConfigurationError(
                f"expected a linear layer at {path}, found {kind}: "
                "this model cannot be adapted by this method"
            )
        return found

    def replace(self, path: str, module: Replacement, park: bool = False) -> None:
        """Put `module` in the place of the module at `path`.

        With `park`, the method `park` moves the old one to the CPU to spare device memory.
        """
        self._apply(_Swap(path, self.root.get_submodule(path), module, park))

    def add(self, path: str, module: nn.Module) -> None:
        """Register `module` at `path`, where nothing may be yet."""
        self._apply(_Swap(path, None, module))

    def tune(self, choose: Callable[[str], bool]) -> None:
        """Make a trainable copy of every parameter whose path is chosen."""
        for path, old in list(self.root.named_parameters()):
            if choose(path):
                copy = nn.Parameter(old.detach().clone())
                self._apply(_Swap(path, old, copy))

    def park(self) -> None:
        """Move the parked modules to the CPU; `undo` moves them back."""
        for swap in self._swaps:
            if swap.parked and isinstance(swap.old, nn.Module):
                swap.old.to("cpu")

    def undo(self) -> None:
        """Put the original objects back."""
        device = next(self.root.parameters()).device
        for swap in reversed(self._swaps):
            if swap.parked and isinstance(swap.old, nn.Module):
                swap.old.to(device)
            _put(self.root, swap.path, swap.old)

    def redo(self, strength: float = 1.0) -> None:
        """Put the new objects back after `undo`, their changes multiplied by `strength`.

        Below strength 1, tuned weights are interpolated copies.
        """
        for swap in self._swaps:
            if isinstance(swap.new, nn.Parameter):
                _put(self.root, swap.path, _weakened(swap, strength))
                continue
            if isinstance(swap.new, Replacement):
                swap.new.strength = strength
            _put(self.root, swap.path, swap.new)
        self.park()

    def train(self, mode: bool) -> None:
        """Switch the new modules to training or evaluation."""
        for swap in self._swaps:
            if isinstance(swap.new, nn.Module):
                swap.new.train(mode)

    def _apply(self, swap: _Swap) -> None:
        if isinstance(swap.new, nn.Module):
            swap.new.eval()
        _put(self.root, swap.path, swap.new)
        self._swaps.append(swap)


def _put(root: nn.Module, path: str, value: nn.Module | nn.Parameter | None) -> None:
    parent_path, _, name = path.rpartition(".")
    parent = root.get_submodule(parent_path)
    if value is None:
        delattr(parent, name)
    else:
        setattr(parent, name, value)


def _weakened(swap: _Swap, strength: float) -> nn.Parameter:
    new, old = swap.new, swap.old
    assert isinstance(new, nn.Parameter)
    assert isinstance(old, nn.Parameter)
    if strength == 1:
        return new
    return nn.Parameter(torch.lerp(old.detach(), new.detach(), strength), requires_grad=False)
