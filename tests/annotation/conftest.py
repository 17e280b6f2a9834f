"""The session that the tests start from."""

from __future__ import annotations

import pytest

from napari_peftsam.annotation import Session
from tests.annotation._annotation_cases import make_session


@pytest.fixture
def session() -> Session:
    return make_session()
