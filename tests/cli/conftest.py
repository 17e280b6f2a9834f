"""The program as a function, and inputs for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli._cases import Inputs, Program, make_inputs, run


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str]) -> Program:
    """Return the program as a function of its arguments."""
    return lambda *arguments: run(capfd, *map(str, arguments))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Return good inputs that no test may change."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def inputs(shared: Inputs, tmp_path: Path) -> Inputs:
    """Return good inputs that the test may spoil."""
    shutil.copytree(shared.root, tmp_path, dirs_exist_ok=True)
    return Inputs(tmp_path)
