"""Tasks for workers, in a module of their own: workers import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from napari_peftsam.batch.run import Worker
from napari_peftsam.errors import ImageError


def ready(_worker: Worker) -> str:
    return "shared"


def not_ready(_worker: Worker) -> str:
    raise ImageError("no model")


def compute(shared: str, name: str, folder: Path) -> str:
    """Answer, fail, or die: once or always."""
    if name == "bad":
        raise ImageError("a bad one")
    if name == "full":
        raise OSError(28, "No space left on device")
    if name == "deadly" or (name == "unlucky" and first_time(folder)):
        die()
    return f"{shared} {name}"


def first_time(folder: Path) -> bool:
    try:
        (folder / "seen").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
