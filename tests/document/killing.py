"""Kill a session at a random moment and see that nothing it acknowledged is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from napari_peftsam.document import (
    Document,
    Paint,
    open_project,
    replay,
    verify,
)
from tests.document._project_cases import check_project
from tests.document.scripted_session import digest

ROOT = Path(__file__).parents[2]
Acknowledged = list[tuple[int, str]]


def session_command(project: Path, seed: int) -> list[str]:
    """Return the command of a session without training."""
    return [sys.executable, "-m", "tests.document.scripted_session", str(project), str(seed)]


def kill_session(command: Sequence[str], after: int) -> Acknowledged:
    """Run a session, kill it once it has acknowledged `after` actions, and return all it did.

    Each line of its output is the number of an action and a word for the document after it.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [line for _, line in zip(range(after), process.stdout, strict=False)]
        process.kill()
        # What it acknowledged before the signal came counts, too; of a cut line nothing is known.
        lines += process.stdout.readlines()
        errors = process.stderr.read()
    assert len(lines) >= after, errors
    parts = [line.split() for line in lines if line.endswith("\n")]
    return [(int(number), found) for number, found in parts]


def check_nothing_lost(
    project: Path, acknowledged: Acknowledged, state: Callable[[Document], str] = digest
) -> None:
    """Open a project after its session was killed, compare it with the lines, and go on.

    Parameters
    ----------
    project
        Its file, alone in a folder.
    acknowledged
        As of `kill_session`.
    state
        Gives the word that the lines hold beside the number.
    """
    store = open_project(project, must_write=True)
    number, expected = acknowledged[-1]
    assert store.last_number >= number
    assert state(replay(store, number)) == expected
    assert check_project(store) == []
    assert verify(store)[1] == []
    document = Document(store)
    for adapter in document.adapters:
        store.blob(adapter.digest)
    before = digest(document)
    image = next(iter(document.images))
    document.do(Paint(image, np.arange(50), document.image(image).next_label))
    document.undo()
    assert digest(document) == before
    store.close()
    assert [path.name for path in project.parent.iterdir()] == [project.name]
