from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from _folders import Inputs, Outcome, make_inputs, run

Program = Callable[..., Outcome]


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str]) -> Program:
    """Return the program as a function of its arguments."""
    return lambda *arguments: run(capfd, *arguments)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Return inputs that no test may change, with a trained adapter and its base."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))
