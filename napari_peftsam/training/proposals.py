"""Proposals of an adapter: whether its head finds less than the present one, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import copysign
from time import perf_counter

import numpy as np

from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.embeddings import Embedding
from napari_peftsam.evaluation import Target
from napari_peftsam.models import DenseHead, UnetrDecoder
from napari_peftsam.peft import Adapter, Judged, apply_adapter, dense_head_of
from napari_peftsam.segmentation import Predictor
from napari_peftsam.segmentation.automatic import (
    FEATURES,
    Proposal,
    ProposalScorer,
    best_ious,
    features_of,
    merge,
    propose_in_frame,
)
from napari_peftsam.training.dataset import AnnotatedPlane
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.judging import (
    ONE_ERROR,
    HeldOut,
    HeldOutObject,
    is_loss,
    plane_predictor,
)
from napari_peftsam.types import LabelArray

_AT_BORDER = FEATURES.index("at_border")
_MATCHED = 0.5  # IoU from which a proposal is an object
_INVENTED = 0.5  # objects that one costs which is none
_SURELY = 0.95


def finds_less(
    encoder: PlaneEncoder,
    adapter: Adapter,
    present: DenseHead | UnetrDecoder,
    held_out: HeldOut,
    *,
    is_complete: bool,
    seconds: float,
) -> bool:
    """Return whether an adapter's head finds less than the present one, by more than noise.

    Both see the embeddings of the adapter, as the encoder changes in any case. An object counts
    with the IoU of the best that is found, and what is invented costs half an object, as in
    panoptic quality (Kirillov et al. 2019), where labels tell it. A single object says nothing, so
    planes with many are looked at first.

    Noise is one standard error, see `is_loss`. Complete labels teach a head more than one or two
    held-out images can say of it, so there it has to be worse at a level of 95 %: by the standard
    error, two of three heads were left out that were better in new images (docs/automatic.md).

    Parameters
    ----------
    encoder
        Of the base, which carries no adapter now, and of the planes.
    adapter
        Brings a head.
    held_out
        Objects that it did not learn from.
    is_complete
        Whether what is not labelled is background.
    seconds
        To take at most, as in `judge_by_labels`.
    """
    heads = dense_head_of(encoder.model, adapter), present
    gains, images, judged = list[float](), list[str](), 0
    order = sorted(held_out, key=lambda index: (-len(held_out[index]), index))
    with apply_adapter(encoder.model, adapter):
        for index in _in_time(order, seconds):
            source, objects = encoder.planes[index].source, held_out[index]
            with plane_predictor(encoder, index) as seen:
                (new, wrong), (old, before) = (_found(*seen, h, source, objects) for h in heads)
            here = [n - o for n, o in zip(new, old, strict=True)]
            if is_complete:  # what both invent says nothing
                here += [copysign(_INVENTED, before - wrong)] * abs(before - wrong)
            gains += here
            images += [source.image] * len(here)
            judged += len(objects)
    return judged > 1 and is_loss(images, gains, _SURELY if is_complete else ONE_ERROR)


def _found(
    predictor: Predictor,
    embedding: Embedding,
    head: DenseHead | UnetrDecoder | None,
    source: AnnotatedPlane,
    objects: Iterable[HeldOutObject],
) -> tuple[list[float], int]:
    """Return the IoU of each object with the best that a head finds, and how many it invents."""
    labels = np.zeros(source.labels.shape, np.int32)
    proposals, _ = propose_in_frame(predictor, embedding, head=head)
    scores = ProposalScorer().scores(features_of(proposals)).iou
    merged = merge(proposals, scores, labels, threshold=AutomaticConfig().threshold)
    kept = [proposals[i] for i in merged.kept if _is_known(proposals[i], source)]
    invented = int(np.count_nonzero(best_ious(kept, source.labels) < _MATCHED))
    return [_best(each.target, labels) for each in objects], invented


def _best(target: Target, labels: LabelArray) -> float:
    under = labels[target.window.slices][target.mask]
    ious = [target.iou(labels == number) for number in set(under[under > 0].tolist())]
    return max(ious, default=0.0)


def judge_by_labels(
    encoder: PlaneEncoder,
    adapter: Adapter,
    at_most: int,
    seconds: float,
    seed: int,
    stop: Callable[[], bool],
) -> Judged | None:
    """Propose objects in planes, and return features and IoUs of the proposals.

    What is not labelled is background.

    Parameters
    ----------
    encoder
        Of the base, which carries no adapter now, and of the planes. They are taken in random
        order, and an equal share of the proposals from each.
    adapter
        Whose proposals are judged; None is returned if there is no head to propose with.
    at_most
        Proposals to judge.
    seconds
        To take at most; one plane is judged in any case.
    stop
        Asked before each plane; True ends it.
    """
    head = dense_head_of(encoder.model, adapter)
    if head is None or at_most < 1:
        return None
    rng = np.random.default_rng(seed)
    features, ious = features_of([]), np.zeros(0)
    with apply_adapter(encoder.model, adapter):
        for index in _in_time(rng.permutation(sorted(encoder.planes)).tolist(), seconds):
            if stop():
                break
            with plane_predictor(encoder, index) as (predictor, embedding):
                proposals, _ = propose_in_frame(predictor, embedding, head=head)
            source = encoder.planes[index].source
            proposals = [one for one in proposals if _is_known(one, source)]
            share = max(1, at_most // len(encoder.planes))
            chosen = [proposals[i] for i in rng.permutation(len(proposals))[:share].tolist()]
            features = np.concatenate([features, features_of(chosen)])
            ious = np.concatenate([ious, best_ious(chosen, source.labels)])
    return features[:at_most], ious[:at_most]


def _in_time(planes: Iterable[int], seconds: float) -> Iterator[int]:
    """Yield the first of the planes, and others while there is time for one that takes longest."""
    began, longest = perf_counter(), 0.0
    for index in planes:
        started = perf_counter()
        if longest and started - began + longest > seconds:
            return
        yield index
        longest = max(longest, perf_counter() - started)


def _is_known(one: Proposal, source: AnnotatedPlane) -> bool:
    """Return whether the labels of a plane say what a proposal is.

    Not of one without a pixel; nor, where another plane has a part of the objects (a tile, or the
    plane of another class), of one at the edge or mostly on such an object.
    """
    mask, window = one.drawn
    if not mask.size or source.others is None:
        return bool(mask.size)
    elsewhere = source.others[window.slices][mask].mean() > 0.5
    return not (elsewhere or one.features[_AT_BORDER])
