"""Outlines of objects, label images of them, and what the renderers need to know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._fields import BoolArray, FloatArray, IntArray, Rng, Shape, log_uniform, smooth_noise

_HARMONICS = np.arange(2, 8)

_Range = float | tuple[float, float]


def _superellipse(aspect: FloatArray, power: float, theta: FloatArray) -> FloatArray:
    """Radii (n, bins) of |x/a|^p + |y a|^p = 1 with a = sqrt(aspect)."""
    a = np.sqrt(aspect)[:, None]
    along, across = np.abs(np.cos(theta)) / a, np.abs(np.sin(theta)) * a
    radii = (along**power + across**power) ** (-1.0 / power)
    return radii.astype(np.float32, copy=False)


def _waves(rng: Rng, count: int, theta: FloatArray, amount: float) -> FloatArray:
    """Factor 1 + random harmonics of falling strength, (n, bins)."""
    angles = np.outer(_HARMONICS, theta)
    basis = np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32)
    size = np.tile(amount / (_HARMONICS - 1), 2)
    weights = (rng.standard_normal((count, size.size)) * size).astype(np.float32)
    return np.asarray(np.clip(1 + weights @ basis, 0.35, 2.5), np.float32)


# Of each family of smooth outlines: length / width, power of the superellipse (above 2 the ends
# are blunt, below pointed) and strength of the waves; of two numbers one between them is drawn.
_OUTLINES: dict[str, tuple[tuple[float, float], _Range, _Range]] = {
    "round": ((1.0, 1.25), 2.0, 0.02),
    "oval": ((1.1, 2.2), (1.9, 2.6), 0.03),
    "rod": ((2.5, 6.0), (1.4, 3.5), 0.02),
    "rough": ((1.0, 1.8), 2.0, (0.06, 0.16)),
    "spindle": ((1.5, 4.0), (1.0, 1.7), (0.02, 0.1)),
}


def _smooth(family: str, rng: Rng, count: int, theta: FloatArray) -> FloatArray:
    """Radii (n, bins) of one of `_OUTLINES`, not yet of unit area."""
    aspects, power, waves = _OUTLINES[family]
    drawn = rng.uniform(*aspects, count).astype(np.float32)
    table = _superellipse(drawn, _number(rng, power), theta)
    return table * _waves(rng, count, theta, _number(rng, waves))


def _number(rng: Rng, choice: _Range) -> float:
    return rng.uniform(*choice) if isinstance(choice, tuple) else choice


def _star(rng: Rng, count: int, theta: FloatArray) -> FloatArray:
    """Draw a rough body out into one to five tapering processes."""
    table = _smooth("rough", rng, count, theta)
    # A fixed angle per process, jittered, so that they seldom coincide.
    slots = int(rng.integers(2, 6))
    start = rng.uniform(0, 2 * np.pi, (count, 1))
    for slot in range(slots):
        towards = start + (slot + rng.uniform(-0.3, 0.3, (count, 1))) * (2 * np.pi / slots)
        length = rng.uniform(0.3, 3.5, (count, 1)) * (rng.random((count, 1)) < 0.75)
        away = np.sqrt(2 * np.clip(1 - np.cos(theta - towards), 0, None))
        # Exponential flanks are concave, like a membrane stretched to a tip.
        table = table + length * np.exp(-away * rng.uniform(3, 10, (count, 1)))
    return table.astype(np.float32)


def outline_table(rng: Rng, families: tuple[str, ...], count: int, bins: int) -> FloatArray:
    """Draw (n, bins) radii over the full circle, each object of one of `families`.

    They are in units of the equivalent radius: each outline encloses the unit circle's area, so
    that an object's mean diameter does not depend on its family.
    """
    theta = (np.arange(bins, dtype=np.float32) + 0.5) * np.float32(2 * np.pi / bins)
    choice = rng.integers(len(families), size=count)
    table = np.empty((count, bins), np.float32)
    for i, family in enumerate(families):
        members = np.flatnonzero(choice == i)
        drawn = (rng, members.size, theta)
        table[members] = _star(*drawn) if family == "star" else _smooth(family, *drawn)
    table /= np.sqrt(np.mean(table**2, axis=1, keepdims=True))
    return table


# Candidate pixels handled at a time: bounds memory on large images.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Blobs:
    """Objects before painting."""

    centre: FloatArray  # (n, 2), y and x in pixels
    table: FloatArray  # (n, bins), see `outline_table`; `bins` is a power of two
    radius: FloatArray  # (n,), equivalent radius in pixels
    angle: FloatArray  # (n,), direction of the long axis in radians
    bend: FloatArray  # (n,), curvature of the long axis in 1 / radius

    @property
    def reach(self) -> FloatArray:
        """Farthest distance of an outline from its centre, (n,)."""
        far = self.table.max(axis=1)
        return np.asarray(self.radius * (far + np.abs(self.bend) * far**2) + 1.5, np.float32)


def _candidates(
    blobs: Blobs, members: slice, shape: Shape
) -> tuple[NDArray[np.intp], FloatArray, FloatArray, NDArray[np.intp]]:
    """Object, y and x offset (pixels) and flat position of every pixel in reach."""
    centre, reach = blobs.centre[members], blobs.reach[members]
    half = int(np.ceil(reach.max()))
    grid = np.arange(-half, half + 1)
    y = np.round(centre[:, 0]).astype(int)[:, None] + grid
    x = np.round(centre[:, 1]).astype(int)[:, None] + grid
    dy = np.where((y >= 0) & (y < shape[0]), y - centre[:, :1], np.inf).astype(np.float32)
    dx = np.where((x >= 0) & (x < shape[1]), x - centre[:, 1:], np.inf).astype(np.float32)
    near = dy[:, :, None] ** 2 + dx[:, None, :] ** 2 <= (reach**2)[:, None, None]
    which, i, j = np.nonzero(near)
    flat = y[which, i] * shape[1] + x[which, j]
    return which + (members.start or 0), dy[which, i], dx[which, j], flat


def _relative_distance(
    blobs: Blobs, which: NDArray[np.intp], dy: FloatArray, dx: FloatArray
) -> FloatArray:
    """Distance from the centre in units of the outline's radius there."""
    cos, sin = np.cos(blobs.angle) / blobs.radius, np.sin(blobs.angle) / blobs.radius
    u = dx * cos[which] + dy * sin[which]
    v = dy * cos[which] - dx * sin[which]
    if blobs.bend.any():
        v += blobs.bend[which] * u * u
    bins = blobs.table.shape[1]
    turn = np.arctan2(v, u) * np.float32(bins / (2 * np.pi)) + np.float32(bins)
    outline = blobs.table[which, turn.astype(np.int32) & (bins - 1)]
    return np.asarray(np.sqrt(u * u + v * v) / outline, np.float32)


