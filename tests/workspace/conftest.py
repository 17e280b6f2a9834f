"""A workspace with a tiny model and one image of bright discs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from napari_peftsam.app.workspace import Workspace
from napari_peftsam.batch.local import local_cluster
from napari_peftsam.models import build_tiny
from tests.training._world import make_plane

if TYPE_CHECKING:
    from distributed import LocalCluster


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(build_tiny().sam.state_dict(), path)
    return path


@pytest.fixture
def workspace(checkpoint: Path, tmp_path: Path) -> Workspace:
    workspace = Workspace(store=tmp_path / "embeddings")
    workspace.load_model(checkpoint, "cpu")
    workspace.document.add_image("discs", make_plane("discs").pixels)
    return workspace


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Start two worker processes that tests share, as a cluster of one's own is shared."""
    from distributed import nanny
    from distributed.deploy import spec

    with pytest.MonkeyPatch.context() as patch:
        for module in (nanny, spec):  # pytest's handlers would be silent until the cluster ends
            patch.setattr(module, "silence_logging_cmgr", lambda **_: nullcontext())
        with local_cluster(2, None) as started:
            yield started
