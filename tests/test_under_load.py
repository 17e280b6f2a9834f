"""Busy loops end with the command that they accompany, whatever happens to it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.under_load import busy_loops, main

PATIENCE = 60.0  # s; a limit for a hanging test, not a demand
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("status", [0, 3])
def test_the_status_is_the_commands(status: int) -> None:
    assert main([sys.executable, "-c", f"raise SystemExit({status})"]) == status


def test_the_loops_end_after_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), busy_loops() as loops:
        raise KeyboardInterrupt
    assert len(loops) == 2
    assert all(loop.poll() is not None for loop in loops)


@pytest.mark.skipif(sys.platform == "win32", reason="processes keep a parent that has ended")
def test_the_loops_end_when_their_parent_is_killed() -> None:
    code = (
        "import sys; from tests.under_load import busy_loops\n"
        "with busy_loops(): print('busy', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "busy\n"
        parent.kill()
        parent.communicate(timeout=PATIENCE)  # the loops hold its standard output, too
