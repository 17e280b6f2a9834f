"""Labels of all objects of a plane, without prompts."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from napari_peftsam.configs import AutomaticConfig
from napari_peftsam.embeddings import EncodeFailed, PlaneReady
from napari_peftsam.segmentation.automatic import (
    NO_HEAD,
    PlaneMerge,
    ProposalScorer,
    TileProposals,
)
from napari_peftsam.segmentation.engine import Engine
from napari_peftsam.types import Plane, Window

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutomaticCounts:
    """Where proposals of a plane were lost, and how many objects were found.

    Attributes
    ----------
    seeded
        Places that the dense maps show.
    empty, cut, elsewhere
        Without a mask, cut by a tile's edge, and found by the tile beside.
    below, overlapped, too_small
        Of a low score, on a better one, and with too few pixels.
    left_out
        Beyond the most that is looked at in a tile.
    coarse
        Tiles in which a grid of clicks stood in for the head that the model lacks.
    """

    seeded: int = 0
    empty: int = 0
    cut: int = 0
    elsewhere: int = 0
    below: int = 0
    overlapped: int = 0
    too_small: int = 0
    left_out: int = 0
    coarse: int = 0
    objects: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the counts, ready for JSON."""
        return asdict(self)


def segment_all(
    engine: Engine,
    plane: Plane,
    name: str,
    labels: Any,
    config: AutomaticConfig,
    scorer: ProposalScorer | None = None,
) -> AutomaticCounts:
    """Segment all objects of a plane.

    Parameters
    ----------
    labels
        ``(H, W)`` signed integers; what is above zero stays as it is. An array of zarr is read
        and written in parts of a tile.
    scorer
        Default: that of the live adapter.

    Raises
    ------
    PeftSamError
        If the plane cannot be embedded.
    """
    scorer = scorer or ProposalScorer.of(engine.live.adapter)
    merging = PlaneMerge(labels, scorer, config.threshold, config.min_size)
    embedding = None
    for event in engine.embed(name, plane):
        if isinstance(event, EncodeFailed):
            raise event.error
        if isinstance(event, PlaneReady):
            embedding = event.embedding
    assert embedding is not None, "embedding ends with PlaneReady or EncodeFailed"
    counts = Counter[str]()

    def taken(window: Window) -> Any:
        return np.asarray(labels[window.slices]) > 0

    for found in engine.propose_steps(embedding, taken, config.fast):
        if isinstance(found, EncodeFailed):
            raise found.error
        if not isinstance(found, TileProposals):
            continue
        counts += merging.add(found).counts
    if counts["coarse"]:
        _log.warning("%s: %s", name, NO_HEAD)
    return AutomaticCounts(**counts, objects=merging.number - 1)
