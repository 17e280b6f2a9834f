"""Small value types shared by every floor; numpy only, no torch, no Qt.

Coordinates are in *pixel-edge* space throughout the core where boxes are meant
(pixel ``i`` covers ``[i, i + 1)``) and in *pixel-centre* space where points are
meant (the point ``(3, 5)`` is the centre of pixel row 3, column 5), which are the
conventions of `skimage.measure.regionprops` and of napari respectively.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from napari_peftsam.errors import PromptError

PixelArray = npt.NDArray[Any]
"""One image plane: ``(H, W)`` grey or ``(H, W, 3)`` RGB, any real dtype."""
LabelArray = npt.NDArray[np.integer[Any]]
"""Instance labels ``(H, W)``; 0 is unlabelled."""
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]


class Plane(Protocol):
    """One image plane ``(H, W)`` or ``(H, W, 3)`` that may lie on disk and is read in parts.

    A numpy array is one, and so are arrays of zarr and dask.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and perhaps colours."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""

    def __getitem__(self, key: Any, /) -> Any:
        """Read a part, given by slices."""


@dataclass(frozen=True)
class Window:
    """A part of an image plane: `height` x `width` pixels from pixel ``(row, col)`` on."""

    row: int
    col: int
    height: int
    width: int

    @classmethod
    def from_slices(cls, rows: slice, cols: slice) -> Window:
        """Return the window of two slices with start and stop."""
        return cls(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)

    @classmethod
    def around(cls, mask: BoolArray) -> Window:
        """Return the smallest window that holds all of a mask ``(H, W)``; empty if it is."""
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            return cls(0, 0, 0, 0)
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        cols = np.flatnonzero(mask[top:bottom].any(axis=0))
        return cls.from_slices(slice(top, bottom), slice(int(cols[0]), int(cols[-1]) + 1))

    @property
    def stop(self) -> tuple[int, int]:
        """The first row below it and the first column to its right."""
        return self.row + self.height, self.col + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        bottom, right = self.stop
        return slice(self.row, bottom), slice(self.col, right)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    def __bool__(self) -> bool:
        return self.height > 0 and self.width > 0

    def __and__(self, other: Window) -> Window:
        """Return the intersection of two windows, possibly empty."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        bottom, right = (min(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Window(row, col, max(0, bottom - row), max(0, right - col))

    def __or__(self, other: Window) -> Window:
        """Return the smallest window that holds both."""
        row, col = min(self.row, other.row), min(self.col, other.col)
        bottom, right = (max(a, b) for a, b in zip(self.stop, other.stop, strict=True))
        return Window(row, col, bottom - row, right - col)

    def contains(self, row: float, col: float) -> bool:
        """Return whether a position, in pixel centres, lies inside."""
        (row0, col0), (row1, col1) = (self.row, self.col), self.stop
        return row0 <= row < row1 and col0 <= col < col1

    def seen_from(self, other: Window) -> Window:
        """Return the same window counted from the first pixel of another one."""
        return replace(self, row=self.row - other.row, col=self.col - other.col)


@dataclass(frozen=True)
class Point:
    """A click at a pixel-centre coordinate.

    Attributes
    ----------
    row, col
        Position in pixels; ``(0, 0)`` is the centre of the top-left pixel.
    positive
        Whether the object is at this point (True) or must not be (False).
    """

    row: float
    col: float
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """A half-open bounding box ``[row0, row1) x [col0, col1)`` in pixel edges.

    The same convention as ``skimage.measure.regionprops(...).bbox``.
    """

    row0: float
    col0: float
    row1: float
    col1: float

    def __post_init__(self) -> None:
        if not (self.row0 < self.row1 and self.col0 < self.col1):
            raise PromptError(
                f"a box needs row0 < row1 and col0 < col1, got {self.as_tuple()}: "
                "give its top-left corner first"
            )

    @classmethod
    def around(cls, window: tuple[slice, slice]) -> Box:
        """Return the box of these rows and columns."""
        rows, cols = window
        return cls(float(rows.start), float(cols.start), float(rows.stop), float(cols.stop))

    def as_tuple(self) -> tuple[float, float, float, float]:
        """Return ``(row0, col0, row1, col1)``."""
        return self.row0, self.col0, self.row1, self.col1

    @property
    def middle(self) -> tuple[float, float]:
        """Row and column of its middle."""
        return (self.row0 + self.row1) / 2, (self.col0 + self.col1) / 2


@dataclass(frozen=True)
class Prompts:
    """All prompts of one object."""

    points: tuple[Point, ...] = ()
    box: Box | None = None

    def __bool__(self) -> bool:
        return bool(self.points) or self.box is not None

    def with_point(self, point: Point) -> Prompts:
        """Return a copy with one more point."""
        return replace(self, points=(*self.points, point))

    def with_box(self, box: Box | None) -> Prompts:
        """Return a copy with this box."""
        return replace(self, box=box)

    @property
    def extent(self) -> Box:
        """The smallest box around the box and the positive points (else the first point).

        In pixel-centre space: a point is a pixel wide.
        """
        points = [p for p in self.points if p.positive]
        if self.box is None and not points:
            points = list(self.points[:1])
        rows, cols = [p.row for p in points], [p.col for p in points]
        if self.box is not None:
            rows += [self.box.row0, self.box.row1 - 1]
            cols += [self.box.col0, self.box.col1 - 1]
        return Box(min(rows) - 0.5, min(cols) - 0.5, max(rows) + 0.5, max(cols) + 0.5)

    def within(self, window: Window) -> Prompts:
        """Return the prompts that lie in a window, in its pixels; a box is cut at its edges."""
        points = tuple(
            replace(p, row=p.row - window.row, col=p.col - window.col)
            for p in self.points
            if 0 <= p.row - window.row + 0.5 <= window.height
            and 0 <= p.col - window.col + 0.5 <= window.width
        )
        box = self.box
        if box is None:
            return Prompts(points)
        row0, col0 = max(0.0, box.row0 - window.row), max(0.0, box.col0 - window.col)
        row1 = min(float(window.height), box.row1 - window.row)
        col1 = min(float(window.width), box.col1 - window.col)
        inside = row0 < row1 and col0 < col1
        return Prompts(points, Box(row0, col0, row1, col1) if inside else None)

    def check_inside(self, shape: tuple[int, int]) -> None:
        """Raise `PromptError` unless all prompts lie in an image of `shape`."""
        height, width = shape
        for p in self.points:
            if not (-0.5 <= p.row <= height - 0.5 and -0.5 <= p.col <= width - 0.5):
                raise PromptError(
                    f"the point (row {p.row:g}, col {p.col:g}) lies outside the image of "
                    f"{height} x {width} pixels"
                )
        if self.box is not None:
            b = self.box
            if b.row1 <= 0 or b.col1 <= 0 or b.row0 >= height or b.col0 >= width:
                raise PromptError(
                    f"the box {b.as_tuple()} lies outside the image of {height} x {width} pixels"
                )


@dataclass(frozen=True)
class Frame:
    """Placement of an image of ``height x width`` in the square input of the model.

    The longer side is scaled to `size`, the rest is padded at the bottom and right.
    """

    height: int
    width: int
    size: int

    @property
    def scale(self) -> float:
        """Model pixels per image pixel."""
        return self.size / max(self.height, self.width)

    @property
    def inner(self) -> tuple[int, int]:
        """Rows and columns of the square that hold the image."""
        return max(1, round(self.height * self.scale)), max(1, round(self.width * self.scale))

    def points_to_model(self, points: tuple[Point, ...]) -> FloatArray:
        """Return ``(N, 2)`` model coordinates in SAM's order ``(x, y)``.

        SAM's prompt encoder adds half a pixel itself, hence the subtraction.
        """
        rows, cols = self._factors()
        xy = [((p.col + 0.5) * cols - 0.5, (p.row + 0.5) * rows - 0.5) for p in points]
        return np.asarray(xy, np.float32).reshape(-1, 2)

    def box_to_model(self, box: Box) -> FloatArray:
        """Return ``(4,)`` model coordinates in SAM's order ``(x0, y0, x1, y1)``."""
        rows, cols = self._factors()
        scaled = (box.col0 * cols, box.row0 * rows, box.col1 * cols, box.row1 * rows)
        return np.asarray(scaled, np.float32) - np.float32(0.5)

    def _factors(self) -> tuple[float, float]:
        inner_height, inner_width = self.inner
        return inner_height / self.height, inner_width / self.width


