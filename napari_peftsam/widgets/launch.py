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
from napari_peftsam.files import ImageFile, find_images, open_image, read_objects
from napari_peftsam.metadata import AS_THE_FILE_SAYS, ReadOptions
from napari_peftsam.projects import is_rgb
from napari_peftsam.samples import shipped_samples
from napari_peftsam.types import PixelArray
from napari_peftsam.widgets.layers.view import file_layer
from napari_peftsam.widgets.session import session_of

SAMPLES = ("histology",)
_DOCKS_SETTLE = 300  # ms


def open_viewer(
    paths: Sequence[Path] = (),
    sample: str | None = None,
    block: bool = True,
    *,
    options: ReadOptions = AS_THE_FILE_SAYS,
    labels: Path | None = None,
) -> napari.Viewer:
    """Open images, or a sample, in a new viewer with all docks.

    Parameters
    ----------
    paths
        Image files, folders of them, patterns or plates (see `napari_peftsam.files.open_image`
        and `find_images`), and at most one project.
    sample
        One of `SAMPLES`, opened besides the files.
    block
        Whether to run the event loop until the viewer is closed.
    options
        Axes, channels and the rest of what the files leave open.
    labels
        File with the objects of the only image.

    Raises
    ------
    InputFileError, LabelError, ProjectError
        If a file cannot be read; no viewer is opened then.
    ConfigurationError
        If the sample is unknown, there are two projects, or labels for more than one image.
    """
    projects = [path for path in paths if is_project(path)]
    if len(projects) > 1:
        raise ConfigurationError("a viewer shows one project: give one, and import the other there")
    for path in projects:
        open_project(path, read_only=True).close()
    found = find_images(path for path in paths if path not in projects)
    files = [(path, open_image(path, options)) for path in found]
    if labels is not None:
        _check_labels(labels, files if not projects else [])
    samples = _sample(sample) if sample is not None else []
    viewer = napari.Viewer(title="napari-peftsam")
    session = session_of(viewer)
    for path, file in files[:1]:
        viewer.add_layer(file_layer(path, file))
    for name, pixels in samples:
        viewer.add_image(pixels, name=name, rgb=is_rgb(pixels))
    _show_first(viewer, hidden=bool(projects))
    if projects:
        session.projects.open(projects[0])
    add_dock(viewer)
    for path, file in files[1:]:  # they wait in the dock; a layer of the viewer takes 0.1 s each
        session.show_file(path, file, first=False)
    if labels is not None and session.layers.image_id is not None:
        session.imports.import_labels(session.layers.image_id, labels)
    # The docks take their room from the canvas, so the image is fitted once they have it.
    qtpy.QtCore.QTimer.singleShot(_DOCKS_SETTLE, viewer.reset_view)
    if block:
        napari.run()
    return viewer


def _check_labels(labels: Path, files: Sequence[tuple[Path, ImageFile]]) -> None:
    """Raise an error that would come once the viewer is there."""
    if len(files) != 1:
        raise ConfigurationError("--labels are those of one image: open just that one with them")
    path, image = files[0]
    read_objects(labels, image.shape, path.name, image.metadata.names)


def _show_first(viewer: napari.Viewer, *, hidden: bool) -> None:
    """Show one image at a time: the others would hide it."""
    for number, layer in enumerate(viewer.layers):
        layer.visible = not (number or hidden)
    if len(viewer.layers):
        viewer.layers.selection.active = viewer.layers[0]


def add_dock(viewer: napari.Viewer) -> None:
    """Add the annotate dock on the right, and fold napari's docks with the layers."""
    from napari_peftsam.widgets import AnnotateDock

    dock = AnnotateDock(viewer)
    viewer.window.add_dock_widget(dock, name="Annotate", area="right")
    dock.show_layer_list(False)


def _sample(name: str) -> list[tuple[str, PixelArray]]:
    if name not in SAMPLES:
        raise ConfigurationError(f"unknown sample {name!r}: choose one of {', '.join(SAMPLES)}")
    return [(sample.name, sample.read()[0]) for sample in shipped_samples("train")]
