"""Entries of napari's File menu: the reader of projects, and the sample data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari_peftsam.samples import SyntheticName, shipped_samples, shipped_synthetic
from napari_peftsam.types import PixelArray

if TYPE_CHECKING:
    import napari

__all__ = [
    "project_reader",
    "sample_fluorescence",
    "sample_histology",
    "sample_membranes",
    "sample_phase",
]

LayerData = tuple[PixelArray, dict[str, Any], str]
Reader = Callable[[str | list[str]], list[tuple[None]]]


def project_reader(path: str | list[str]) -> Reader | None:
    """Return a function that opens a project in the viewer; None for other files."""
    paths = [path] if isinstance(path, str) else path
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
