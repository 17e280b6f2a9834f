"""Open napari with images or a project and all docks; what ``napari-peftsam open`` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import napari

# Here, so that a missing or broken Qt shows when this module is imported.
import qtpy.QtCore
import qtpy.QtWidgets

from napari_peftsam.document import is_project, open_project
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.files import image_name, read_image
from napari_peftsam.projects import is_rgb
from napari_peftsam.samples import shipped_samples
from napari_peftsam.types import PixelArray
from napari_peftsam.widgets.session import PATH, session_of

__all__ = ["SAMPLES", "add_docks", "open_viewer"]

SAMPLES = ("histology",)
_DOCKS_SETTLE = 300  # ms


def open_viewer(
    paths: Sequence[Path] = (), sample: str | None = None, block: bool = True
) -> napari.Viewer:
    """Open images, or a sample, in a new viewer with all docks.

    Parameters
    ----------
    paths
        Image files, see `napari_peftsam.files.read_image`, and at most one project.
    sample
        One of `SAMPLES`, opened besides the files.
    block
        Whether to run the event loop until the viewer is closed.

    Raises
    ------
    InputFileError, ProjectError
        If a file cannot be read; no viewer is opened then.
    ConfigurationError
        If the sample is unknown, or there are two projects.
    """
    projects = [path for path in paths if is_project(path)]
    if len(projects) > 1:
        raise ConfigurationError("a viewer shows one project: give one, and import the other there")
    for path in projects:
        open_project(path, read_only=True).close()
    images: list[tuple[str, PixelArray, Path | None]] = [
        (image_name(path), read_image(path), Path(path)) for path in paths if path not in projects
    ]
    images += _sample(sample) if sample is not None else []
    viewer = napari.Viewer(title="napari-peftsam")
    for index, (name, pixels, origin) in enumerate(images):
        # One image at a time: the others would hide it.
        shown = index == 0 and not projects
        metadata = {} if origin is None else {PATH: str(origin.absolute())}
        rgb = is_rgb(pixels)
        viewer.add_image(pixels, name=name, rgb=rgb, visible=shown, metadata=metadata)
    if images:
        viewer.layers.selection.active = viewer.layers[0]
    if projects:
        session_of(viewer).projects.open(projects[0])
    add_docks(viewer)
    # The docks take their room from the canvas, so the image is fitted once they have it.
    qtpy.QtCore.QTimer.singleShot(_DOCKS_SETTLE, viewer.reset_view)
    if block:
        napari.run()
    return viewer


def add_docks(viewer: napari.Viewer) -> None:
    """Add all docks on the right: Annotate above, the others below, one behind the other."""
    from napari_peftsam.widgets import (
        AdaptersDock,
        AnnotateDock,
        ExportDock,
        FinetuneDock,
        ModelsDock,
    )

    window = viewer.window
    window.add_dock_widget(AnnotateDock(viewer), name="Annotate", area="right")
    finetune = window.add_dock_widget(FinetuneDock(viewer), name="Finetune", area="right")
    below = (("Adapters", AdaptersDock), ("Models", ModelsDock), ("Export", ExportDock))
    for name, dock in below:
        window.add_dock_widget(dock(viewer), name=name, area="right", tabify=True)
    # Tabs that are added later come to the front, once the event loop has run.
    qtpy.QtCore.QTimer.singleShot(0, finetune.raise_)


def _sample(name: str) -> list[tuple[str, PixelArray, Path | None]]:
    if name not in SAMPLES:
        raise ConfigurationError(f"unknown sample {name!r}: choose one of {', '.join(SAMPLES)}")
    return [(sample.name, sample.read()[0], None) for sample in shipped_samples("train")]
