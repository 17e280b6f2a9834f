"""Sample images that ship with the package: real ones with labels, and synthetic ones."""

from __future__ import annotations

from .shipped import (
    ShippedSample,
    SplitName,
    SyntheticName,
    shipped_samples,
    shipped_synthetic,
)

__all__ = [
    "ShippedSample",
    "SplitName",
    "SyntheticName",
    "shipped_samples",
    "shipped_synthetic",
]
