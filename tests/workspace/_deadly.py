"""What kills workers, in a module of its own: workers import it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin

from napari_peftsam.batch import embed, segment
from tests.workers._tasks import die, first_time


@dataclass
class Deadly(WorkerPlugin):
    """Kills a worker in the middle of an image of this name, once.

    It is installed in the workers that replace dead ones, too.
    """

    image: str
    folder: Path

    def setup(self, worker: Worker) -> None:
        self._real = real = embed.embed_plane

        def deadly(engine: Any, name: str, *others: Any, **options: Any) -> Any:
            for event in real(engine, name, *others, **options):  # the encoder has begun
                if name.endswith(self.image) and first_time(self.folder):
                    die()
                yield event

        for module in (embed, segment):
            module.embed_plane = deadly

    def teardown(self, worker: Worker) -> None:
        for module in (embed, segment):
            module.embed_plane = self._real
