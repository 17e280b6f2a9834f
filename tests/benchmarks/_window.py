"""What `napari-peftsam open` takes until a person can work; needs Qt and a display."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import sleep, time

import psutil
import tifffile
from _scene import training_scene
from qtpy.QtWidgets import QApplication

from napari_peftsam.document import AddPoint
from napari_peftsam.types import Point
from napari_peftsam.widgets.annotate import AnnotateDock
from napari_peftsam.widgets.launch import open_viewer


def window() -> dict[str, float]:
    """Measure from the start of the process: the window is usable, the first mask is there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.tif"
        tifffile.imwrite(path, training_scene()[0])
        viewer = open_viewer([path], block=False)
        [dock] = viewer.window.dock_widgets.values()
        assert isinstance(dock, AnnotateDock)
        _until(lambda: dock.layers.plane is not None and dock.isVisible())
        QApplication.processEvents()
        usable, plane = _age(), dock.layers.plane
        assert plane is not None
        _until(lambda: dock.prompting.state.kind == "ready")
        dock.document.do(AddPoint(plane, Point(200.0, 200.0)))
        _until(lambda: dock.document.current and dock.document.current.candidates is not None)
        answer = {"window_seconds": usable, "mask_seconds": _age()}
        viewer.close()
    return answer


def _age() -> float:
    return time() - psutil.Process().create_time()


def _until(condition: Callable[[], object]) -> None:
    while not condition():
        QApplication.processEvents()
        sleep(0.001)


WORKS = {"window": window}

if __name__ == "__main__":  # not by `_measure`, which imports torch first
    print(json.dumps({"torch": version("torch"), "threads": os.cpu_count(), **window()}))
