"""Pauses of a training, so that a prompt need not share the processor with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from segment_anything.modeling import Sam
from torch import Tensor, nn

__all__ = ["LONGEST_PAUSE", "Pauses", "give_way_inside"]

LONGEST_PAUSE = 5.0
"""Seconds after which a pause ends by itself: a forgotten one must not stop the training."""


_PARTS = (".attn", ".self_attn", ".mlp")


class Pauses:
    """Pauses in which one thread holds up another one.

    Parameters
    ----------
    longest
        Seconds that one pause takes at most; `begin` during a pause starts it anew.
    """

    def __init__(self, longest: float = LONGEST_PAUSE) -> None:
        self._longest = longest
        self._ends = 0.0
        self._going = threading.Event()
        self._going.set()

    def begin(self) -> None:
        """Begin a pause: calls of `wait` block from now on."""
        self._ends = monotonic() + self._longest
        self._going.clear()

    def end(self) -> None:
        """End the pause."""
        self._going.set()

    def wait(self) -> None:
        """Return at once or, during a pause, when it has ended."""
        while not self._going.is_set():
            if not self._going.wait(max(0.0, self._ends - monotonic())) and (
                monotonic() >= self._ends
            ):
                self._going.set()


def give_way_inside(sam: Sam, give_way: Callable[[], object]) -> None:
    """Let a network call `give_way` between its parts, forwards and backwards.

    Parts are attention and MLP of each block, in the image encoder and the mask decoder:
    one step of the training takes seconds for a large model, one part a fraction of that.
    """

    def before(*_: Any) -> None:
        give_way()

    def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(before)

    for name, module in sam.named_modules():
        if name.endswith(_PARTS):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
