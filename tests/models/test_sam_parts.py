"""Models come without the part of segment_anything that imports torchvision."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys
import numpy as np
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.models import build_tiny
from napari_peftsam.embeddings import encode_one
from napari_peftsam.segmentation import Predictor
from napari_peftsam.types import Point, Prompts

Workspace()
model = build_tiny()
embedding = encode_one(model, np.arange(2000, dtype=np.float32).reshape(40, 50))
Predictor(model).predict(embedding, Prompts((Point(20.0, 20.0),)))
print(*sys.modules)
"""


def run(code: str) -> list[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_annotating_imports_neither_torchvision_nor_a_compiler() -> None:
    modules = set(run(LOADED))
    assert "torch" in modules
    assert not modules & {"torchvision", "torch._dynamo", "scipy.stats", "segment_anything"}
