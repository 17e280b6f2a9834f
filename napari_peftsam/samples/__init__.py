"""Sample data: synthetic microscopy images, and a few real ones, with instance labels."""

from __future__ import annotations

from .shipped import ShippedSample, SplitName, shipped_samples
from .synthetic import MODALITIES, SyntheticImage, generate, generate_any

__all__ = [
    "MODALITIES",
    "ShippedSample",
    "SplitName",
    "SyntheticImage",
    "generate",
    "generate_any",
    "shipped_samples",
]
