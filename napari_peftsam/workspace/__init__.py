"""Session, live model, adapters and finetuning wired together; runs headless."""

from napari_peftsam.workspace.adapters import AdapterEntry, AdapterTimeline
from napari_peftsam.workspace.engine import Engine
from napari_peftsam.workspace.jobs import TrainingJob
from napari_peftsam.workspace.workspace import Workspace, WorkspaceEvents, export_model

__all__ = [
    "AdapterEntry",
    "AdapterTimeline",
    "Engine",
    "TrainingJob",
    "Workspace",
    "WorkspaceEvents",
    "export_model",
]
