"""The program as a function, and inputs for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli._cases import Inputs, Program, make_inputs, run


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str]) -> Program:
    """Return the program as a function of its arguments."""
    return lambda *arguments: run(capfd, *map(str, arguments))


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Return good inputs that the test may spoil."""
    return make_inputs(tmp_path)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Return good inputs that no test may change."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))
