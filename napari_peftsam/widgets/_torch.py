"""Imports torch into a process that shows a window already, and looks for models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.heap import spare_collections
from napari_peftsam.widgets._runner import notify
from napari_peftsam.widgets._settings import plugin_settings, use_preferred_model_folder

if TYPE_CHECKING:
    from napari_peftsam.models import ModelEntry


@dataclass(frozen=True)
class FoundModels:
    """Models and GPU memory, known once torch is imported; see `ViewerSession`."""

    models: tuple[ModelEntry, ...]
    gpu_memory: int | None


def find_models() -> FoundModels:
    """Import what needs torch, and ask the GPU, which takes time, too."""
    import napari_peftsam.app.workspace  # noqa: F401  # what every model needs, and torch
    from napari_peftsam.models import REGISTRY, available_models, device_memory

    spare_collections()
    use_preferred_model_folder()
    try:
        models = available_models()
    except ConfigurationError as error:  # in the user's own entries: the others are there
        notify(error)
        models = tuple(REGISTRY.values())
    try:
        memory = device_memory(plugin_settings().device)
    except ConfigurationError:  # not there, which loading a model will tell
        memory = None
    return FoundModels(models, memory)
