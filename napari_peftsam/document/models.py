"""Adapters and training runs as a document keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["LiveAdapter", "Run", "StoredAdapter"]


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter in the document.

    Attributes
    ----------
    name
        ``v1``, ``v2``, … or the name of the file it came from.
    digest
        Names the blob that holds its file.
    weights
        Hash of the base weights it works with.
    iou
        Held-out IoU, None if it was not measured.
    from_file
        Whether it was loaded from a file.
    """

    name: str
    digest: str = ""
    weights: str = ""
    iou: float | None = None
    from_file: bool = False


@dataclass(frozen=True)
class LiveAdapter:
    """The model and adapter in use.

    Attributes
    ----------
    model
        Registry name or path of the model; empty if none was loaded.
    name
        Name of the adapter; empty for the bare model.
    strength
        Share of its changes that is applied, from 0 to 1.
    """

    model: str = ""
    name: str = ""
    strength: float = 1.0


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes
    ----------
    adapter
        Name of the adapter it gave; empty if the earlier one stayed.
    config
        Options, as JSON types.
    report
        Curves and figures, as JSON types.
    """

    adapter: str
    config: dict[str, Any]
    report: dict[str, Any]
