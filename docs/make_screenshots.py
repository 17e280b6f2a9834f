"""Take the pictures of the pages from a real run: real window, real model, real finetuning.

Run it with ``make screenshots``; it needs a display (``xvfb-run`` gives one). The objects
are accepted by the demo's simulated annotator; everything else is done through the dock.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any, cast

import napari
import numpy as np
from qtpy.QtWidgets import QApplication, QDialog

from napari_peftsam.app.demo import annotate_object, choose_labels
from napari_peftsam.document import AddPoint, CompleteRegion, Discard, MarkComplete, QueuePrompts
from napari_peftsam.geometry import object_windows
from napari_peftsam.samples import shipped_samples
from napari_peftsam.types import Box, LabelArray, Point
from napari_peftsam.widgets.annotate import AnnotateDock
from napari_peftsam.widgets.launch import open_viewer
from napari_peftsam.widgets.panels import panel_dock, show_keys, show_panel

IMAGES = Path(__file__).parent / "images"
OBJECTS_PER_IMAGE = 8
PATIENCE = 600.0
SIZE = (1280, 800)


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


class Photographer:
    """A viewer with the sample images, and pictures of it.

    Attributes
    ----------
    truth
        ``(H, W)`` labels of each image by its name.
    """

    def __init__(self) -> None:
        self.viewer = open_viewer(sample="histology", block=False)
        self.viewer.window.resize(*SIZE)
        [dock] = self.viewer.window.dock_widgets.values()
        self.dock = cast("AnnotateDock", dock)
        self.document, self.layers = self.dock.document, self.dock.layers
        self.truth = {s.name: s.read()[1] for s in shipped_samples("train")}
        self.ready()
        self.viewer.reset_view()

    def ready(self) -> None:
        """Wait for the embedding, or the mask that is awaited."""
        wait(lambda: self.dock.prompting.state.kind == "ready")
        pause(0.5)

    def shoot(self, name: str) -> None:
        """Save a picture of the window and what lies over it."""
        pause(1.0)
        window = self.dock.window()
        assert window is not None
        screen = window.screen()
        assert screen is not None
        at = window.geometry()
        picture = screen.grabWindow(0, at.x(), at.y(), at.width(), at.height())
        picture.save(str(IMAGES / f"{name}.png"))

    def show(self, name: str) -> LabelArray:
        """Show an image of the queue, and return its true labels."""
        layer = next(each for each in self.layers.image_layers if each.name == name)
        self.layers.select_image(layer)
        self.ready()
        return self.truth[name]

    def accept(self, labels: LabelArray, number: int) -> None:
        """Accept objects as the demo's annotator does."""
        workspace, plane = self.dock.viewer_session.require(), self.layers.plane
        assert plane is not None
        for label in choose_labels(labels, number, seed=0):
            annotate_object(workspace, plane, labels == label)
            QApplication.processEvents()

    # --- the pictures ---------------------------------------------------------------

    def one_object(self, labels: LabelArray) -> None:
        """A click, its mask, three candidates."""
        plane = self.layers.plane
        assert plane is not None
        label = choose_labels(labels, 10_000, seed=1)[-1]
        rows, cols = np.nonzero(labels == label)
        self.document.do(AddPoint(plane, Point(float(rows.mean()), float(cols.mean()))))
        wait(lambda: self.document.current and self.document.current.candidates is not None)
        self.shoot("annotate")
        self.document.do(Discard())

    def a_queue(self, labels: LabelArray) -> None:
        """Boxes with their masks as outlines."""
        plane = self.layers.plane
        assert plane is not None
        windows = object_windows(labels)
        free = [n for n in windows if not self.document.labels(plane)[labels == n].any()]
        boxes = [Box.around(windows[label]) for label in free[:6]]
        self.document.do(QueuePrompts.boxes(plane, boxes))
        wait(lambda: len(self.dock.prompting.following) == len(boxes) - 1)
        self.shoot("queue")
        self.document.do(Discard(everything=True))

    def corrections(self) -> None:
        """A selected object, and an area that is done."""
        plane = self.layers.plane
        assert plane is not None
        height, width = self.document.image(plane.image).plane_shape
        area = CompleteRegion(plane.index, Box(0, 0, height // 2, width // 2))
        self.document.do(MarkComplete(plane.image, area))
        self.dock.view.table.select(next(iter(self.document.image(plane.image).records)))
        self.shoot("correct")

    def proposals(self) -> None:
        """What the model proposes beside the accepted objects, by its score; one is looked at."""
        reviewing = self.dock.reviewing
        reviewing.run.suggest()
        wait(lambda: not reviewing.run.is_running)
        reviewing.review.next()
        self.shoot("proposals")

    def training(self) -> None:
        """The panel while it trains, and what came of it."""
        show_panel(self.dock, "Finetune")
        panel = panel_dock(self.dock, "Finetune").window()
        assert isinstance(panel, QDialog)
        self.dock.view.training.train.click()
        training = self.dock.view.training.training
        wait(lambda: training.measured and not self.dock.view.training.text.text().endswith("…"))
        pause(20.0)
        self.shoot("finetune")
        wait(lambda: not training.is_running)
        panel.hide()
        self.ready()
        self.shoot("loop")

    def keys(self) -> None:
        """The list of keys."""
        show_keys(self.dock)
        self.shoot("keys")


def main() -> None:
    """Annotate, finetune, and take a picture of each state."""
    IMAGES.mkdir(exist_ok=True)
    photographer = Photographer()
    first, *others = photographer.truth
    for name in others:
        photographer.accept(photographer.show(name), OBJECTS_PER_IMAGE)
    labels = photographer.show(first)
    photographer.accept(labels, OBJECTS_PER_IMAGE)
    photographer.one_object(labels)
    photographer.a_queue(labels)
    photographer.corrections()
    photographer.proposals()
    photographer.training()
    photographer.keys()
    viewer: napari.Viewer = photographer.viewer
    viewer.close()


if __name__ == "__main__":
    main()
