"""Document, live model, adapters and finetuning wired together; runs headless.

Names are imported when they are first used: most of them need torch, which takes seconds
to load, and projects need none of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_peftsam.workspace.adapters import AdapterEntry, AdapterTimeline
    from napari_peftsam.workspace.batch import (
        BatchEvent,
        BatchFinished,
        BatchPlan,
        BatchStarted,
        TaskDone,
        TaskFailed,
        embed_batch,
        segment_batch,
    )
    from napari_peftsam.workspace.choice import ModelChoice, choose_method, choose_recipe
    from napari_peftsam.workspace.demo import (
        DemoConfig,
        DemoEvent,
        DemoProgress,
        DemoReport,
        DemoStage,
        demo,
        run_demo,
    )
    from napari_peftsam.workspace.engine import Engine, Predicted
    from napari_peftsam.workspace.exchange import export_adapter_folder, import_adapter_file
    from napari_peftsam.workspace.folders import (
        DEFAULT_BUDGET,
        FinetuneReport,
        evaluate_folders,
        finetune_folders,
    )
    from napari_peftsam.workspace.jobs import TrainingJob
    from napari_peftsam.workspace.large import SegmentReport, segment_large
    from napari_peftsam.workspace.methods import MethodOverview, compare_methods
    from napari_peftsam.workspace.projects import (
        add_image,
        attach_images,
        locate_image,
        open_document,
        read_image_of,
    )
    from napari_peftsam.workspace.single import export_file, export_model_file, segment_file
    from napari_peftsam.workspace.spread import segment_spread
    from napari_peftsam.workspace.workspace import Workspace, WorkspaceEvents, export_model

__all__ = [
    "DEFAULT_BUDGET",
    "AdapterEntry",
    "AdapterTimeline",
    "BatchEvent",
    "BatchFinished",
    "BatchPlan",
    "BatchStarted",
    "DemoConfig",
    "DemoEvent",
    "DemoProgress",
    "DemoReport",
    "DemoStage",
    "Engine",
    "FinetuneReport",
    "MethodOverview",
    "ModelChoice",
    "Predicted",
    "SegmentReport",
    "TaskDone",
    "TaskFailed",
    "TrainingJob",
    "Workspace",
    "WorkspaceEvents",
    "add_image",
    "attach_images",
    "choose_method",
    "choose_recipe",
    "compare_methods",
    "demo",
    "embed_batch",
    "evaluate_folders",
    "export_adapter_folder",
    "export_file",
    "export_model",
    "export_model_file",
    "finetune_folders",
    "import_adapter_file",
    "locate_image",
    "open_document",
    "read_image_of",
    "run_demo",
    "segment_batch",
    "segment_file",
    "segment_large",
    "segment_spread",
]

_NAMES = {
    "adapters": ("AdapterEntry", "AdapterTimeline"),
    "batch": (
        "BatchEvent",
        "BatchFinished",
        "BatchPlan",
        "BatchStarted",
        "TaskDone",
        "TaskFailed",
        "embed_batch",
        "segment_batch",
    ),
    "choice": ("ModelChoice", "choose_method", "choose_recipe"),
    "demo": (
        "DemoConfig",
        "DemoEvent",
        "DemoProgress",
        "DemoReport",
        "DemoStage",
        "demo",
        "run_demo",
    ),
    "engine": ("Engine", "Predicted"),
    "exchange": ("export_adapter_folder", "import_adapter_file"),
    "folders": ("DEFAULT_BUDGET", "FinetuneReport", "evaluate_folders", "finetune_folders"),
    "jobs": ("TrainingJob",),
    "large": ("SegmentReport", "segment_large"),
    "methods": ("MethodOverview", "compare_methods"),
    "projects": ("add_image", "attach_images", "locate_image", "open_document", "read_image_of"),
    "single": ("export_file", "export_model_file", "segment_file"),
    "spread": ("segment_spread",),
    "workspace": ("Workspace", "WorkspaceEvents", "export_model"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _MODULES[name]
    module = import_module(f"{__name__}.{home}")
    # All of them: the function `demo` must win over the module of that name.
    globals().update({each: getattr(module, each) for each in _NAMES[home]})
    return globals()[name]
