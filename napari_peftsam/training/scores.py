"""What complete labels say of a model's proposals: the scores of later ones learn from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from napari_peftsam.peft import MOST_JUDGED, Adapter, Judged, apply_adapter, dense_head_of
from napari_peftsam.segmentation.automatic import (
    Proposal,
    best_ious,
    features_of,
    propose_in_frame,
)
from napari_peftsam.training.encoder import PlaneEncoder
from napari_peftsam.training.judging import asked
from napari_peftsam.types import BoolArray


def judge_by_labels(
    encoder: PlaneEncoder, adapter: Adapter, seed: int, is_over: Callable[[], bool]
) -> Judged:
    """Propose objects in planes in random order, and return features and IoUs of the proposals.

    What is not labelled is background. These planes were trained on and have better masks than
    others, yet the proposals of others are ordered better afterwards, see docs/automatic.md.

    Parameters
    ----------
    encoder
        Of the base, which carries no adapter now, and of the planes.
    is_over
        Asked after each plane; True ends it.
    """
    head = dense_head_of(encoder.model, adapter)
    found, known = features_of([]), np.zeros(0)
    with apply_adapter(encoder.model, adapter):
        for index in np.random.default_rng(seed).permutation(sorted(encoder.planes)).tolist():
            with asked(encoder, index) as (predictor, embedding):
                proposals, _ = propose_in_frame(predictor, embedding, head=head)
            source = encoder.planes[index].source
            proposals = [one for one in proposals if not _is_elsewhere(one, source.others)]
            found = np.concatenate([found, features_of(proposals)])
            known = np.concatenate([known, best_ious(proposals, source.labels)])
            if len(known) >= MOST_JUDGED or is_over():
                break
    return found, known


def _is_elsewhere(one: Proposal, others: BoolArray | None) -> bool:
    """Return whether a proposal is mostly an object that another tile has."""
    if others is None:
        return False
    mask, window = one.drawn
    return bool(others[window.slices][mask].mean() > 0.5)
