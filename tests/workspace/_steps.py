"""Steps that tests do with a workspace."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from napari_peftsam.app.exchange import export_model
from napari_peftsam.app.finetuning import train
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import Accept, PlaneKey
from napari_peftsam.embeddings import PlaneEmbedding
from napari_peftsam.training import TrainEvent, TrainingConfig, TrainingReport


def accept(workspace: Workspace) -> int:
    """Accept the pending object and return its label."""
    label: int = workspace.document.do(Accept())
    return label


def embedding_of(workspace: Workspace, plane: PlaneKey) -> PlaneEmbedding | None:
    """Return the embedding of a plane under the live adapter if it is known."""
    return workspace.engine.embedding(workspace.document.pixels(plane), plane.image)


def training(
    workspace: Workspace, config: TrainingConfig
) -> Generator[TrainEvent, None, TrainingReport]:
    """Train on the objects as they are now, on a copy of the live model."""
    job = workspace.prepare_training(config)()
    return train(job, model=workspace.engine.bare_copy())


def exported(workspace: Workspace, path: Path) -> Path:
    """Write a checkpoint with the live adapter merged in, at its strength."""
    live = workspace.live
    return export_model(workspace.engine.bare_copy(), live.adapter, path, live.strength)
