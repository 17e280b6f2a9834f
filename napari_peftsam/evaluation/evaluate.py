"""Evaluation of a model on labelled images with simulated prompts."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from napari_peftsam.configs import EvaluationConfig
from napari_peftsam.embeddings import (
    BASE_ADAPTER,
    Embedding,
    EmbeddingStore,
    Encoded,
    EncodeEvent,
    EncodeFailed,
    EncodeProgress,
    EncodeRequest,
    encode,
)
from napari_peftsam.evaluation.clicks import (
    CANDIDATES,
    Candidates,
    Floats,
    click_ious,
    clicks_to_reach,
    first_candidates,
)
from napari_peftsam.evaluation.intervals import bootstrap_intervals
from napari_peftsam.evaluation.targets import LabelledImage, Target, select_objects, targets_of
from napari_peftsam.models import SamModel
from napari_peftsam.segmentation import Predictor
from napari_peftsam.types import Prompts

__all__ = [
    "EvaluationConfig",
    "EvaluationEvent",
    "EvaluationProgress",
    "EvaluationReport",
    "ImageFigures",
    "evaluate",
]

FIGURES = ("point_iou", "box_iou", "ip_iou", "ib_iou", "noc80", "noc85", "noc90")
"""Figures that each object has; of an image, or all of them, the means."""

Intervals = Mapping[str, tuple[float, float] | None]

# Masks of one batch, all candidates of its objects at the image's size; bounds memory on large
# images.
_MASK_BYTES = 2**27
_EMBEDDING_SHARE = 0.1


@dataclass(frozen=True)
class EvaluationProgress:
    """A fraction in [0, 1] of the whole evaluation is done, at present image `name`."""

    name: str
    fraction: float


@dataclass(frozen=True)
class ImageFigures:
    """Mean figures of one image's objects, by the names in `EvaluationReport`.

    Attributes
    ----------
    intervals
        95 % bootstrap intervals of the means over objects; None of a single object.
    """

    name: str
    objects: int
    means: Mapping[str, float]
    intervals: Intervals

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        intervals = _as_lists(self.intervals)
        return {"name": self.name, "objects": self.objects, **self.means, "intervals": intervals}


@dataclass(frozen=True)
class EvaluationReport:
    """The figures; means over all evaluated objects.

    Attributes
    ----------
    images, objects
        Evaluated objects and the images they are in; tiles of a large image count as images.
    skipped_small
        Objects left out as too small.
    point_iou, box_iou
        IoU after one click on the deepest pixel, and with the tight bounding box.
    ip_iou, ib_iou
        IoU after so many rounds (`EvaluationConfig.rounds`) of iterative prompting that begins
        with that point or that box: the I_P and I_B of PEFT-SAM (Teuber et al.). Each further
        round is one corrective click with the last mask fed back; theirs is a positive and a
        negative one.
    iou_at_clicks
        IoU after 1, 2, … simulated clicks.
    noc80, noc85, noc90
        Number of clicks to reach IoU 0.8, 0.85 and 0.9, see `clicks_to_reach`.
    score_correlation, score_ranking, area_ranking
        Of the candidates after one click, see `Candidates`.
    intervals
        95 % bootstrap intervals of the means, by the names in `FIGURES`: over images and the
        objects in them, of one image over its objects (see `bootstrap_intervals`).
    per_image
        The same figures of every image.
    """

    images: int
    objects: int
    skipped_small: int
    point_iou: float
    box_iou: float
    ip_iou: float
    ib_iou: float
    iou_at_clicks: tuple[float, ...]
    noc80: float
    noc85: float
    noc90: float
    score_correlation: float | None
    score_ranking: float | None
    area_ranking: float | None
    intervals: Intervals = field(hash=False)
    per_image: tuple[ImageFigures, ...] = field(hash=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        return {
            **asdict(self),
            "iou_at_clicks": list(self.iou_at_clicks),
            "intervals": _as_lists(self.intervals),
            "per_image": [image.to_dict() for image in self.per_image],
        }


def _as_lists(intervals: Intervals) -> dict[str, list[float] | None]:
    return {name: None if each is None else list(each) for name, each in intervals.items()}


EvaluationEvent = EvaluationProgress | EvaluationReport


def evaluate(
    model: SamModel,
    pairs: Iterable[LabelledImage],
    config: EvaluationConfig | None = None,
    adapter: str = BASE_ADAPTER,
    store: EmbeddingStore | None = None,
) -> Iterator[EvaluationEvent]:
    """Prompt every labelled object as a user would, and compare the masks.

    The mask is always the candidate of the highest predicted score. The same seed on the
    same data and machine gives the same figures bit for bit. Close the iterator to stop.

    Parameters
    ----------
    model
        The model, with `adapter` injected.
    pairs
        ``(name, pixels, labels)``, of a tile of a large image its `limits` as well (see
        `EncodeRequest`); a sequence is read item by item, twice, so it may load its images
        lazily.
    config
        See `EvaluationConfig`.
    adapter, store
        As in `napari_peftsam.embeddings.encode`.

    Yields
    ------
    EvaluationEvent
        `EvaluationProgress`, and last the `EvaluationReport`.

    Raises
    ------
    LabelError
        If labels are unusable, or none is left when small ones are skipped.
    ImageError
        If an image cannot be used; the message names it.
    """
    config = config or EvaluationConfig()
    images = pairs if isinstance(pairs, Sequence) else tuple(pairs)
    selected, small = select_objects(images, config.min_area, config.max_objects, config.seed)
    objects = sum(map(len, selected.values()))
    measured: list[_Measured] = []
    done = 0
    for index, chosen in selected.items():
        name, pixels, labels, *limits = images[index]
        span = Span(name, done / objects, len(chosen) / objects)
        request = EncodeRequest(name, pixels, *limits)
        embedding = yield from embedded(encode(model, [request], store, adapter), span)
        targets = targets_of(labels, chosen)
        measured += yield from _measure(Predictor(model), embedding, targets, config, span)
        done += len(chosen)
    yield _report(small, measured, config)


@dataclass(frozen=True, eq=False)
class _Measured:
    """IoUs of some objects of an image after every prompt, ``(objects, prompts)``.

    `curves` begin with a click, `boxes` with a box.
    """

    span: Span
    curves: Floats
    boxes: Floats
    candidates: Candidates


@dataclass(frozen=True)
class Span:
    """One image's part of the whole progress."""

    name: str
    start: float
    share: float

    def at(self, fraction: float) -> EvaluationProgress:
        return EvaluationProgress(self.name, self.start + self.share * fraction)


