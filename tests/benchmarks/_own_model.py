"""Our models as the benchmarks build them."""

from __future__ import annotations

from dataclasses import replace

from napari_peftsam.models import SamModel, build, build_random

__all__ = ["own_model"]


def own_model(name: str, precision: str = "auto", device: str = "cpu") -> SamModel:
    """Return the built-in model, or an architecture with random weights."""
    if name == "builtin":
        return build(name, device, precision=precision)
    model = build_random(name)
    model.sam.to(device)
    return replace(model, precision=precision)  # what suits the device that it is on now
