"""Evaluation of a model on labelled images with simulated prompts."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

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
    box_ious,
    click_ious,
    clicks_to_reach,
    first_candidates,
)
from napari_peftsam.evaluation.targets import LabelledImage, Target, select_objects, targets_of
from napari_peftsam.models import SamModel
from napari_peftsam.segmentation import Predictor

__all__ = [
    "EvaluationConfig",
    "EvaluationEvent",
    "EvaluationProgress",
    "EvaluationReport",
    "evaluate",
]

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
    iou_at_clicks
        IoU after 1, 2, … simulated clicks.
    noc80, noc90
        Number of clicks to reach IoU 0.8 and 0.9, see `clicks_to_reach`.
    score_correlation, score_ranking, area_ranking
        Of the candidates after one click, see `Candidates`.
    """

    images: int
    objects: int
    skipped_small: int
    point_iou: float
    box_iou: float
    iou_at_clicks: tuple[float, ...]
    noc80: float
    noc90: float
    score_correlation: float | None
    score_ranking: float | None
    area_ranking: float | None

    def to_dict(self) -> dict[str, int | float | list[float] | None]:
        """Return the figures, ready for JSON."""
        return {**asdict(self), "iou_at_clicks": list(self.iou_at_clicks)}


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
        span = _Span(name, done / objects, len(chosen) / objects)
        request = EncodeRequest(name, pixels, *limits)
        embedding = yield from _embed(encode(model, [request], store, adapter), span)
        targets = targets_of(labels, chosen)
        measured += yield from _measure(Predictor(model), embedding, targets, config.clicks, span)
        done += len(chosen)
    yield _report(len(selected), small, measured)


@dataclass(frozen=True, eq=False)
class _Measured:
    """Figures of some objects: IoUs ``(objects,)``, ``(objects, clicks)``, and candidates."""

    boxes: Floats
    curves: Floats
    candidates: Candidates


@dataclass(frozen=True)
class _Span:
    """One image's part of the whole progress."""

    name: str
    start: float
    share: float

    def at(self, fraction: float) -> EvaluationProgress:
        return EvaluationProgress(self.name, self.start + self.share * fraction)


def _embed(
    events: Iterable[EncodeEvent], span: _Span
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
    clicks: int,
    span: _Span,
) -> Generator[EvaluationProgress, None, list[_Measured]]:
    """Measure all objects of one image, in batches."""
    measured: list[_Measured] = []
    pixels = embedding.frame.height * embedding.frame.width
    size = max(1, _MASK_BYTES // (CANDIDATES * pixels))
    for start in range(0, len(targets), size):
        batch = targets[start : start + size]
        boxes = box_ious(predictor, embedding, batch)
        candidates = first_candidates(predictor, embedding, batch)
        curves = np.zeros((len(batch), clicks))
        for click, ious in enumerate(click_ious(predictor, embedding, batch, clicks)):
            curves[:, click] = ious
            done = (start + len(batch) * (click + 1) / clicks) / len(targets)
            yield span.at(_EMBEDDING_SHARE + (1 - _EMBEDDING_SHARE) * done)
        measured.append(_Measured(boxes, curves, candidates))
    return measured


def _report(images: int, skipped_small: int, measured: Sequence[_Measured]) -> EvaluationReport:
    boxes = np.concatenate([part.boxes for part in measured])
    curves = np.concatenate([part.curves for part in measured])
    found = [(c.scores, c.areas, c.ious) for c in (part.candidates for part in measured)]
    candidates = Candidates(*map(np.concatenate, zip(*found, strict=True)))
    at_clicks = tuple(float(v) for v in curves.mean(axis=0))
    return EvaluationReport(
        images=images,
        objects=len(boxes),
        skipped_small=skipped_small,
        point_iou=at_clicks[0],
        box_iou=float(boxes.mean()),
        iou_at_clicks=at_clicks,
        noc80=float(clicks_to_reach(curves, 0.8).mean()),
        noc90=float(clicks_to_reach(curves, 0.9).mean()),
        score_correlation=candidates.score_correlation,
        score_ranking=candidates.score_ranking,
        area_ranking=candidates.area_ranking,
    )
