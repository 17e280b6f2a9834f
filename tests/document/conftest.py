"""The document that the tests start from."""

from __future__ import annotations

import pytest

from napari_peftsam.document import Document
from tests.document._cases import make_document


@pytest.fixture
def document() -> Document:
    return make_document()
