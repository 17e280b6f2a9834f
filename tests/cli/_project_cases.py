"""A small project for the command line: two images with objects, one of them prompted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import napari_peftsam as ps
from napari_peftsam.projects import add_image, open_document
from tests.cli._cases import Inputs, scene

ROOT = Path(__file__).parents[2]


def make_project(inputs: Inputs, name: str = "cells.peftsam") -> Path:
    """Write a project of the images a0 and a1 with the objects of their labels."""
    project = inputs / name
    document, _ = open_document(project)
    for index in range(2):
        image = add_image(document, inputs / "images" / f"a{index}.tif")
        document.do(ps.ImportLabels(image, scene(index)[1].astype(np.int32)))
    # Object 1 of a0 once more, prompted: the training must see its prompt.
    document.do(ps.DeleteObjects(image := next(iter(document.images)), (1,)))
    prompts = ps.Prompts((ps.Point(10, 10),))
    new = ps.NewObject(prompts, scene(0)[1] == 1, 0.9, model="tiny", adapter="base")
    document.do(ps.AcceptObjects(ps.PlaneKey(image), (new,)))
    document.store.close()
    return project


HOLD = """
import sys
import numpy as np
import napari_peftsam as ps
document = ps.Document(ps.open_project(sys.argv[1], must_write=True))
image = next(iter(document.images))
document.do(ps.Paint(image, np.arange(5), document.image(image).next_label))
print("open", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_open(project: Path) -> Iterator[int]:
    """Let another process have a project open that it has just painted in; yield its id."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(project)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process.pid
        process.stdin.close()
