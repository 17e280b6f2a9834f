"""``napari-peftsam demo``."""
from __future__ import annotations

from ._options import Json


def demo(as_json: Json = False) -> None:
    """Run."""
