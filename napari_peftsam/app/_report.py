"""The demo's picture of before and after, and its report."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from napari_peftsam.batch.segment import segment_plane
from napari_peftsam.embeddings import EncodeFailed
from napari_peftsam.evaluation import Target
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import FloatArray, LabelArray, PixelArray, Prompts

if TYPE_CHECKING:
    from napari_peftsam.app.demo import DemoReport

Row = tuple[str, PixelArray, LabelArray, LabelArray, LabelArray]
"""Name, pixels ``(H, W, 3)``, true labels, and both models' labels of an image."""

_TINT = 0.45
_TITLES = ("image", "labels by hand", "before", "after")


def segment_from_clicks(engine: Engine, pixels: PixelArray, truth: LabelArray) -> LabelArray:
    """Segment every true object from one click; labels ``(H, W)`` as in `truth`."""
    for event in engine.embed("image", pixels):
        if isinstance(event, EncodeFailed):
            raise event.error
    embedding = engine.embedding(pixels)
    assert embedding is not None
    numbers = [int(n) for n in np.unique(truth) if n]
    prompts = [Prompts((Target.from_mask(truth == n).first_click(),)) for n in numbers]
    found = segment_plane(engine, embedding, prompts)
    return np.asarray([0, *numbers], truth.dtype)[found]


def draw_figure(rows: Sequence[Row]) -> bytes:
    """Return a PNG: per held-out image the image, the truth, and both models' masks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 2.8 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(_TITLES), squeeze=False)
    for (name, pixels, truth, before, after), line in zip(rows, axes, strict=True):
        shown = (None, truth, before, after)
        for title, labels, axis in zip(_TITLES, shown, line, strict=True):
            axis.imshow(_painted(pixels, labels))
            axis.set_axis_off()
            agreement = ""
            if labels is not None and labels is not truth:
                agreement = f": mean IoU {_mean_iou(truth, labels):.2f}"
            axis.set_title(f"{name if labels is None else title}{agreement}", fontsize=9)
    figure.suptitle(
        "Held-out images; one simulated click per object, all at once: neighbours compete",
        fontsize=10,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _mean_iou(truth: LabelArray, labels: LabelArray) -> float:
    numbers = [n for n in np.unique(truth) if n]
    return float(np.mean([Target.from_mask(truth == n).iou(labels == n) for n in numbers]))


def _painted(pixels: PixelArray, labels: LabelArray | None) -> FloatArray:
    """Return ``(H, W, 3)`` in [0, 1]: the image with tinted and outlined objects."""
    from skimage.segmentation import find_boundaries

    rgb = (pixels[..., :3] / 255).astype(np.float32)
    if labels is None:
        return rgb
    colours = np.random.default_rng(3).uniform(0.1, 1, (int(labels.max()) + 1, 3))
    tinted = np.where(
        labels[..., None] > 0, (1 - _TINT) * rgb + _TINT * colours[labels], rgb
    ).astype(np.float32)
    tinted[find_boundaries(labels, mode="inner")] = (1, 1, 0)
    return tinted


def write_report(report: DemoReport, figure: bytes) -> str:
    """Return a page of HTML that needs no other file."""
    before, after = report.before, report.after
    rows = (
        ("IoU from a tight box", f"{before.box_iou:.3f}", f"{after.box_iou:.3f}"),
        ("IoU from one click", f"{before.point_iou:.3f}", f"{after.point_iou:.3f}"),
        ("Clicks to 80 % IoU (at most 10)", f"{before.noc80:.2f}", f"{after.noc80:.2f}"),
        ("Clicks to 90 % IoU (at most 10)", f"{before.noc90:.2f}", f"{after.noc90:.2f}"),
    )
    table = "".join(f"<tr><td>{a}<td>{b}<td>{c}" for a, b, c in rows)
    files = "".join(f"<li>{html.escape(name)}" for name in report.files)
    return _PAGE.format(
        objects=before.objects, images=before.images, table=table, files=files,
        verdict=html.escape(report.verdict), beside=html.escape(report.beside),
        picture=base64.b64encode(figure).decode(), made=report.annotated_objects,
        clicks=report.clicks_per_object, steps=report.training_steps,
        parameters=report.trainable_parameters, iou_before=report.val_iou_before,
        iou_after=report.val_iou_after, seconds=report.seconds,
    )  # fmt: skip


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>napari-peftsam demo</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #ccc; text-align: left }}
img {{ width: 100% }}
.note {{ background: #fff3cd; padding: .6rem 1rem }}
</style></head><body>
<h1>napari-peftsam demo</h1>
<p class="note"><b>The annotator is simulated.</b> Its clicks and brush strokes are computed from
the sample's hand-made labels (CC0, 2018 Data Science Bowl); a person would be less exact.</p>
<p>It made {made} objects in the training images with {clicks:.1f} clicks each and brushed away
what was still wrong. LoRA + COBOT ({parameters:,} trained parameters) learned from them in {steps}
steps. On the annotated objects held out from the training, the mean IoU went from
{iou_before:.3f} to {iou_after:.3f}. {verdict}.{beside}</p>
<h2>{objects} objects of {images} images from other slides</h2>
<table><tr><th>Simulated prompts<th>Before<th>After{table}</table>
<p>All took {seconds:.0f} s.</p>
<img alt="Held-out images, labels by hand, masks before and after"
  src="data:image/png;base64,{picture}">
<h2>Files</h2><ul>{files}</ul>
</body></html>
"""
