"""``napari-peftsam open``: images or a project in napari, with the docks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from napari_peftsam.errors import ConfigurationError

from ._options import READING, Values, grouped, read_options


@grouped(reading=READING)
def open_images(
    *,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A project (.peftsam), images (TIFF, PNG, zarr, ...; see docs/formats.md), "
            "folders of them, or an OME-Zarr plate."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Objects of the image: labels, outlines or ROIs of any program."),
    ] = None,
    reading: Values,
) -> None:
    """Open images or a project in napari with the docks."""
    start_viewer(images or [], options=read_options(reading), labels=labels)


def start_viewer(paths: Sequence[Path], sample: str | None = None, **given: Any) -> None:
    """Open napari and wait until it is closed; takes the arguments of `open_viewer`."""
    check_display()
    from napari_peftsam.widgets.launch import open_viewer

    open_viewer(paths, sample, **given)


def check_display() -> None:
    """Raise `ConfigurationError` if there is no Qt or no display."""
    # Qt would end the whole program where there is no display.
    display = any(os.environ.get(v) for v in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
    try:
        import napari_peftsam.widgets.launch  # noqa: F401
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(
            f"the viewer cannot start, as Qt cannot be used ({reason}): install a binding with "
            'pip install "napari-peftsam[all]"'
        ) from error
    if sys.platform.startswith("linux") and not display:
        raise ConfigurationError(
            "the viewer cannot start, as there is no display: set DISPLAY, or use the other "
            "commands, which need none"
        )
