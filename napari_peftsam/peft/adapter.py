"""Trained adapters as values, with the identity of their base model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import xxhash
from torch import Tensor

from napari_peftsam.errors import AdapterMismatchError
from napari_peftsam.models import SamModel
from napari_peftsam.normalisation import NORMALISATION
from napari_peftsam.peft.inject import Injection, inject
from napari_peftsam.peft.protocol import MethodConfig

__all__ = [
    "FORMAT_VERSION",
    "Adapter",
    "BaseIdentity",
    "apply_adapter",
    "capture",
    "check_base",
    "content_digest",
]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class BaseIdentity:
    """The model an adapter was trained on; `weights_hash` decides, names are for people."""

    name: str
    architecture: str
    weights_hash: str

    @classmethod
    def of(cls, model: SamModel) -> BaseIdentity:
        """Return the identity of `model`."""
        return cls(model.name, model.architecture.name, model.weights_hash)

    def __str__(self) -> str:
        return f"{self.name} (weights {self.weights_hash[:8]})"


@dataclass(frozen=True, eq=False)
class Adapter:
    """A trained adapter, to be used or trained on; tensors are on the CPU.

    Attributes
    ----------
    config
        Method and options.
    base
        The model it belongs to.
    tensors
        As `Injection.state` returns them.
    normalisation
        Name of the intensity normalisation it was trained with.
    provenance, metrics
        How it was made and how good it was; JSON values.
    """

    config: MethodConfig
    base: BaseIdentity
    tensors: Mapping[str, Tensor] = field(repr=False)
    normalisation: str = NORMALISATION
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @cached_property
    def digest(self) -> str:
        """The xxh128 (hex) of everything that determines its output; not its metrics."""
        return content_digest(self, self.config.model_dump(mode="json"))

    @property
    def changes_embeddings(self) -> bool:
        """True if it changes the image encoder."""
        return self.config.adapts_encoder

    @property
    def mergeable(self) -> bool:
        """True if it can be folded into plain weights."""
        return self.config.mergeable

    @property
    def scalable(self) -> bool:
        """True if it can be used at a strength between 0 and 1."""
        return self.config.scalable


def content_digest(adapter: Adapter, config: Mapping[str, Any]) -> str:
    """Return the digest of `adapter`, its options as they were written in a file.

    A later version's options have more entries, so the digest of a file is that of its text.
    """
    identity = {
        "config": dict(config),
        "weights_hash": adapter.base.weights_hash,
        "normalisation": adapter.normalisation,
    }
    hasher = xxhash.xxh128(json.dumps(identity, sort_keys=True).encode())
    for name in sorted(adapter.tensors):
        tensor = adapter.tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def capture(
    injection: Injection,
    provenance: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Adapter:
    """Return the adapter that `injection` holds now; later training does not change it."""
    return Adapter(
        config=injection.config,
        base=BaseIdentity.of(injection.model),
        tensors=injection.state(),
        provenance=dict(provenance or {}),
        metrics=dict(metrics or {}),
    )


def apply_adapter(model: SamModel, adapter: Adapter) -> Injection:
    """Put a trained adapter into `model`; training can go on from there.

    Raises
    ------
    AdapterMismatchError
        If it was made for another base or normalisation, or its tensors do not fit.
    """
    check_base(model, adapter)
    # The random start is overwritten at once and must not disturb a seeded training.
    with torch.random.fork_rng(devices=[]):
        injection = inject(model, adapter.config, loading=True)
    try:
        injection.load(adapter.tensors)
    except BaseException:
        injection.remove()
        raise
    return injection


def check_base(model: SamModel, adapter: Adapter) -> None:
    """Raise `AdapterMismatchError` unless `adapter` was made for this very base."""
    own = BaseIdentity.of(model)
    if own.weights_hash != adapter.base.weights_hash:
        raise AdapterMismatchError(
            f"this adapter was trained on {adapter.base}, but the model is {own}: "
            f"{_what_to_do(own, adapter.base)}"
        )
    if adapter.normalisation != NORMALISATION:
        raise AdapterMismatchError(
            f"this adapter was trained with the normalisation {adapter.normalisation!r}, but "
            f"this version uses {NORMALISATION!r}: train it again or use the version it was "
            "made with"
        )


def _what_to_do(own: BaseIdentity, wanted: BaseIdentity) -> str:
    if own.name != wanted.name:
        return f"load {wanted.name} to use it"
    return (
        f"these are other weights of {own.name}, as another version of this program may bring: "
        "train again on the same annotations, or use the version it was made with"
    )
