"""Annotate microscopy images with Segment Anything in napari, and adapt it cheaply."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["__version__"]

try:
    __version__ = version("napari-peftsam")
except PackageNotFoundError:  # a checkout on the path that was never installed
    __version__ = "0+unknown"
