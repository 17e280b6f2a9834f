"""Who computes which part of a step: one process, or several that share the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

__all__ = ["Alone", "Team"]


class Team(Protocol):
    """Processes that take the steps of one training together.

    Every process has all data, computes some of the micro-batches of each step, and ends
    the step with the sum of all gradients, hence with the same parameters.
    """

    @property
    def leads(self) -> bool:
        """Whether this process decides, speaks and writes for all."""
        ...

    def share(self, micro_batches: int) -> Sequence[int]:
        """Return which micro-batches of a step are computed here, by their index in the step."""
        ...

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor, in place, by its sum over all processes."""
        ...

    def add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give every parameter the sum of its gradients over all processes.

        One that has no gradient in any process has none afterwards: the optimiser leaves it
        alone, which is not the same as a gradient of zero.
        """
        ...

    def agree(self, value: float) -> float:
        """Return the leading process' value, so that all take the same decision on it."""
        ...


class Alone:
    """A process without others."""

    @property
    def leads(self) -> bool:
        """Yes."""
        return True

    def share(self, micro_batches: int) -> Sequence[int]:
        """Return all of them."""
        return range(micro_batches)

    def add_up(self, tensor: Tensor) -> None:
        """Leave the tensor as it is."""

    def add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Leave the gradients as they are."""

    def agree(self, value: float) -> float:
        """Return the value."""
        return value
