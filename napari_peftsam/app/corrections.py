"""Corrections of accepted objects: split, cut, grow, shrink, and other numbers, as actions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from math import prod
from operator import or_

import numpy as np

from napari_peftsam.app.freehand import Line, line_pixels
from napari_peftsam.document import DocumentImage, Paint, PlaneKey
from napari_peftsam.errors import LabelError
from napari_peftsam.types import BoolArray, FloatArray, LabelArray, Window

_DENSE = 8  # times the area of all objects; a larger window around them is mostly empty
_NARROW = 0.85  # of the shallower part's depth; a border that is less deep is a neck


def split_object(image: DocumentImage, plane: PlaneKey, label: int) -> Paint:
    """Split an object in a plane where it is narrow; its largest part keeps the label.

    The parts are the basins of a watershed of the distance to its edge, one for each place that
    is further from the edge than all around it, at least two.

    Raises
    ------
    LabelError
        If it has no narrow place.
    """
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    window, inside = _object(image, plane, label, 1)
    depth = _depth(inside)
    distance = max(1, int(depth.max() // 2))
    peaks = peak_local_max(depth, min_distance=distance, labels=inside.astype(np.int32))
    if len(peaks) < 2:
        raise LabelError(
            f"object {label} is narrow nowhere: cut it with a line, or a click on each part"
        )
    seeds = np.zeros(inside.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    parts = watershed(-depth, seeds, mask=inside)
    return _in_parts(image, plane, label, window, parts)


def split_at(image: DocumentImage, plane: PlaneKey, label: int, places: Line) -> Paint:
    """Split an object between two places in it; its larger part keeps the label.

    It is cut where it is narrow between them, else half-way: each pixel goes to the place that is
    nearer inside the object.

    Raises
    ------
    LabelError
        If they are not two pixels of the object.
    """
    from skimage.graph import MCP_Geometric
    from skimage.segmentation import watershed

    window, inside = _object(image, plane, label, 1)
    seeds = [(round(row) - window.row, round(col) - window.col) for row, col in places]
    within = [s for s in set(seeds) if min(s) >= 0 and np.less(s, inside.shape).all() and inside[s]]
    if len(within) != 2:
        raise LabelError(f"click on two places in object {label}, one in each part")
    depth = _depth(inside)
    basins = watershed(-depth, mask=inside)
    own = [basins == basins[seed] for seed in seeds]
    peaks = np.zeros(inside.shape, np.int32)
    for number, basin in enumerate(own, start=1):
        peaks[np.unravel_index(np.argmax(depth * basin), depth.shape)] = number
    parts = watershed(-depth, peaks, mask=inside)
    shallow = min(float(depth[basin].max()) for basin in own)
    if basins[seeds[0]] == basins[seeds[1]] or _saddle(depth, parts) > _NARROW * shallow:
        costs = np.where(inside, 1.0, -1.0)  # no way leads through what is below 0
        first, second = (MCP_Geometric(costs).find_costs([seed])[0] for seed in seeds)
        parts = np.where(np.isfinite(np.minimum(first, second)), 1 + (second < first), 0)
    return _in_parts(image, plane, label, window, parts)


def _depth(inside: BoolArray) -> FloatArray:
    """Return how far the pixels of an object are from its edge, without small bumps."""
    from scipy import ndimage

    depth: FloatArray = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 1)
    depth[~inside] = 0
    return depth


def _saddle(depth: FloatArray, parts: LabelArray) -> float:
    """Return how deep the border between two parts is at most."""
    deepest = 0.0
    for d, p in ((depth, parts), (depth.T, parts.T)):
        is_border = (p[1:] != p[:-1]) & (p[1:] > 0) & (p[:-1] > 0)
        deepest = max(deepest, float(np.minimum(d[1:], d[:-1])[is_border].max(initial=0)))
    return deepest


def cut_object(image: DocumentImage, plane: PlaneKey, path: Line, label_set: str = "") -> Paint:
    """Cut the object under a line in two; its larger part keeps the label.

    Parameters
    ----------
    path
        The line, at least two positions. It must cross the object, that below most of it.
    label_set
        Where the object is looked for first.

    Raises
    ------
    LabelError
        If it crosses no object, or does not divide the one that it crosses.
    """
    from scipy import ndimage

    rows, cols = _pixels(path, image.plane_shape)
    for each in (label_set, *image.label_sets):
        under = image.plane_labels(plane, each)[rows, cols]
        numbers, counts = np.unique(under[under > 0], return_counts=True)
        if len(numbers):
            break
    else:
        raise LabelError("there is no object under the line: draw it across one")
    label = int(numbers[counts.argmax()])
    window, inside = _object(image, plane, label, 1)
    blade = np.zeros(inside.shape, np.bool_)
    is_near = (rows >= window.row) & (rows < window.stop[0])
    is_near &= (cols >= window.col) & (cols < window.stop[1])
    blade[rows[is_near] - window.row, cols[is_near] - window.col] = True
    # No path of neighbours left, right, above and below crosses the line.
    before = ndimage.label(inside)[1]
    parts, number = ndimage.label(inside & ~blade)
    if number <= before:
        raise LabelError(f"the line does not divide object {label}: draw it from edge to edge")
    # The pixels below the line go to the part next to them.
    nearest = ndimage.distance_transform_edt(
        parts == 0, return_distances=False, return_indices=True
    )
    parts = np.where(inside, parts[tuple(nearest)], 0)
    pieces = ndimage.label(inside)[0]
    touched = np.unique(pieces[blade & inside])
    kept = inside & ~np.isin(pieces, touched)  # pieces beside the line stay with the largest part
    sizes = np.bincount(parts[~kept & inside])
    parts[kept] = int(sizes.argmax())
    return _in_parts(image, plane, label, window, parts)


def grow_objects(
    image: DocumentImage, plane: PlaneKey, labels: Iterable[int], pixels: int = 1
) -> Paint:
    """Grow objects in a plane by a border of pixels, or shrink them (`pixels` below 0).

    They grow where nothing is, and shrink only as far as something is left of them.
    """
    margin, found = max(pixels, 0), {}
    for label in dict.fromkeys(labels):
        if plane.index in image.index.planes(label):
            around = Window.from_slices(*image.region(label)[-2:])
            found[label] = _widened(around, margin, image)
    if not found:
        raise LabelError("no selected object lies in this plane: show one where they are")
    image.check_objects(tuple(found))
    label_set, *more = {image.set_of(label) for label in found}
    if more:
        raise LabelError("the selected objects are of several classes: select those of one class")
    whole = reduce(or_, found.values())
    # Many small objects are changed together, a few far apart each in its window.
    apart = sum(prod(window.shape) for window in found.values()) < prod(whole.shape) / _DENSE
    groups = [([label], window) for label, window in found.items()]
    where, new = [], []
    for group, window in groups if apart else [([*found], whole)]:
        part = image.plane_labels(plane, label_set)[window.slices]
        after = _grown(part, group, pixels) if pixels > 0 else _shrunk(part, group, -pixels)
        where.append(image.positions(plane, after != part, (window.row, window.col)))
        new.append(after[after != part])
    positions, first = np.unique(np.concatenate(where), return_index=True)
    step = "grow objects" if pixels > 0 else "shrink objects"
    new_labels = np.concatenate(new)[first]
    return Paint(image.id, positions, new_labels, step=step, label_set=label_set)


def _grown(part: LabelArray, labels: Sequence[int], pixels: int) -> LabelArray:
    """Return labels ``(h, w)`` with some objects grown; the first of them goes first."""
    from scipy import ndimage

    places = _places(part, labels)
    nobody = len(labels) + 1
    nearest = np.where(places > 0, places, nobody)
    reached = nearest
    for _ in range(pixels):
        reached = np.where(part == 0, ndimage.minimum_filter(reached, 3, mode="nearest"), nearest)
    numbers = np.array([0, *labels, 0], part.dtype)
    return np.where((part == 0) & (reached < nobody), numbers[reached], part)


def _shrunk(part: LabelArray, labels: Sequence[int], pixels: int) -> LabelArray:
    """Return labels ``(h, w)`` with some objects shrunk, but those of which nothing is left."""
    places = _places(part, labels)
    left = places
    for _ in range(pixels):
        wide = np.pad(left, 1)
        around = wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]
        left = np.where(np.logical_and.reduce([each == left for each in around]), left, 0)
    is_left = np.bincount(left.reshape(-1), minlength=len(labels) + 1) > 0
    return np.where((places != left) & is_left[places], 0, part)


def _places(part: LabelArray, labels: Sequence[int]) -> LabelArray:
    """Return ``(h, w)``: the place, from 1, of each pixel's label among some, 0 for others."""
    from skimage.util import map_array

    numbers = np.arange(1, len(labels) + 1, dtype=np.int32)
    places: LabelArray = map_array(part, np.array(labels, part.dtype), numbers)
    return places


