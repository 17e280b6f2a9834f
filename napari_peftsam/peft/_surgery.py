"""Reversible changes of a SAM.

Base tensors are never written to: new modules take the place of old ones and tuned
weights are copies put in the place of the originals, so undoing is putting the very
same objects back and the base is restored bit for bit by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import nn

from napari_peftsam.errors import ConfigurationError

__all__ = ["Surgery"]


@dataclass(frozen=True)
class _Swap:
    """One change; `old` or `new` is None where there was or will be nothing."""

    path: str
    old: nn.Module | nn.Parameter | None
    new: nn.Module | nn.Parameter | None


class Surgery:
    """Record changes made to one model so that they can be undone and done again.

    Paths are relative to `root`, e.g. ``image_encoder.blocks.3.attn.qkv``.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
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
    def replacements(self) -> dict[str, nn.Module]:
        """The new modules that stand in for old ones, by path."""
        return {
            s.path: s.new for s in self._swaps if s.old is not None and isinstance(s.new, nn.Module)
        }

    @property
    def tuned(self) -> dict[str, nn.Parameter]:
        """The trainable copies of base weights, by path."""
        return {s.path: s.new for s in self._swaps if isinstance(s.new, nn.Parameter)}

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

    def replace(self, path: str, module: nn.Module) -> None:
        """Put `module` in the place of the module at `path`."""
        self._apply(_Swap(path, self.root.get_submodule(path), module))

    def add(self, path: str, module: nn.Module) -> None:
        """Register `module` at `path`, where nothing may be yet."""
        self._apply(_Swap(path, None, module))

    def tune(self, choose: Callable[[str], bool]) -> None:
        """Make a trainable copy of every parameter whose path is chosen."""
        for path, old in list(self.root.named_parameters()):
            if choose(path):
                copy = nn.Parameter(old.detach().clone())
                self._apply(_Swap(path, old, copy))

    def undo(self) -> None:
        """Put the original objects back."""
        for swap in reversed(self._swaps):
            _put(self.root, swap.path, swap.old)

    def redo(self) -> None:
        """Put the new objects back after `undo`."""
        for swap in self._swaps:
            _put(self.root, swap.path, swap.new)

    def _apply(self, swap: _Swap) -> None:
        _put(self.root, swap.path, swap.new)
        self._swaps.append(swap)


def _put(root: nn.Module, path: str, value: nn.Module | nn.Parameter | None) -> None:
    parent_path, _, name = path.rpartition(".")
    parent = root.get_submodule(parent_path)
    if value is None:
        delattr(parent, name)
    else:
        setattr(parent, name, value)
