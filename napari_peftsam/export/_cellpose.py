"""Cellpose's ``_seg.npy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_peftsam.types import LabelArray

from ._format import ExportContext

_SMALL = 65535


def write_cellpose(path: Path, labels: LabelArray, context: ExportContext) -> None:
    from skimage.segmentation import find_boundaries, relabel_sequential

    # Cellpose numbers objects without gaps.
    numbered, _, _ = relabel_sequential(labels.astype(np.int64))
    kind = np.uint16 if numbered.max() <= _SMALL else np.uint32
    masks = numbered.astype(kind)
    planes = masks.reshape(-1, *masks.shape[-2:])
    edges = np.stack([find_boundaries(plane, mode="inner") for plane in planes])
    content: dict[str, Any] = {
        "masks": masks,
        "outlines": (edges.reshape(masks.shape) * masks).astype(kind),
        "filename": context.image_name,
        "chan_choose": [0, 0],
        "ismanual": np.zeros(int(masks.max()), np.bool_),
        "flows": [[], [], [], [], [[]]],
        "diameter": np.nan,
    }
    with path.open("wb") as file:  # a name would get another suffix
        np.save(file, np.array(content, dtype=object), allow_pickle=True)
