"""Processes that take the steps of one training together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

from napari_peftsam.errors import ConfigurationError, TrainingError, printable

__all__ = ["Team", "joined_team", "team_size"]

T = TypeVar("T")

_BUCKET = 16 * 1024**2  # values that are added up at once: 64 MB of memory
_DIGITS = 6  # of a number of processes
_PATIENCE = 10.0  # seconds in which torchrun ends the others when one process has failed


def team_size() -> int:
    """Return the number of processes that ``torchrun`` has started, 1 without it."""
    return _announced("WORLD_SIZE")


def processes_here() -> int:
    """Return the number of these processes that share this computer, its memory and disk."""
    return _announced("LOCAL_WORLD_SIZE")


def _announced(variable: str) -> int:
    found = os.environ.get(variable, "1") if distributed.is_torchelastic_launched() else "1"
    if not (found.isdecimal() and len(found) <= _DIGITS and int(found)):
        raise ConfigurationError(
            f"{variable} must be a number of processes, got {printable(found, 40)!r}: start this "
            "with torchrun"
        )
    return int(found)


@contextmanager
def joined_team(device: str) -> Iterator[Team]:
    """Join the other processes if this one was started by ``torchrun``, else be alone.

    Parameters
    ----------
    device
        ``cuda``: process number ``LOCAL_RANK`` of a computer takes the GPU of that number,
        and they talk through NCCL; otherwise through gloo.
    """
    if not distributed.is_torchelastic_launched():
        yield Team()
        return
    _join(device)
    try:
        yield _ProcessTeam(torch.device(device))
    finally:
        _leave()


def _join(device: str) -> None:
    if torch.device(device).type != "cuda":
        distributed.init_process_group("gloo")
        return
    local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= there:
        raise TrainingError(
            f"process {local + 1} of this computer has no GPU, as there are {there}: start at most "
            f"as many with --nproc-per-node {there}"
        )
    torch.cuda.set_device(local)  # what "cuda" means from now on
    distributed.init_process_group("nccl", device_id=torch.device("cuda", local))


def _leave() -> None:
    """Destroy the default process group without holding Python's lock.

    torch 2.6 joins gloo's threads under that lock. A thread that still frees a tensor needs the
    lock, too, and both wait for ever. A backend that Python refers to is destroyed without it.
    """
    backends = []
    if distributed.get_backend() == "gloo" and distributed.group.WORLD is not None:
        cpu = torch.device("cpu")
        backends.append(distributed.group.WORLD._get_backend(cpu))  # noqa: SLF001 (torch's own)
    distributed.destroy_process_group()
    backends.clear()


class Team:
    """The processes of a training; this class itself is one process alone.

    Every process has all data, computes some of the micro-batches of each step, and ends
    the step with the sum of all gradients, hence with the same parameters.

    Attributes
    ----------
    leads
        True in the process that decides, prints and writes for all.
    """

    leads: bool = True

    def share(self, micro_batches: int) -> Sequence[int]:
        """Return the micro-batches of a step that this process computes, by their index."""
        return range(micro_batches)

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor, in place, by its sum over all processes."""

    def add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give every parameter the sum of its gradients over all processes.

        A parameter without a gradient in any process has none afterwards: the optimiser
        leaves it alone, which is not the same as a gradient of zero.
        """

    def broadcast(self, value: float) -> float:
        """Return the leading process' value, so that all take the same decision on it."""
        return value

    def from_leader(self, compute: Callable[[], T]) -> T:
        """Return what the leading process computes, in all of them; the others wait for it."""
        return compute()


class _ProcessTeam(Team):
    """The processes of the default group of `torch.distributed`.

    Every process has the whole model, and gradients are added up by ``all_reduce`` in buckets,
    once per step. `torch.nn.parallel.DistributedDataParallel` does not fit: it hooks into one
    backward pass after one forward pass of one module. A step here runs parts of the encoder
    from cached activations, then several backward passes against a detached embedding and one
    through the encoder; the parameters that take part differ by process and step. Its gain,
    communication during the backward pass, is little for adapters of a few MB.
    """

    def __init__(self, device: torch.device) -> None:
        self._rank, self._size = distributed.get_rank(), distributed.get_world_size()
        self.leads = self._rank == 0
        self._device = device

    def share(self, micro_batches: int) -> Sequence[int]:
        return range(self._rank, micro_batches, self._size)

    def add_up(self, tensor: Tensor) -> None:
        with _together():
            distributed.all_reduce(tensor)

    def add_up_gradients(self, parameters: Sequence[Tensor]) -> None:
        has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        has = has.to(self._device)
        with _together():
            distributed.all_reduce(has, op=distributed.ReduceOp.MAX)
        used = [p for p, any_has in zip(parameters, has.tolist(), strict=True) if any_has]
        for bucket in _buckets(used):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([g.reshape(-1) for g in gradients])
            self.add_up(flat)
            parts = flat.split([p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def broadcast(self, value: float) -> float:
        shared = torch.tensor(value, dtype=torch.float64, device=self._device)
        with _together():
            distributed.broadcast(shared, src=0)
        return float(shared)

    def from_leader(self, compute: Callable[[], T]) -> T:
        shared = [compute() if self.leads else None]
        with _together():
            distributed.broadcast_object_list(shared, src=0)
        return cast("T", shared[0])


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield neighbouring parameters of one type, about a bucket's size at once."""
    for _, alike in groupby(parameters, key=lambda p: p.dtype):
        bucket: list[Tensor] = []
        for parameter in alike:
            bucket.append(parameter)
            if sum(p.numel() for p in bucket) >= _BUCKET:
                yield bucket
                bucket = []
        if bucket:
            yield bucket


@contextmanager
def _together() -> Iterator[None]:
    """Raise `TrainingError` inside the block if another process has failed."""
    try:
        yield
    except RuntimeError as error:
        # The process that failed has said why, and torchrun ends this one any moment.
        time.sleep(_PATIENCE)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TrainingError(
            f"the connection to the other processes of the training was lost ({reason})"
        ) from error
