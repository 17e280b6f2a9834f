"""Sample data: synthetic microscopy images with instance labels."""

from __future__ import annotations

from .synthetic import MODALITIES, SyntheticImage, generate, generate_any

__all__ = ["MODALITIES", "SyntheticImage", "generate", "generate_any"]
