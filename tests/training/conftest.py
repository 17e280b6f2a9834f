"""Fixtures of the training tests."""

from __future__ import annotations

import pytest

from napari_peftsam.training import AnnotatedPlane
from tests.training._world import make_plane


@pytest.fixture
def planes() -> list[AnnotatedPlane]:
    return [make_plane("a", 0), make_plane("b", 1)]
