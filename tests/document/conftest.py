"""The session that the tests start from."""

from __future__ import annotations

import pytest

from napari_peftsam.document import Document
from tests.document._cases import make_session


@pytest.fixture
def session() -> Document:
    return make_session()
