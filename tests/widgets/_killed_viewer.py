"""A viewer that a test kills: ``python -m tests.widgets._killed_viewer CHECKPOINT IMAGE``.

It segments an object, leaves a prompt pending, says so on standard output, and goes on
until it is killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import napari

from tests.widgets._annotate_cases import Bench, settle, wait


def main(checkpoint: Path, image: Path) -> None:
    """Annotate an image, and wait for the end."""
    viewer = napari.Viewer(show=False)
    viewer.open(image, plugin="napari")
    b = Bench(viewer, checkpoint, ())
    wait(lambda: b.dock.prompting.state.kind == "ready")
    label = b.segment(20, 30)
    wait(lambda: b.document.image(b.layers.image_id).info.source is not None)
    b.click(30, 40, "Control")
    print("acknowledged", label, len(b.document.steps), flush=True)
    while True:
        settle()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
