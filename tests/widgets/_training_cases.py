"""Documents that a tiny model can be trained on, and runs long enough to be stopped."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from napari_peftsam.document import ImportLabels

SIDE = 64


def stripes(seed: int = 0) -> tuple[Any, Any]:
    """Return an image and labels with two large objects, which a tiny model soon learns."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[2:62, 2:30], labels[2:62, 34:62] = 1, 2
    noise = np.random.default_rng(seed).normal(0, 0.1, labels.shape)
    return (noise + (labels > 0)).astype(np.float32), labels


def add_images(document: Any, count: int = 3, first: int = 0) -> None:
    """Add annotated images ``i0``, ``i1``, … to a document."""
    for index in range(first, first + count):
        image, labels = stripes(index)
        document.add_image(f"i{index}", image)
        document.do(ImportLabels(f"i{index}", labels))


def is_alive(pid: int) -> bool:
    """Return whether there is such a process, be it a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
