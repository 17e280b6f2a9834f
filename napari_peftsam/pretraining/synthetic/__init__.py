"""Generator of synthetic microscopy images with instance labels."""

from __future__ import annotations

from ._camera import imperfect
from ._generate import MODALITIES, SyntheticImage, generate, generate_any, generate_empty

__all__ = [
    "MODALITIES",
    "SyntheticImage",
    "generate",
    "generate_any",
    "generate_empty",
    "imperfect",
]
