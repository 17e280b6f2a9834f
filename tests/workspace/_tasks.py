"""Tasks for workers, in a module of their own: workers import it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin

from napari_peftsam.errors import ImageError
from napari_peftsam.workspace import _batch_tasks


def ready() -> str:
    return "shared"


def not_ready() -> str:
    raise ImageError("no model")


def compute(shared: str, name: str, folder: Path) -> str:
    """Answer, fail, or die: once or always."""
    if name == "bad":
        raise ImageError("a bad one")
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


@dataclass
class Deadly(WorkerPlugin):
    """Kills a worker in the middle of an image of this name, once.

    It is installed in the workers that replace dead ones, too.
    """

    image: str
    folder: Path

    def setup(self, worker: Worker) -> None:
        self._real = real = _batch_tasks.embed_plane

        def deadly(engine: Any, name: str, *others: Any, **options: Any) -> Any:
            for event in real(engine, name, *others, **options):  # the encoder has begun
                if name.endswith(self.image) and first_time(self.folder):
                    die()
                yield event

        _batch_tasks.embed_plane = deadly

    def teardown(self, worker: Worker) -> None:
        _batch_tasks.embed_plane = self._real
