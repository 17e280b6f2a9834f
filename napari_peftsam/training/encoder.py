"""Image embeddings of planes; activations of frozen blocks are computed once and kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from shutil import disk_usage

import torch
from torch import Tensor

from napari_peftsam.embeddings import ActivationCache
from napari_peftsam.folders import scratch_folder
from napari_peftsam.models import SamModel, encode_prefix, encode_suffix, encode_tensor
from napari_peftsam.models.memory import free_memory
from napari_peftsam.training.config import TrainingConfig
from napari_peftsam.training.samples import ModelPlane, TrainingCrop, varied
from napari_peftsam.training.team import processes_here

_log = logging.getLogger(__name__)

_SHARE = 4  # the cache takes a quarter of what is free, in memory and on disk ...
_MOST_MEMORY = 8 * 2**30  # ... and no more than this
_MOST_DISK = 64 * 2**30


@contextmanager
def open_cache(config: TrainingConfig, device: torch.device) -> Iterator[ActivationCache | None]:
    """Open the cache of a run on `device`; None if the configuration asks for none.

    Processes that train together on one computer get an equal part of its memory and disk.
    """
    if not config.cache_prefix:
        yield None
        return
    memory = config.cache_bytes
    if memory is None:
        memory = min(_part(free_memory(torch.device("cpu"))), _MOST_MEMORY)
    disk = min(_part(_free_disk()), _MOST_DISK)
    with ActivationCache.temporary(memory, disk, pinned=device.type == "cuda") as cache:
        yield cache


def _part(free: int) -> int:
    return free // processes_here() // _SHARE


def _free_disk() -> int:
    """Return the free bytes of the scratch folder's disk, 0 if that is unknown."""
    folder = scratch_folder()  # made when it is needed
    try:
        return disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    except OSError as error:
        _log.warning("what frozen blocks computed is kept in memory only: %s", error)
        return 0


@dataclass(frozen=True, eq=False)
class PlaneEncoder:
    """The image encoder on rotated and cropped planes.

    Attributes
    ----------
    model
        With or without an adapter.
    planes
        By index.
    first
        First block whose output the adapter can change: the blocks before it run without
        gradients, and their activations are kept. The number of blocks if the whole encoder is
        frozen; less than 1 if there is nothing to keep.
    cache
        Keeps them; None computes them anew every time, to the same result. Encoders of
        other adapters of the same base may share it.
    variation
        Strength with which pictures are `varied` while they are learned from; only where nothing
        is kept.
    """

    model: SamModel
    planes: Mapping[int, ModelPlane]
    first: int
    cache: ActivationCache | None = None
    variation: float = 0.0

    @property
    def kept_type(self) -> torch.dtype:
        """The type in which activations of frozen blocks are kept."""
        return torch.float32 if self.model.precision == "fp32" else torch.bfloat16

    def features(
        self,
        plane: int,
        turn: int = 0,
        crop: TrainingCrop | None = None,
        checkpointing: bool = False,
    ) -> Tensor:
        """Return the embedding ``(1, C, h, w)`` of a plane or a crop of it.

        It has a graph if grad mode is on. With `checkpointing`, blocks run again in the backward
        pass instead of keeping their activations.
        """
        model = self.model
        if self.first < 1:
            with model.autocast():
                picture = self.planes[plane].picture(turn, crop)
                if self.variation and torch.is_grad_enabled():
                    picture = varied(picture, self.variation)
                return encode_suffix(model.sam, picture, 0, checkpointing)
        known = self._known(plane, turn, crop).to(model.device, non_blocking=True).float()
        if self.first == model.architecture.depth:
            return known
        with model.autocast():
            return encode_suffix(model.sam, known, self.first, checkpointing)

    def keep(self, planes: Iterable[int]) -> None:
        """Compute what frozen blocks make of planes, as far as it is kept."""
        for plane in planes if self.cache is not None and self.first >= 1 else ():
            self._known(plane, 0, None)

    def _known(self, plane: int, turn: int, crop: TrainingCrop | None) -> Tensor:
        """Return the input of the first changed block, or the embedding if none changes."""
        key = f"{self.first} {plane} {turn} {crop}"
        known = None if self.cache is None else self.cache.get(key)
        if known is not None:
            return known
        sam, picture = self.model.sam, self.planes[plane].picture(turn, crop)
        with torch.no_grad(), self.model.autocast():
            if self.first == self.model.architecture.depth:
                known = encode_tensor(sam, picture)
            else:
                known = encode_prefix(sam, picture, self.first)
        # As the cache gives it back: other strides are multiplied in another order.
        known = known.contiguous().to(self.kept_type)
        if self.cache is not None:
            self.cache.put(key, known)
        return known
