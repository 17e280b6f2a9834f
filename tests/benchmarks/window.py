"""A day in the real window: every object of a folder, annotated with real mouse and key events.

Run ``python tests/benchmarks/window.py`` (with ``xvfb-run -a`` where there is no display). The
viewer opens a folder as ``napari-peftsam open`` does. A box is dragged around each object, all
are accepted, the next image is shown; now and then the model is trained; in the end all is
exported. Every press of a key or of a mouse button counts as one action, a drag too. Noted are the
times from a click to its mask, from the key to the accepted object, and from the key to the next
image with its embedding in memory, and how late the event loop was in the worst case.

With ``--suggest``, the first image is annotated like that and the model is trained on it; in all
others suggestions are accepted above the slider, wrong ones deleted (a click on each, one key), and
what is missing gets boxes. The user moves the slider where that saves actions. A suggestion is
right if its IoU with any annotated object is one half.

By default the sample images of the package are annotated; ``--images`` and ``--labels`` name
folders with files of the same names.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, cast

import napari
import numpy as np
import tifffile
from qtpy.QtCore import QPoint, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QWidget

from napari_peftsam.files import pair_folders
from napari_peftsam.geometry import deepest_pixel, iou, object_windows
from napari_peftsam.samples import shipped_samples
from napari_peftsam.types import LabelArray, Window
from napari_peftsam.widgets.annotate import AnnotateDock
from napari_peftsam.widgets.export import ExportDock
from napari_peftsam.widgets.launch import open_viewer
from napari_peftsam.widgets.panels import panel_dock

_PATIENCE = 300.0  # s
_BEAT = 10  # ms
_STEPS = 4  # moves of the mouse in a drag
_LEFT, _NONE = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
_CUTS = Qt.KeyboardModifier.AltModifier | Qt.KeyboardModifier.ShiftModifier
_ADDS = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
GOALS = {"click to mask": 100.0, "accept": 50.0, "next image": 500.0}
"""Milliseconds that a median may take."""


@dataclass
class Day:
    """What was counted and measured; times in milliseconds."""

    actions: int = 0
    begun: int = 0
    spent: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    lost: int = 0
    ious: list[float] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=dict)
    stalls: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return numbers of actions and objects, medians, worst times and stalls."""
        worst = {name: round(max(values), 1) for name, values in self.times.items()}
        medians = {name: round(float(np.median(v)), 1) for name, v in self.times.items()}
        late = [round(value, 1) for value in sorted(self.stalls)[-3:]]
        return {
            "actions": self.actions, "objects": self.objects,
            "after_the_first_training": self.actions - self.begun, "spent": dict(self.spent),
            "lost_drags": self.lost,
            "mean_iou": round(float(np.mean(self.ious)), 3) if self.ious else None,
            "median_ms": medians, "worst_ms": worst, "worst_stalls_ms": late,
        }  # fmt: skip


class Hands:
    """The hands of a user: every method is one action."""

    def __init__(self, viewer: napari.Viewer, dock: AnnotateDock, day: Day) -> None:
        self.viewer, self.dock, self.day = viewer, dock, day
        window = dock.window()
        assert window is not None
        kinds = (w for w in window.findChildren(QWidget) if "CanvasBackend" in type(w).__name__)
        self.canvas = next(iter(kinds))

    def drag(self, box: tuple[float, float, float, float]) -> None:
        """Drag a box, given as rows and columns of its corners."""
        self.day.actions += 1
        begin, end = self._at(*box[:2]), self._at(*box[2:])
        QTest.mouseMove(self.canvas, begin)
        QTest.mousePress(self.canvas, _LEFT, _NONE, begin)
        for step in range(1, _STEPS + 1):
            QTest.mouseMove(self.canvas, begin + (end - begin) * step / _STEPS)
            QApplication.processEvents()
        QTest.mouseRelease(self.canvas, _LEFT, _NONE, end)
        QApplication.processEvents()

    def click(self, row: float, col: float, modifier: Qt.KeyboardModifier = _NONE) -> None:
        """Click into the image."""
        self.day.actions += 1
        QTest.mouseMove(self.canvas, self._at(row, col))
        QTest.mouseClick(self.canvas, _LEFT, modifier, self._at(row, col))

    def press(self, key: Qt.Key, modifier: Qt.KeyboardModifier = _NONE) -> None:
        """Press a key while the canvas has the focus."""
        self.day.actions += 1
        QTest.keyClick(self.canvas, key, modifier)

    def push(self, button: Any) -> None:
        """Click on a button."""
        self.day.actions += 1
        button.click()

    def _at(self, row: float, col: float) -> QPoint:
        """Return where a position of the image is on the canvas."""
        view, plane = self.dock.layers.view, self.dock.layers.plane
        assert view is not None
        assert plane is not None
        camera = self.viewer.scene.camera
        world = np.asarray(view.to_world(plane, row, col))[-2:]
        y, x = (world - np.asarray(camera.center)[-2:]) * camera.zoom
        return QPoint(round(x + self.canvas.width() / 2), round(y + self.canvas.height() / 2))


