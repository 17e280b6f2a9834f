"""A workspace with a tiny model and one image of bright discs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from napari_peftsam.models import build_tiny
from napari_peftsam.workspace import Workspace
from tests.training._world import make_plane


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(build_tiny().sam.state_dict(), path)
    return path


@pytest.fixture
def workspace(checkpoint: Path, tmp_path: Path) -> Workspace:
    workspace = Workspace(store=tmp_path / "embeddings")
    workspace.load_model(checkpoint, "cpu")
    workspace.session.add_image("discs", make_plane("discs").pixels)
    return workspace
