"""Take the pictures of the README from a real run: real window, real model, real finetuning.

Run it with ``make screenshots``; it needs a display (``xvfb-run`` gives one). The objects
are accepted by the demo's simulated annotator; everything else is done through the docks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import napari
from qtpy.QtWidgets import QApplication

from napari_peftsam.app.demo import annotate_object, choose_labels
from napari_peftsam.document import AddPoint, PlaneKey
from napari_peftsam.samples import shipped_samples
from napari_peftsam.types import Point
from napari_peftsam.widgets import AnnotateDock, FinetuneDock
from napari_peftsam.widgets.launch import open_viewer
from napari_peftsam.widgets.session import session_of

IMAGES = Path(__file__).parent / "images"
OBJECTS_PER_IMAGE = 8
PATIENCE = 600.0


def wait(condition: Callable[[], Any]) -> None:
    """Run the event loop until the condition holds."""
    end = monotonic() + PATIENCE
    while not condition():
        QApplication.processEvents()
        sleep(0.01)  # an idle viewer leaves the cores to the training
        if monotonic() > end:
            raise TimeoutError("the viewer did not get there")


def pause(seconds: float) -> None:
    """Run the event loop for so long, so that everything is drawn."""
    end = monotonic() + seconds
    wait(lambda: monotonic() > end)


def dock_of(viewer: napari.Viewer, kind: type) -> Any:
    """Return the dock of this kind."""
    docks = viewer.window.dock_widgets.values()
    return next(dock for dock in docks if isinstance(dock, kind))


def shoot(viewer: napari.Viewer, name: str) -> None:
    """Save the whole window."""
    pause(1.0)
    viewer.screenshot(IMAGES / f"{name}.png", canvas_only=False, flash=False)


def main() -> None:
    """Annotate, finetune, and take a picture of each."""
    IMAGES.mkdir(exist_ok=True)
    viewer = open_viewer(sample="histology", block=False)
    viewer.window.resize(1400, 900)
    annotate, finetune = dock_of(viewer, AnnotateDock), dock_of(viewer, FinetuneDock)
    owner = session_of(viewer)
    wait(lambda: annotate.answers.status.kind == "ready")
    pause(1.0)
    workspace = owner.require()
    samples = {s.name: s for s in shipped_samples("train")}
    layers = [layer for layer in annotate.layers.image_layers if layer.name in samples]
    for layer in reversed(layers):  # so that the first one is in front in the end
        annotate.layers.select_image(layer)
        wait(lambda: annotate.answers.status.kind == "ready")
        _, truth = samples[layer.name].read()
        for label in choose_labels(truth, OBJECTS_PER_IMAGE, seed=0):
            annotate_object(workspace, PlaneKey(annotate.layers.image_name), truth == label)
            QApplication.processEvents()
        layer.visible = layer is layers[0]
    _prompt_one(annotate, samples[layers[0].name])
    shoot(viewer, "annotate")
    finetune.toggle()
    wait(lambda: not finetune.training.is_running)
    wait(lambda: annotate.answers.status.kind == "ready")
    shoot(viewer, "loop")
    viewer.close()


def _prompt_one(annotate: Any, sample: Any) -> None:
    """Leave one object in the making: a click, its mask, three candidates."""
    _, truth = sample.read()
    label = choose_labels(truth, 10_000, seed=1)[-1]
    rows, cols = (truth == label).nonzero()
    plane = PlaneKey(annotate.layers.image_name)
    annotate.document.do(AddPoint(plane, Point(float(rows.mean()), float(cols.mean()))))
    wait(lambda: annotate.document.current.candidates is not None)


if __name__ == "__main__":
    main()