def wait(condition: Callable[[], Any]) -> None:
    """Run the event loop until the condition holds."""
    end = perf_counter() + _PATIENCE
    while not condition():
        QApplication.processEvents()
        sleep(0.001)
        if perf_counter() > end:
            raise TimeoutError("it did not happen")


def annotate(
    images: Path,
    truth: Mapping[str, LabelArray],
    *,
    objects: int,
    trainings: int,
    click: bool,
    suggest: bool = False,
) -> Day:
    """Annotate all images of a folder in a real window.

    Parameters
    ----------
    truth
        ``(H, W)`` labels of each image by its name.
    objects
        Objects of an image at most, the largest ones.
    trainings
        How often the model is trained, spread over the images.
    click
        Whether the first object of each image is clicked on once more, to measure a click.
    suggest
        Whether the model is trained after the first image, and suggests the rest in all others.
    """
    viewer = open_viewer([images], block=False)
    [dock] = (each for each in viewer.window.dock_widgets.values())
    day, dock = Day(), cast("AnnotateDock", dock)
    window = dock.window()
    assert window is not None
    window.resize(1280, 800)
    hands, beat = Hands(viewer, dock, day), _Heartbeat(day)
    prompting, document = dock.prompting, dock.document
    wait(lambda: prompting.state.kind == "ready")
    viewer.reset_view()
    beat.start()
    hands.press(Qt.Key.Key_W)
    at = {len(truth) * (n + 1) // (trainings + 1) for n in range(trainings)}
    for number, layer in enumerate(dock.layers.image_layers):
        labels = truth[layer.name]
        if number:
            _look_around(dock)
            began, before = perf_counter(), dock.layers.plane
            hands.press(Qt.Key.Key_PageDown)
            wait(lambda before=before: dock.layers.plane != before)
            wait(lambda: prompting.state.kind == "ready")
            day.times.setdefault("next image", []).append((perf_counter() - began) * 1e3)
        if number in at and not suggest:
            hands.press(Qt.Key.Key_K)
        if suggest and number:
            _review_image(hands, labels, objects=objects)
            continue
        _annotate_image(hands, labels, objects=objects, click=click)
        if suggest:
            hands.press(Qt.Key.Key_K)
            _suggest_everywhere(hands)
    beat.stop()
    with tempfile.TemporaryDirectory() as folder:
        _export(hands, Path(folder))
    day.objects = sum(len(image.records) for image in document.images.values())
    training = dock.view.training.training
    wait(lambda: not training.is_running)
    viewer.close()
    return day


def _look_around(dock: AnnotateDock) -> None:
    """Wait until the next image is embedded, as it is while a user looks at what was accepted."""
    workspace, document = dock.viewer_session.workspace, dock.document
    assert workspace is not None
    engine = workspace.engine
    planes = dock.layers.ahead
    wait(lambda: all(engine.embedding(document.pixels(p), p.image) for p in planes))
    wait(lambda: not dock.reload.is_running)


def _annotate_image(hands: Hands, labels: LabelArray, *, objects: int, click: bool) -> None:
    day, dock = hands.day, hands.dock
    document, prompting = dock.document, dock.prompting
    windows = object_windows(labels)
    sizes = {label: int((labels[w] == label).sum()) for label, w in windows.items()}
    chosen = sorted(sizes, key=lambda label: -sizes[label])[:objects]
    image = dock.layers.image_id
    assert image is not None
    _drag_boxes(hands, [windows[label] for label in chosen])
    day.lost += len(chosen) - len(document.queue)
    wait(
        lambda: (
            not prompting.state.is_awaited
            and len(prompting.following) + 1 >= len({*document.queue})
        )
    )
    before = len(document.records(image))
    began = perf_counter()
    hands.press(Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    wait(lambda: len(document.records(image)) > before)
    day.times.setdefault("accept", []).append((perf_counter() - began) * 1e3)
    _note_ious(day, document.image(image).labels, labels, chosen)
    if click:
        _click(hands)


def _drag_boxes(hands: Hands, windows: Sequence[tuple[slice, slice]]) -> None:
    for rows, cols in windows:
        hands.drag((rows.start - 1, cols.start - 1, rows.stop, cols.stop))
    QApplication.processEvents()


def _note_ious(day: Day, found: LabelArray, labels: LabelArray, chosen: Sequence[int]) -> None:
    windows = object_windows(labels)
    for label in chosen:
        window = Window.from_slices(*windows[label])
        truth = labels[window.slices] == label
        numbers, counts = np.unique(found[window.slices][truth], return_counts=True)
        best = int(numbers[counts.argmax()])
        day.ious.append(iou(truth, found == best, window) if best else 0.0)


def _suggest_everywhere(hands: Hands) -> None:
    """Wait for the training, and let the model suggest the rest in all images."""
    dock, day = hands.dock, hands.day
    training = dock.view.training.training
    wait(lambda: training.is_running)
    wait(lambda: not training.is_running)
    day.begun = day.actions
    run = dock.reviewing.run
    [everywhere] = [a for a in dock.view.review.menu.actions() if a.text() == "In all images"]
    day.actions += 2  # the menu, and its entry
    everywhere.trigger()
    wait(lambda: not run.is_running)
    hands.press(Qt.Key.Key_W)
    day.spent["suggest"] += 3


def _review_image(hands: Hands, labels: LabelArray, *, objects: int) -> None:
    """Accept what is suggested, delete what is wrong of it, and prompt what is missing."""
    day, dock = hands.day, hands.dock
    document, review = dock.document, dock.reviewing.review
    image = dock.layers.image_id
    assert image is not None
    entry, windows = document.image(image), object_windows(labels)
    sizes = {label: int((labels[w] == label).sum()) for label, w in windows.items()}
    chosen = sorted(sizes, key=lambda label: -sizes[label])[:objects]
    review.follow()
    right, places = dict[int, int](), dict[int, tuple[int, int]]()
    for number in review.expected:
        mask, (row, col) = entry.proposal_mask(number)
        deep = deepest_pixel(mask)
        places[number] = deep[0] + row, deep[1] + col
        under = labels[row : row + mask.shape[0], col : col + mask.shape[1]][mask]
        label = int(np.bincount(under).argmax())
        union = int(mask.sum()) + sizes.get(label, 0) - int((under == label).sum())
        right[number] = label if label and 2 * int((under == label).sum()) >= union else 0

    def spent(threshold: float) -> Counter[str]:
        shown = [n for n, each in review.expected.items() if each.score >= threshold]
        wrong = sum(not right[n] for n in shown)
        missing = len(set(chosen) - {right[n] for n in shown})
        return Counter(
            slider=int(threshold != 1 - review.eager), accept=int(bool(shown)),
            delete=wrong + bool(wrong), boxes=missing + bool(missing),
        )  # fmt: skip

    scores = [each.score for each in review.expected.values()]
    wanted = {1 - review.eager, *(round(score - 0.005, 2) for score in scores), 1.0}
    best = min(sorted(wanted), key=lambda value: spent(value).total())
    day.spent += spent(best) + Counter(next=1)
    if best != 1 - review.eager:
        day.actions += 1  # a drag
        review.eager = 1 - best
    shown = list(review.visible)
    if shown:
        hands.press(Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
        wait(lambda: not review.visible)
    wrong = [number for number in shown if not right[number]]
    for number in wrong:
        hands.click(*places[number], _ADDS)
    if wrong:
        before = len(document.records(image))
        hands.press(Qt.Key.Key_Delete)
        wait(lambda: len(document.records(image)) < before)
        day.lost += len(wrong) - (before - len(document.records(image)))
    missing = [label for label in chosen if label not in {right[number] for number in shown}]
    if missing:
        _drag_boxes(hands, [windows[label] for label in missing])
        wait(lambda: not dock.prompting.state.is_awaited)
        wait(lambda: len(dock.prompting.following) + 1 >= len({*document.queue}))
        hands.press(Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
        wait(lambda: not dock.prompting.state.is_awaited)
        for _ in range(len(document.queue)):  # what accepted objects cover stays queued
            day.spent["cut out"] += 1
            hands.press(Qt.Key.Key_Return, _CUTS)
            wait(lambda: not dock.prompting.state.is_awaited)
    _note_ious(day, entry.labels, labels, chosen)


def _click(hands: Hands) -> None:
    """Click where nothing is, and discard: these actions are measured, not counted."""
    day, dock = hands.day, hands.dock
    plane = dock.layers.plane
    assert plane is not None
    free = np.argwhere(dock.document.labels(plane) == 0)
    counted = day.actions
    _look_around(dock)
    hands.press(Qt.Key.Key_Q)
    for _ in range(20):  # what the key changes is drawn before a hand is on the mouse
        QApplication.processEvents()
    began = perf_counter()
    hands.click(*map(float, free[len(free) // 2]))
    wait(lambda: dock.document.current is not None and dock.document.current.mask is not None)
    day.times.setdefault("click to mask", []).append((perf_counter() - began) * 1e3)
    hands.press(Qt.Key.Key_Escape)
    hands.press(Qt.Key.Key_W)
    day.actions = counted


def _export(hands: Hands, folder: Path) -> None:
    hands.push(hands.dock.view.panels["Export"])
    export = cast("ExportDock", panel_dock(hands.dock, "Export"))
    export.ask_folder = lambda *_: folder
    hands.push(export.export_all)
    hands.day.actions += 1  # the answer to the dialog
    wait(lambda: len(list(folder.iterdir())) and not export.stop.isVisible())


class _Heartbeat:
    """Keeps an event due every 10 ms, and notes how late it is."""

    def __init__(self, day: Day) -> None:
        self._day, self._due, self._timer = day, 0.0, QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._beat)

    def start(self) -> None:
        """Begin."""
        self._due = perf_counter() + _BEAT / 1e3
        self._timer.start(_BEAT)

    def stop(self) -> None:
        """End."""
        self._timer.stop()

    def _beat(self) -> None:
        now = perf_counter()
        self._day.stalls.append(max(0.0, now - self._due) * 1e3)
        self._due = now + _BEAT / 1e3


def _samples(folder: Path) -> dict[str, LabelArray]:
    """Write the sample images into a folder, and return their labels."""
    truth = {}
    for sample in shipped_samples():
        pixels, labels = sample.read()
        tifffile.imwrite(folder / f"{sample.name}.tif", pixels)
        truth[sample.name] = labels
    return truth


def _pairs(images: Path, labels: Path, count: int, folder: Path) -> dict[str, LabelArray]:
    """Copy images into a folder, and return their labels."""
    truth = {}
    for pair in pair_folders(images, labels)[:count]:
        pixels, labels_of = pair.read()
        tifffile.imwrite(folder / f"{pair.name}.tif", pixels)
        truth[pair.name] = labels_of
    return truth


def main() -> None:
    """Run from the command line, print a table, and JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=Path, action="append", default=[])
    parser.add_argument("--labels", type=Path, action="append", default=[])
    parser.add_argument("--count", type=int, default=8, help="images of each folder")
    parser.add_argument("--objects", type=int, default=12, help="of each image, the largest")
    parser.add_argument("--trainings", type=int, default=3)
    parser.add_argument("--suggest", action="store_true", help="after the first image")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth: dict[str, LabelArray] = {} if options.images else _samples(folder)
        for images, labels in zip(options.images, options.labels, strict=True):
            truth |= _pairs(images, labels, options.count, folder)
        day = annotate(
            folder, truth, objects=options.objects, trainings=options.trainings,
            click=not options.suggest, suggest=options.suggest,
        )  # fmt: skip
    found = {"images": len(truth), "machine": platform.processor(), **day.summary()}
    print(json.dumps(found, indent=2))
    for name, goal in GOALS.items():
        median = found["median_ms"].get(name)
        print(f"{name:14} {median} ms (goal {goal:g} ms)")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
