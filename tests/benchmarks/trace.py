"""Length of the ways through the package: modules, functions and calls, by `sys.setprofile`.

Run ``python tests/benchmarks/trace.py`` (with ``xvfb-run -a`` where there is no display). It
follows a click to its mask and *Train* to the live adapter in a real viewer (in the parent
process), and ``finetune`` on the command line, in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any

import napari_peftsam

_PACKAGE = str(Path(napari_peftsam.__file__).parent)
_WAYS = ("click", "train", "command line")
_SIZE = 192


@dataclass
class Trace:
    """The package's functions that ran, with the number of their calls."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Count a call; made for `sys.setprofile`."""
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(_PACKAGE):
            self.calls[file[len(_PACKAGE) + 1 :], frame.f_code.co_qualname] += 1

    def summary(self) -> dict[str, int]:
        """Return the numbers of modules, functions and calls."""
        return {
            "modules": len({file for file, _ in self.calls}),
            "functions": len(self.calls),
            "calls": self.calls.total(),
        }


@contextmanager
def traced() -> Iterator[Trace]:
    """Trace this thread, and those that are started meanwhile."""
    trace = Trace()
    threading.setprofile(trace.note)
    sys.setprofile(trace.note)
    try:
        yield trace
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def _discs() -> tuple[Any, Any]:
    """Return an image of bright discs, and their labels."""
    import numpy as np

    rows, cols = np.mgrid[:_SIZE, :_SIZE]
    labels = np.zeros((_SIZE, _SIZE), np.int32)
    for number, (row, col) in enumerate([(40, 40), (40, 140), (100, 90), (150, 40), (150, 150)]):
        labels[(rows - row) ** 2 + (cols - col) ** 2 < 18**2] = number + 1
    noise = np.random.default_rng(0).normal(30, 5, labels.shape)
    return (noise + 120 * (labels > 0)).clip(0, 255).astype(np.uint8), labels


def _until(condition: Callable[[], object]) -> None:
    from qtpy.QtWidgets import QApplication

    while not condition():
        QApplication.processEvents()
        sleep(0.005)


@contextmanager
def _viewer() -> Iterator[Any]:
    """Open a viewer with the annotate dock, one image, and the built-in model's first mask."""
    import napari
    from qtpy.QtCore import QCoreApplication, QEvent

    from napari_peftsam.document import AddPoint, Discard, PlaneKey
    from napari_peftsam.types import Point
    from napari_peftsam.widgets.annotate import AnnotateDock
    from napari_peftsam.widgets.session import session_of

    viewer = napari.Viewer()
    viewer.add_image(_discs()[0], name="discs")
    owner = session_of(viewer)
    owner.open("builtin")
    viewer.window.add_dock_widget(AnnotateDock(viewer), name="Annotate")
    _until(lambda: owner.has_model)
    owner.document.do(AddPoint(PlaneKey("discs"), Point(40, 40)))
    _until(lambda: owner.document.current.mask is not None)
    owner.document.do(Discard())
    _until_quiet()
    yield viewer
    viewer.close()
    _until_quiet()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)  # no event loop does


def _until_quiet() -> None:
    """Let what is due happen, so that it is not counted."""
    for _ in range(200):
        _until(lambda: True)
        sleep(0.005)


def _click() -> Trace:
    from napari_peftsam.document import AddPoint, PlaneKey
    from napari_peftsam.types import Point
    from napari_peftsam.widgets.session import session_of

    with _viewer() as viewer:
        document = session_of(viewer).document
        with traced() as trace:
            document.do(AddPoint(PlaneKey("discs"), Point(100, 90)))
            _until(lambda: document.current.mask is not None)
            _until(lambda: True)
    return trace


def _train() -> Trace:
    from napari_peftsam.document import ImportLabels
    from napari_peftsam.widgets.finetune import FinetuneDock
    from napari_peftsam.widgets.session import session_of

    with _viewer() as viewer:
        document = session_of(viewer).document
        document.do(ImportLabels("discs", _discs()[1]))
        dock = FinetuneDock(viewer)
        viewer.window.add_dock_widget(dock, name="Finetune")
        dock.options.unit.setCurrentText("steps")
        dock.options.amount.setValue(3)
        _until_quiet()
        with traced() as trace:
            dock.toggle()
            _until(lambda: document.runs)
    return trace


def _command_line() -> Trace:
    import tifffile

    with tempfile.TemporaryDirectory() as folder, traced() as trace:
        for name, pixels in zip(("images", "labels"), _discs(), strict=True):
            (Path(folder) / name).mkdir()
            tifffile.imwrite(Path(folder) / name / "discs.tif", pixels)
        from napari_peftsam.cli import main

        main([
            "finetune", "--images", f"{folder}/images", "--labels", f"{folder}/labels",
            "--steps", "2", "--output", f"{folder}/adapter.safetensors",
        ])  # fmt: skip
    return trace


def _measure(way: str) -> dict[str, int]:
    return {"click": _click, "train": _train, "command line": _command_line}[way]().summary()


def _in_a_process(way: str) -> dict[str, int]:
    command = [sys.executable, __file__, "--way", way]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    counts: dict[str, int] = json.loads(printed.splitlines()[-1])
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--way", choices=_WAYS, help="follow this one, in this process")
    options = parser.parse_args(arguments)
    if options.way:
        print(json.dumps(_measure(options.way)))
        return
    counts = {way: _in_a_process(way) for way in _WAYS}
    if options.json:
        print(json.dumps(counts))
        return
    print(f"{'':14}{'modules':>9}{'functions':>11}{'calls':>8}")
    for way, count in counts.items():
        print(f"{way:14}{count['modules']:9}{count['functions']:11}{count['calls']:8}")


if __name__ == "__main__":
    main()
