"""Write ``version_1.peftsam``, the file of the first version that a test opens for ever.

It was made by the first version, and no later version can make it again.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

import numpy as np

from napari_peftsam.document import (
    AcceptObjects,
    AddAdapter,
    AddRun,
    Document,
    ImageSource,
    MarkComplete,
    NewObject,
    Paint,
    PaintBackground,
    PlaneKey,
    Run,
    SetBox,
    StoredAdapter,
    create_project,
)
from napari_peftsam.types import Box, Point, Prompts


def main() -> None:
    """Write the file beside this script."""
    store = create_project(Path(__file__).with_name("version_1.peftsam"))
    ticks = count()
    document = Document(store, clock=lambda: f"2026-01-01T00:00:{next(ticks):02d}.000+00:00")
    cells = document.add_image(
        "cells", np.zeros((40, 50), np.uint8), source=ImageSource("images/cells.tif", 2000, 1)
    )
    stack = document.add_image("stack", np.zeros((3, 20, 30), np.uint16))
    prompts = Prompts((Point(10.0, 12.0), Point(2.0, 3.0, positive=False)), Box(5, 5, 15, 20))
    square = NewObject(prompts, np.ones((10, 15), np.bool_), 0.875, (5, 5), 1, "builtin", "v1")
    document.do(AcceptObjects(PlaneKey(cells), (square,)))
    document.do(Paint(stack, np.arange(600, 640), 3))
    document.do(PaintBackground(cells, np.arange(1900, 2000)))
    document.do(MarkComplete(stack))
    document.do(AddAdapter(StoredAdapter("v1", store.put_blob(b"weights"), "builtin", 0.5)))
    document.do(AddRun(Run("v1", {"steps": 3}, {"losses": [1.0, 0.5]})))
    document.do(Paint(cells, np.arange(5), 9))
    document.undo()
    document.do(SetBox(PlaneKey(stack, (2,)), Box(1, 2, 3, 4)))
    store.close()


if __name__ == "__main__":
    main()
