"""Imports torch into a process that shows a window already, and looks for models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_peftsam.errors import ConfigurationError
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
    _import_workspace()
    from napari_peftsam.models import REGISTRY, available_models, device_memory

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


def _import_workspace() -> None:
    """Import the workspace, and with it torch; takes seconds the first time."""
    with _without_triton():
        import napari_peftsam.app.workspace  # noqa: F401


@contextmanager
def _without_triton() -> Iterator[None]:
    """Let torchvision believe that triton is not installed.

    torchvision 0.29 imports torch's compiler, which imports triton if it finds it. Its
    library and Mesa's OpenGL drivers, which the window has loaded by then, each hold
    an LLVM: loading the second ends the process with a segmentation fault (seen with
    torch 2.15, triton 3.9 and Mesa's llvmpipe). The compiler is not used here.
    """
    absent = "triton" not in sys.modules
    if absent:
        sys.modules["triton"] = None  # type: ignore[assignment]  # Python's way to say so
    try:
        yield
    finally:
        if absent:
            del sys.modules["triton"]
