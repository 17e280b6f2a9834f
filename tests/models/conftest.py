"""Files to download, and a server that has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.models._server import Server, serve

CONTENT = bytes(range(256)) * 1024  # several of the blocks that a transfer consists of


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(CONTENT) as running:
        yield running


@pytest.fixture
def own_models(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that writes the user's ``models.toml``."""
    monkeypatch.setenv("NAPARI_PEFTSAM_CONFIG", str(user_folder))

    def write(text: str) -> Path:
        path = user_folder / "models.toml"
        path.write_text(text)
        return path

    return write
