"""Draws a style of shapes, scatters them over the field and paints them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._fields import FloatArray, Shape, log_uniform, smooth_noise
from ._outlines import outline_table
from ._paint import Blobs, paint
from ._scene import Scene, contact_lines, tidy

__all__ = ["BlobStyle", "blobs", "random_style"]


@dataclass(frozen=True)
class BlobStyle:
    """How the objects of one image look and stand.

    Attributes
    ----------
    families
        Names of outline families (see `_outlines.OUTLINES`).
    spacing
        Mean distance of neighbours in diameters; about 0.9 is confluent.
    keep
        Fraction of the places that hold an object.
    clumped
        Whether the empty places form regions instead of being independent.
    bend
        Largest curvature: 0 straight, 0.5 bean shaped.
    warp
        Outline roughness: displacement in diameters.
    spread
        Standard deviation of the logarithm of the diameters.
    stacked
        Overlaps: the later object covers the earlier one (True), or both meet
        halfway (False).
    split
        Whether a background line separates objects that touch.
    """

    families: tuple[str, ...]
    spacing: float
    keep: float
    clumped: bool
    bend: float
    warp: float
    spread: float
    stacked: bool
    split: bool


def random_style(
    rng: np.random.Generator,
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


def _scatter(
    rng: np.random.Generator, shape: Shape, diameter: float, style: BlobStyle
) -> FloatArray:
    """Centres (n, 2) in px on a jittered hexagonal lattice with vacancies."""
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
    centred: FloatArray = kept.astype(np.float32)
    return centred


def _make_blobs(
    rng: np.random.Generator, centres: FloatArray, diameter: float, style: BlobStyle
) -> Blobs:
    n = len(centres)
    radius = 0.5 * diameter * np.exp(rng.normal(0, style.spread, n))
    # About one bin per px of outline; elongated outlines need more.
    bins = int(np.clip(2 ** np.ceil(np.log2(6 * diameter)), 64, 512))
    table = outline_table(rng, style.families, n, bins)
    aligned = rng.random() < 0.25
    angle = rng.normal(rng.uniform(0, np.pi), 0.2, n) if aligned else rng.uniform(0, 2 * np.pi, n)
    # Curving a long outline further would fold it into a thin hook.
    bend = rng.uniform(0, style.bend, n) / np.maximum(table.max(axis=1), 1) ** 2
    return Blobs(
        centre=centres,
        radius=radius.astype(np.float32),
        angle=angle.astype(np.float32),
        bend=bend.astype(np.float32),
        table=table,
    )


def blobs(rng: np.random.Generator, shape: Shape, diameter: float, style: BlobStyle) -> Scene:
    """Scatter and paint objects.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        (H, W) in px.
    diameter
        Median equivalent diameter in px, before overlaps cut objects.
    style
        Shapes and density.

    Returns
    -------
    Scene
        At least one object, if the image has room for one.
    """
    centres = _scatter(rng, shape, diameter, style)
    made = _make_blobs(rng, centres, diameter, style)
    warp = None
    if style.warp > 0 and diameter >= 10:
        # Knots well below the diameter, so that outlines get rough, not bent.
        scale = max(2.0, diameter * rng.uniform(0.08, 0.25))
        strength = np.float32(style.warp * diameter)
        warp = (
            smooth_noise(rng, shape, scale) * strength * np.float32(0.6),
            smooth_noise(rng, shape, scale) * strength * np.float32(0.6),
        )
    labels, depth = paint(made, shape, warp, style.stacked)
    if style.split and diameter >= 10:
        labels[contact_lines(labels)] = 0
    labels = tidy(labels)
    return Scene(labels, depth * (labels > 0), diameter)
