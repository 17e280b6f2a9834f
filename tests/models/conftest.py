"""Files to download, and a server that has them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.models._server import Server, serve

CONTENT = bytes(range(256)) * 1024  # several of the blocks that a transfer consists of


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(CONTENT) as running:
        yield running
