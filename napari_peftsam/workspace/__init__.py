"""Document, live model, adapters and finetuning wired together; runs headless."""

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
from napari_peftsam.workspace.choice import (
    ModelChoice,
    absolute_model,
    choose_method,
    choose_recipe,
)
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
from napari_peftsam.workspace.project_commands import (
    ProjectFinetuneReport,
    evaluate_project,
    export_project,
    finetune_document,
    finetune_project,
    project_model,
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
    "ProjectFinetuneReport",
    "SegmentReport",
    "TaskDone",
    "TaskFailed",
    "TrainingJob",
    "Workspace",
    "WorkspaceEvents",
    "absolute_model",
    "choose_method",
    "choose_recipe",
    "compare_methods",
    "demo",
    "embed_batch",
    "evaluate_folders",
    "evaluate_project",
    "export_adapter_folder",
    "export_file",
    "export_model",
    "export_model_file",
    "export_project",
    "finetune_document",
    "finetune_folders",
    "finetune_project",
    "import_adapter_file",
    "project_model",
    "run_demo",
    "segment_batch",
    "segment_file",
    "segment_large",
    "segment_spread",
]
