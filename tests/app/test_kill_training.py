"""No acknowledged action or adapter is lost when a session with training is killed.

``make kill-test`` does more of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

import napari_peftsam as ps
from tests.app.training_session import state
from tests.document._project_cases import check_project
from tests.document.killing import check_nothing_lost, kill_session

KILLS = int(os.environ.get("TRAINING_KILLS", "3"))
FIRST_ROUND, ROUND = 26, 21  # lines until the first version is live, and of a later round


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_training_lost_nothing(
    seed: int, tmp_path: Path, checkpoint: Path, useless: Path
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project = folder / "killed.peftsam"
    adapter = tmp_path / "useless.safetensors"
    adapter.write_bytes(useless.read_bytes())
    # One in three is killed before its first training has ended.
    low, high = (1, FIRST_ROUND) if seed % 3 == 0 else (FIRST_ROUND, FIRST_ROUND + 2 * ROUND)
    after = int(np.random.default_rng(seed).integers(low, high))
    command = [sys.executable, "-m", "tests.app.training_session",
               *map(str, (project, checkpoint, adapter, seed))]  # fmt: skip
    acknowledged = kill_session(command, after)
    if after >= FIRST_ROUND:
        assert "v1=" in acknowledged[-1][1]
    check_nothing_lost(project, acknowledged, state)
    check_it_goes_on(project, checkpoint)


def check_it_goes_on(project: Path, checkpoint: Path) -> None:
    """Reopen the project: its adapters load, the live one is live, and work goes on."""
    with ps.App(project) as app:
        assert app.notes == ()
        app.load_model(checkpoint, "cpu")
        document, adapters = app.document, app.workspace.adapters
        assert [e.name for e in adapters.entries[1:]] == [a.name for a in document.adapters]
        assert app.workspace.live.name == (document.live.name or "base")
        assert app.workspace.live.adapter is adapters[app.workspace.live.name].adapter
        image = app.images["discs"]
        image.prompt(points=[(12, 12)])
        assert document.current is not None
        assert document.current.made_by.adapter == app.workspace.live.name
        image.discard()
        app.document.do(ps.Paint(image.id, np.arange(9), 77))
    with ps.App(project) as app:
        assert app.images["discs"].labels.ravel()[8] == 77
        assert check_project(app.document.store) == []
