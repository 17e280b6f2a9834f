"""A tiny model, and an app with one image of bright discs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tifffile

import napari_peftsam as ps
from tests.app._cases import write_model, write_useless_adapter
from tests.training._world import make_plane


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny.pth")


@pytest.fixture(scope="session")
def useless(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """Return an adapter that any training beats."""
    path = tmp_path_factory.mktemp("adapter") / "useless.safetensors"
    return write_useless_adapter(path, checkpoint)


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    path = tmp_path / "discs.tif"
    tifffile.imwrite(path, make_plane("discs").pixels)
    return path


@pytest.fixture
def app(tmp_path: Path, checkpoint: Path, discs: Path) -> Iterator[ps.App]:
    with ps.App(tmp_path / "cells.peftsam") as app:
        app.load_model(checkpoint, "cpu")
        app.add_image(discs)
        yield app