def embedded(
    events: Iterable[EncodeEvent], span: Span
) -> Generator[EvaluationProgress, None, Embedding]:
    for event in events:
        if isinstance(event, EncodeProgress):
            yield span.at(_EMBEDDING_SHARE * event.fraction)
        elif isinstance(event, EncodeFailed):
            raise type(event.error)(f"{span.name}: {event.error}") from event.error
        elif isinstance(event, Encoded):
            return event.embedding
    raise AssertionError("encode ends every image with Encoded or EncodeFailed")


def _measure(
    predictor: Predictor,
    embedding: Embedding,
    targets: Sequence[Target],
    config: EvaluationConfig,
    span: Span,
) -> Generator[EvaluationProgress, None, list[_Measured]]:
    """Measure all objects of one image, in batches."""
    measured: list[_Measured] = []
    pixels = embedding.frame.height * embedding.frame.width
    size = max(1, _MASK_BYTES // (CANDIDATES * pixels))
    for start in range(0, len(targets), size):
        batch = targets[start : start + size]
        candidates = first_candidates(predictor, embedding, batch)
        curves = np.zeros((len(batch), max(config.clicks, config.rounds)))
        boxes = np.zeros((len(batch), config.rounds))
        done = 0
        for figures, first in ((curves, None), (boxes, [Prompts(box=t.box) for t in batch])):
            rounds = figures.shape[1]
            asked = click_ious(predictor, embedding, batch, rounds, first=first)
            for number, ious in enumerate(asked):
                figures[:, number] = ious
                done += 1
                share = done / (curves.shape[1] + config.rounds)
                fraction = (start + len(batch) * share) / len(targets)
                yield span.at(_EMBEDDING_SHARE + (1 - _EMBEDDING_SHARE) * fraction)
        measured.append(_Measured(span, curves, boxes, candidates))
    return measured


def _report(
    skipped_small: int, measured: Sequence[_Measured], config: EvaluationConfig
) -> EvaluationReport:
    values = np.concatenate([_figures(part, config) for part in measured])
    curves = np.concatenate([part.curves[:, : config.clicks] for part in measured])
    found = [(c.scores, c.areas, c.ious) for c in (part.candidates for part in measured)]
    candidates = Candidates(*map(np.concatenate, zip(*found, strict=True)))
    spans = list(dict.fromkeys(part.span for part in measured))  # one of each image
    image = np.repeat(
        [spans.index(part.span) for part in measured], [len(part.boxes) for part in measured]
    )
    by_image = [(span.name, values[image == number]) for number, span in enumerate(spans)]
    return EvaluationReport(
        images=len(spans),
        objects=len(values),
        skipped_small=skipped_small,
        **_means(values),
        iou_at_clicks=tuple(float(v) for v in curves.mean(axis=0)),
        score_correlation=candidates.score_correlation,
        score_ranking=candidates.score_ranking,
        area_ranking=candidates.area_ranking,
        intervals=_intervals(values, image.tolist()),
        per_image=tuple(
            ImageFigures(name, len(own), _means(own), _intervals(own, [0] * len(own)))
            for name, own in by_image
        ),
    )


def _figures(part: _Measured, config: EvaluationConfig) -> Floats:
    """Return the `FIGURES` of each object, ``(objects, figures)``."""
    last, clicks = config.rounds - 1, part.curves[:, : config.clicks]
    ious = (part.curves[:, 0], part.boxes[:, 0], part.curves[:, last], part.boxes[:, last])
    needed = (clicks_to_reach(clicks, threshold) for threshold in (0.8, 0.85, 0.9))
    return np.stack([*ious, *needed], axis=1)


def _means(values: Floats) -> dict[str, float]:
    return dict(zip(FIGURES, values.mean(axis=0).tolist(), strict=True))


def _intervals(values: Floats, groups: Sequence[int]) -> Intervals:
    found = bootstrap_intervals(values, groups)
    return dict(zip(FIGURES, found or itertools.repeat(None), strict=found is not None))
