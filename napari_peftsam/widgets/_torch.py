"""Imports torch into a process that shows a window already."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["import_workspace"]


def import_workspace() -> None:
    """Import the workspace, and with it torch; takes seconds the first time."""
    with _without_triton():
        import napari_peftsam.app.workspace  # noqa: F401


@contextmanager
def _without_triton() -> Iterator[None]:
    """Let torchvision believe that triton is not installed.

    torchvision 0.29 imports torch's compiler, which imports triton if it finds it. Its
    library and Mesa's OpenGL drivers, which the window has loaded by then, each hold
    an LLVM: loading the second ends the process with a segmentation fault (seen with
    torch 2.15, triton 3.9 and Mesa's llvmpipe). The compiler is not used here.
    """
    absent = "triton" not in sys.modules
    if absent:
        sys.modules["triton"] = None  # type: ignore[assignment]  # Python's way to say so
    try:
        yield
    finally:
        if absent:
            del sys.modules["triton"]
