"""A small annotated world: bright discs on a dark, noisy ground."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import numpy as np
from skimage.draw import disk

from napari_peftsam.evaluation import Answers, Trial, Verdict
from napari_peftsam.training import AnnotatedPlane
from napari_peftsam.types import Point, Prompts

CENTRES = ((12, 12), (12, 34), (12, 54), (34, 12), (34, 34), (34, 54), (54, 22), (54, 46))

E = TypeVar("E")
R = TypeVar("R")


def finish(run: Generator[E, None, R]) -> tuple[list[E], R]:
    """Return all events of a generator, and the report that it returns."""
    events = []
    while True:
        try:
            events.append(next(run))
        except StopIteration as end:
            return events, end.value


def judged(iou_before: float, iou_after: float) -> Verdict:
    """Return the verdict on six objects whose masks have these IoUs."""
    old, new = (Answers((iou,), (iou,)) for iou in (iou_before, iou_after))
    return Verdict((Trial("a", old, new),) * 6)


def make_plane(name: str, seed: int = 0, image: str | None = None) -> AnnotatedPlane:
    """Return a 64 x 64 plane with eight discs of radius 7."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((64, 64), np.int32)
    for number, centre in enumerate(CENTRES, start=1):
        labels[disk(centre, 7, shape=labels.shape)] = number
    pixels = (labels > 0) * 100.0 + rng.normal(30, 10, labels.shape)
    prompts = {1: Prompts(points=(Point(*CENTRES[0]),))}
    return AnnotatedPlane(name, image or name, pixels.astype(np.float32), labels, prompts)
