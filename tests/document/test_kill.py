"""No acknowledged action is lost when the process is killed; ``make kill-test`` does more."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.document.killing import check_nothing_lost, kill_session, session_command

KILLS = int(os.environ.get("KILLS", "17"))


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_session_lost_nothing(tmp_path: Path, seed: int) -> None:
    project = tmp_path / "killed.peftsam"
    after = int(np.random.default_rng(seed).integers(1, 40))
    acknowledged = kill_session(session_command(project, seed), after)
    check_nothing_lost(project, acknowledged)