def relabel_object(image: DocumentImage, label: int, new: int) -> Paint:
    """Give an object another number in all planes.

    Raises
    ------
    LabelError
        If the number is not above 0, or another object has it.
    """
    image.check_objects((label,))
    if new < 1:
        raise LabelError(f"{new} is no number of an object: numbers start at 1")
    if new in image.records:
        raise LabelError(f"there is an object {new} already: merge the two, or take another number")
    record = replace(image.records[label], label=new)
    where, step, own = image.where(label), f"renumber {label}", image.set_of(label)
    return Paint(image.id, where, new, records=(record,), step=step, label_set=own)


def _object(
    image: DocumentImage, plane: PlaneKey, label: int, margin: int
) -> tuple[Window, BoolArray]:
    """Return an object's pixels in a plane, and the window with a margin that holds them."""
    image.check_objects((label,))
    box = image.box(plane, label)
    if box is None:
        raise LabelError(f"object {label} has no pixels in this plane: show one where it has")
    row0, col0, row1, col1 = map(int, box.as_tuple())
    window = _widened(Window(row0, col0, row1 - row0, col1 - col0), margin, image)
    return window, image.mask(plane, label, window)


def _widened(window: Window, margin: int, image: DocumentImage) -> Window:
    """Return a window with a margin, as far as that lies in the plane."""
    (height, width), (row, col) = window.shape, (window.row - margin, window.col - margin)
    wide = Window(row, col, height + 2 * margin, width + 2 * margin)
    return wide & Window(0, 0, *image.plane_shape)


def _in_parts(
    image: DocumentImage, plane: PlaneKey, label: int, window: Window, parts: LabelArray
) -> Paint:
    """Give all parts but the largest new numbers; parts are numbered from 1."""
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    order = [int(part) for part in sizes.argsort()[::-1] if sizes[part]]
    numbers = np.zeros(len(sizes), np.int64)
    numbers[order] = [label, *range(image.next_label, image.next_label + len(order) - 1)]
    changed = (parts > 0) & (parts != order[0])
    known = image.records[label]
    records = tuple(
        replace(known, label=int(n), planes=(), score=None, corrected=True)
        for n in numbers[order[1:]]
    )  # fmt: skip
    where = image.positions(plane, changed, (window.row, window.col))
    new, step, own = numbers[parts[changed]], f"split {label}", image.set_of(label)
    return Paint(image.id, where, new, records=records, step=step, label_set=own)


def _pixels(path: Line, shape: tuple[int, int]) -> tuple[LabelArray, LabelArray]:
    """Return the pixels of a line that lie in a plane."""
    found = line_pixels(path)
    inside = ((found >= 0) & (found < shape)).all(axis=1)
    rows, cols = np.unique(found[inside], axis=0).T
    return rows, cols
