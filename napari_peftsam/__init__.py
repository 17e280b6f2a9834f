"""Annotate microscopy images with Segment Anything in napari, and adapt it cheaply.

What the command line does is one call here; they are imported when first used, because
torch takes seconds to load.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("napari-peftsam")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"

_CALLS = (
    "ModelChoice",
    "Workspace",
    "evaluate_folders",
    "export_file",
    "export_model_file",
    "finetune_folders",
    "run_demo",
    "segment_file",
)

__all__ = ["__version__", *_CALLS]  # noqa: PLE0604  # texts, but not literal ones


def __getattr__(name: str) -> Any:
    if name in _CALLS:
        return getattr(import_module("napari_peftsam.workspace"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
