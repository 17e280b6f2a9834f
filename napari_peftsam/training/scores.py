"""Judgements of a model's proposals by complete labels, for the scores of later proposals."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from napari_peftsam.peft import Adapter, Judged, apply_adapter, dense_head_of
from napari_peftsam.segmentation.automatic import (
    FEATURES,
    Proposal,
    best_ious,
    features_of,
    propose_in_frame,
)
from napari_peftsam.training.dataset import AnnotatedPlane
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.judging import plane_predictor

_AT_BORDER = FEATURES.index("at_border")


def judge_by_labels(
    encoder: PlaneEncoder,
    adapter: Adapter,
    at_most: int,
    seconds: float,
    seed: int,
    stop: Callable[[], bool],
) -> Judged | None:
    """Propose objects in planes, and return features and IoUs of the proposals.

    What is not labelled is background. Masks are better in planes that were trained on than in
    others, yet the order of proposals in others gains, see docs/automatic.md.

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
    rng, began, longest = np.random.default_rng(seed), perf_counter(), 0.0
    features, ious = features_of([]), np.zeros(0)
    with apply_adapter(encoder.model, adapter):
        for index in rng.permutation(sorted(encoder.planes)).tolist():
            started = perf_counter()
            if stop() or (longest and started - began + longest > seconds):
                break
            with plane_predictor(encoder, index) as (predictor, embedding):
                proposals, _ = propose_in_frame(predictor, embedding, head=head)
            source = encoder.planes[index].source
            proposals = [one for one in proposals if _is_known(one, source)]
            share = max(1, at_most // len(encoder.planes))
            chosen = [proposals[i] for i in rng.permutation(len(proposals))[:share].tolist()]
            features = np.concatenate([features, features_of(chosen)])
            ious = np.concatenate([ious, best_ious(chosen, source.labels)])
            longest = max(longest, perf_counter() - started)
    return features[:at_most], ious[:at_most]


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
