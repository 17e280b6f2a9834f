"""Annotate microscopy images with Segment Anything in napari, and adapt it cheaply.

`App` is the entry point for scripts: each command is one call on it. Everything is
imported when first used, because torch takes seconds to load.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("napari-peftsam")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"

_NAMES = {
    "document": (
        # the document, its actions, and what they are made of
        "Accept", "AcceptObjects", "AddPoint", "Categorize", "ChooseCandidate", "DeleteObjects",
        "Discard", "Reopen", "UseCategory", "AcceptProposals", "RejectProposals", "Suggest",
        "Document", "ImportLabels", "MarkComplete", "MergeObjects", "NewObject", "Paint",
        "PaintBackground", "PlaneKey", "QueuePrompts", "Redo", "RemoveImage", "RemoveLastPrompt",
        "RenameImage", "SetBox", "SetPrompts", "Undo", "CompleteRegion", "ObjectRecord",
        "ProposalRecord", "BeginCount", "CountTile",
        "create_project", "open_project", "recover_project", "replay", "save_copy", "summary",
        "verify",
    ),
    "errors": ("PeftSamError",),
    "training": ("TrainingConfig",),
    "types": ("Box", "Point", "Prompts"),
    "projects": ("locate_image",),
    "app.app": ("App", "ProjectImage"),
    "app.choice": ("ModelChoice",),
    "app.corrections": ("cut_object", "grow_objects", "relabel_object", "split_at", "split_object"),
    "app.demo": ("run_demo",),
    "app.folders": ("evaluate_folders", "finetune_folders"),
    "app.project_commands": ("evaluate_project", "export_project", "finetune_project"),
    "app.exchange": ("export_file", "export_model_file", "segment_file"),
    "app.suggesting": ("SuggestOptions",),
    "app.workspace": ("Workspace",),
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *_MODULES]  # noqa: PLE0604  # texts, but not literal ones


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"napari_peftsam.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
