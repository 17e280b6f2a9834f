"""Our models as the benchmarks build them."""

from __future__ import annotations

from dataclasses import replace

from napari_peftsam.models import SamModel, architecture, build, build_random

__all__ = ["model_side", "own_model"]


def own_model(
    name: str, precision: str = "auto", device: str = "cpu", frame: int | None = None
) -> SamModel:
    """Return the built-in model, or an architecture with random weights, at a frame if named."""
    if name == "builtin":
        return build(name, device, precision=precision)
    model = build_random(name, frame=frame)
    model.sam.to(device)
    return replace(model, precision=precision)  # what suits the device that it is on now


def model_side(name: str) -> int:
    """Return the side of an architecture's own frame, in pixels."""
    return architecture(name).image_size