class MaskPrompt(NamedTuple):
    """A candidate of an earlier prediction that the next one refines.

    One of `Prediction.logits`, ``(h, w)``, and the `Prediction.logits_offset` they came with.
    """

    logits: FloatArray
    offset: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The candidates for one object, best predicted score first.

    Attributes
    ----------
    masks
        ``(K, H, W)`` boolean, in the image's own pixels: of the whole plane, or of the
        part of it at `offset`. Outside of that part there is nothing of the object.
    scores
        ``(K,)`` predicted IoU in [0, 1].
    logits
        ``(K, h, w)`` low-resolution mask logits; feed one back as `previous`.
    offset
        Row and column in the plane of the first pixel of `masks`.
    logits_offset
        Row and column in the plane where `logits` begin; ``(0, 0)`` unless the plane is
        worked on in tiles.
    part_of
        Height and width of the plane; None if `masks` cover all of it.
    """

    masks: BoolArray
    scores: FloatArray
    logits: FloatArray
    offset: tuple[int, int] = (0, 0)
    logits_offset: tuple[int, int] = (0, 0)
    part_of: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def window(self) -> Window:
        """The part of the plane that `masks` cover."""
        return Window(*self.offset, *self.masks.shape[1:])

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Height and width of the plane."""
        return self.part_of or self.window.shape

    def whole(self, choice: int = 0) -> BoolArray:
        """Return a candidate in the whole plane, ``(H, W)``."""
        if self.part_of is None:
            mask: BoolArray = self.masks[choice]
            return mask
        plane = np.zeros(self.part_of, np.bool_)
        plane[self.window.slices] = self.masks[choice]
        return plane

    def mask_prompt(self, choice: int) -> MaskPrompt:
        """Return the mask prompt with which the predictor refines a candidate."""
        return MaskPrompt(self.logits[choice].copy(), self.logits_offset)

    def trimmed(self) -> Prediction:
        """Return the same candidates in the smallest part of the plane that holds them all.

        At least one pixel is kept, so that nobody has to deal with empty arrays.
        """
        kept = Window.around(np.asarray(self.masks.any(axis=0))) or Window(0, 0, 1, 1)
        offset = self.offset[0] + kept.row, self.offset[1] + kept.col
        masks = self.masks[(..., *kept.slices)].copy()
        return replace(self, masks=masks, offset=offset, part_of=self.plane_shape)


JUDGED_IOUS = "automatic.scorer.ious"
"""Tensor of an adapter file with as many values as it carries judged proposals."""
SAM_FRAMES = (1024, 768, 512)
"""Frames that Segment Anything can be loaded with, in pixels; it was published with the first."""


@dataclass(frozen=True)
class ModelReference:
    """A model and the frame to load it with; as text ``vit_b`` or ``vit_b@512``.

    Attributes
    ----------
    source
        A name of the registry, or the path of a checkpoint.
    frame
        Side of the square that images are scaled to, in pixels; None: that of the checkpoint.
    """

    source: str
    frame: int | None = None

    @classmethod
    def parse(cls, text: str | Path) -> Self:
        """Read a reference; the path of a file is one, whatever it ends in."""
        found = re.fullmatch(r"(.+)@(-?\d{1,20})", str(text))
        if found is None or Path(text).is_file():
            return cls(str(text))
        return cls(found[1], int(found[2]))

    def __str__(self) -> str:
        return self.source if self.frame is None else f"{self.source}@{self.frame}"