def paint(
    blobs: Blobs, shape: Shape, warp: tuple[FloatArray, FloatArray] | None, stacked: bool
) -> tuple[IntArray, FloatArray]:
    """Paint labels 1..n and the depth, 1 at centres and 0 at outlines; (H, W) each.

    `warp` displaces outlines along y and x, (H, W) pixels each. Of overlapping objects the later
    one covers the earlier if `stacked`; else they meet where both are equally deep.
    """
    labels = np.zeros(shape[0] * shape[1], np.int32)
    nearest = np.ones(labels.size, np.float32)
    patch = (2 * int(np.ceil(blobs.reach.max())) + 1) ** 2
    step = max(1, _CHUNK // patch)
    for start in range(0, len(blobs.centre), step):
        which, dy, dx, flat = _candidates(blobs, slice(start, start + step), shape)
        if warp is not None:
            dy, dx = dy + warp[0].ravel()[flat], dx + warp[1].ravel()[flat]
        distance = _relative_distance(blobs, which, dy, dx)
        inside = distance < 1
        which, flat, distance = which[inside], flat[inside], distance[inside]
        if stacked:  # candidates come ordered by object: the last one covers
            labels[flat], nearest[flat] = which + 1, distance
            continue
        np.minimum.at(nearest, flat, distance)
        wins = distance <= nearest[flat]
        labels[flat[wins]] = which[wins] + 1
    return labels.reshape(shape), (1 - nearest).reshape(shape)


# Objects with fewer pixels (slivers at the image edge) are not labelled.
MIN_AREA = 8


@dataclass(frozen=True)
class Scene:
    """Objects on the pixel grid, all arrays (H, W)."""

    labels: IntArray  # 0 is background, objects are 1..n
    depth: FloatArray  # 0 outside and at an object's outline, 1 at its centre
    diameter: float  # typical, in pixels
    parts: IntArray | None = None  # of nested objects: their nuclei, with the object's label
    groups: IntArray | None = None  # of nested objects: their clusters, with labels of their own

    @property
    def count(self) -> int:
        """Number of objects."""
        return int(self.labels.max(initial=0))

    @property
    def mask(self) -> FloatArray:
        """(H, W) float32: 1 inside objects, else 0."""
        return (self.labels > 0).astype(np.float32)


def contact_lines(labels: IntArray) -> BoolArray:
    """Pixels whose right or lower neighbour belongs to another object, (H, W)."""
    lines = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = labels[here], labels[there]
        lines[here] |= (a != b) & (a > 0) & (b > 0)
    return lines


def tidy(labels: IntArray, *, min_area: int = MIN_AREA) -> IntArray:
    """Keep the largest 4-connected piece of each object and renumber to 1..n."""
    from skimage.measure import label as connected_pieces  # heavy import, kept lazy

    pieces = connected_pieces(labels, background=0, connectivity=1)
    area = np.bincount(pieces.ravel())
    owner = np.zeros(area.size, np.int32)
    owner[pieces.ravel()] = labels.ravel()
    by_area = np.argsort(area, kind="stable")
    by_area = by_area[(area[by_area] >= min_area) & (owner[by_area] > 0)]
    largest = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    largest[owner[by_area]] = by_area  # the last write, the largest piece, wins
    kept = largest[largest > 0]
    renumber = np.zeros(area.size, np.int32)
    renumber[kept] = np.arange(1, kept.size + 1)
    return np.asarray(renumber[pieces], np.int32)


def core_distance(rng: Rng, scene: Scene) -> FloatArray:
    """Return the elliptic distance from near each object's centroid, for drawing nuclei.

    (H, W) in units of the object's equivalent radius; infinite outside.
    """
    y, x = np.nonzero(scene.labels)
    owner = scene.labels[y, x]
    area = np.maximum(np.bincount(owner, minlength=scene.count + 1), 1)
    radius = np.sqrt(area / np.pi)
    offsets = []
    for at in (y, x):
        centre = np.bincount(owner, at, minlength=scene.count + 1) / area
        centre += rng.normal(0, 0.12, centre.size) * radius
        offsets.append((at - centre[owner]) / radius[owner])
    angle = rng.uniform(0, np.pi, radius.size)[owner]
    stretch = rng.uniform(1, 1.4, radius.size)[owner]
    u = offsets[1] * np.cos(angle) + offsets[0] * np.sin(angle)
    v = offsets[0] * np.cos(angle) - offsets[1] * np.sin(angle)
    distance = np.full(scene.labels.shape, np.inf, np.float32)
    distance[y, x] = np.hypot(u / stretch, v * stretch)
    return distance


@dataclass(frozen=True)
class BlobStyle:
    """Shapes and density of the objects of one image."""

    families: tuple[str, ...]  # of `_OUTLINES`, or "star"
    spacing: float  # mean distance of neighbours in diameters; about 0.9 is confluent
    keep: float  # fraction of the places that hold an object
    clumped: bool  # the empty places form regions instead of being independent
    bend: float  # largest curvature: 0 straight, 0.5 bean shaped
    warp: float  # roughness of outlines: displacement in diameters
    spread: float  # standard deviation of the logarithm of the diameters
    stacked: bool  # see `paint`
    split: bool  # a background line separates objects that touch


def random_style(
    rng: Rng,
    families: tuple[str, ...],
    *,
    spacing: tuple[float, float] = (0.85, 3.0),
    warps: tuple[float, ...] = (0.0, 0.0, 0.02, 0.05, 0.1),
    spreads: tuple[float, ...] = (0.05, 0.15, 0.3),
) -> BlobStyle:
    """Draw a style; one or a mix of two of `families`, values from the ranges."""
    mix = 2 if len(families) > 1 and rng.random() < 0.3 else 1
    return BlobStyle(
        families=tuple(str(f) for f in rng.choice(families, mix, replace=False)),
        spacing=log_uniform(rng, *spacing),
        keep=float(rng.uniform(0.4, 1.0)),
        clumped=bool(rng.random() < 0.5),
        bend=float(rng.choice([0.0, 0.0, 0.25, 0.5])),
        warp=float(rng.choice(warps)),
        spread=float(rng.choice(spreads)),
        stacked=bool(rng.random() < 0.3),
        split=bool(rng.random() < 0.2),
    )


def _scatter(rng: Rng, shape: Shape, diameter: float, style: BlobStyle) -> FloatArray:
    """Centres (n, 2) in pixels on a jittered hexagonal lattice with vacancies."""
    step = diameter * style.spacing
    margin = 0.5 * diameter
    rows = np.arange(-margin, shape[0] + margin, step * 0.87) + rng.uniform(0, step / 2)
    columns = np.arange(-margin - step / 2, shape[1] + margin, step) + rng.uniform(0, step / 2)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    x[1::2] += step / 2
    centres = np.stack([y.ravel(), x.ravel()], axis=1)
    centres += rng.normal(0, step * rng.uniform(0.12, 0.35), centres.shape)
    if style.clumped:
        field = smooth_noise(rng, shape, step * rng.uniform(1.5, 4))
        at = np.clip(centres, 0, np.array(shape) - 1).astype(int)
        score = field[at[:, 0], at[:, 1]]
    else:
        score = rng.random(len(centres))
    kept = centres[score <= np.quantile(score, style.keep)]
    inside = np.all((kept >= 0) & (kept < shape), axis=1)
    if not inside.any():  # an empty image would teach nothing
        kept = np.concatenate([kept, rng.uniform(0.3, 0.7, (1, 2)) * shape])
    rng.shuffle(kept)
    return np.asarray(kept, np.float32)


def _make_blobs(rng: Rng, centres: FloatArray, diameter: float, style: BlobStyle) -> Blobs:
    n = len(centres)
    radius = 0.5 * diameter * np.exp(rng.normal(0, style.spread, n))
    # About one bin per pixel of outline; elongated outlines need more.
    bins = int(np.clip(2 ** np.ceil(np.log2(6 * diameter)), 64, 512))
    table = outline_table(rng, style.families, n, bins)
    aligned = rng.random() < 0.25
    angle = rng.normal(rng.uniform(0, np.pi), 0.2, n) if aligned else rng.uniform(0, 2 * np.pi, n)
    # Curving a long outline further would fold it into a thin hook.
    bend = rng.uniform(0, style.bend, n) / np.maximum(table.max(axis=1), 1) ** 2
    numbers = (values.astype(np.float32) for values in (radius, angle, bend))
    return Blobs(centres, table, *numbers)


def blobs(rng: Rng, shape: Shape, diameter: float, style: BlobStyle) -> Scene:
    """Scatter and paint objects, at least one if the image has room for it.

    `diameter` is their median equivalent diameter in pixels, before overlaps cut them.
    """
    centres = _scatter(rng, shape, diameter, style)
    made = _make_blobs(rng, centres, diameter, style)
    warp = None
    if style.warp > 0 and diameter >= 10:
        # Knots well below the diameter, so that outlines get rough, not bent.
        scale = max(2.0, diameter * rng.uniform(0.08, 0.25))
        strength = np.float32(style.warp * diameter)
        y, x = (smooth_noise(rng, shape, scale) * strength * np.float32(0.6) for _ in range(2))
        warp = (y, x)
    labels, depth = paint(made, shape, warp, style.stacked)
    if style.split and diameter >= 10:
        labels[contact_lines(labels)] = 0
    labels = tidy(labels)
    return Scene(labels, depth * (labels > 0), diameter)
