"""Entries of napari's File menu: readers of projects, images and labels; the sample data."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile, is_zipfile

from napari_peftsam.samples import SyntheticName, shipped_samples, shipped_synthetic
from napari_peftsam.types import PixelArray

if TYPE_CHECKING:
    import napari

LayerData = tuple[PixelArray, dict[str, Any], str]
Reader = Callable[[str | list[str]], list[tuple[None]]]


def project_reader(path: str | list[str]) -> Reader | None:
    """Return a function that opens a project in the viewer; None for other files."""
    paths = _listed(path)
    return _open_project if len(paths) == 1 and paths[0].lower().endswith(".peftsam") else None


def _open_project(path: str | list[str]) -> list[tuple[None]]:
    """Open a project in place of the present one; its layers come as they are read."""
    import napari

    from napari_peftsam.widgets.session import session_of

    viewer = napari.current_viewer()
    if viewer is not None:
        _show_annotate_dock(viewer)
        session_of(viewer).projects.open(path if isinstance(path, str) else path[0])
    return [(None,)]  # npe2: nothing to add, and no error


def image_reader(_path: str | list[str]) -> Reader:
    """Return a function that opens images of microscopes, and asks for their channels."""
    return _open_images


def _open_images(path: str | list[str]) -> list[tuple[None]]:
    import napari

    from napari_peftsam.widgets.session import session_of

    viewer = napari.current_viewer()
    if viewer is not None:
        _show_annotate_dock(viewer)
        session_of(viewer).imports.open_images([Path(each) for each in _listed(path)])
    return [(None,)]


def labels_reader(path: str | list[str]) -> Reader | None:
    """Return a function that imports objects into the annotated image; None if there is none."""
    import napari

    from napari_peftsam.widgets.session import session_of

    viewer = napari.current_viewer()
    has_image = viewer is not None and session_of(viewer).layers.image_id is not None
    return _import_labels if has_image and all(map(_holds_objects, _listed(path))) else None


def _import_labels(path: str | list[str]) -> list[tuple[None]]:
    import napari

    from napari_peftsam.widgets.session import session_of

    viewer = napari.current_viewer()
    if viewer is not None:
        session = session_of(viewer)
        image = session.layers.image_id
        for each in _listed(path):
            if image is not None:
                work = partial(session.imports.import_labels, image, Path(each))
                session.projects.when_free(work)
    return [(None,)]


def _holds_objects(path: str) -> bool:
    """Return False for an archive of something else than ROIs."""
    if not is_zipfile(path):
        return True
    with ZipFile(path) as archive:
        return all(name.endswith(".roi") for name in archive.namelist())


def _listed(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else path


def _show_annotate_dock(viewer: napari.Viewer) -> None:
    from napari_peftsam.widgets.annotate import AnnotateDock

    docks = viewer.window.dock_widgets.values()
    if not any(isinstance(dock, AnnotateDock) for dock in docks):
        viewer.window.add_plugin_dock_widget("napari-peftsam", "Annotate")


def sample_histology() -> list[LayerData]:
    """Return the shipped H&E images to annotate; one at a time is visible."""
    return [
        (sample.read()[0], {"name": sample.name, "rgb": True, "visible": index == 0}, "image")
        for index, sample in enumerate(shipped_samples("train"))
    ]


def sample_fluorescence() -> list[LayerData]:
    """Return an image of fluorescent nuclei."""
    return _synthetic("fluorescence", "fluorescent nuclei")


def sample_phase() -> list[LayerData]:
    """Return a phase-contrast image of cells."""
    return _synthetic("phase", "phase-contrast cells")


def sample_membranes() -> list[LayerData]:
    """Return an image of stained membranes."""
    return _synthetic("membranes", "stained membranes")


def _synthetic(modality: SyntheticName, name: str) -> list[LayerData]:
    return [(shipped_synthetic(modality), {"name": name, "rgb": False}, "image")]
