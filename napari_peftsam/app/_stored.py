"""Adapters, the live one, and training runs as the document keeps them.

A document that another process writes to is left as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from napari_peftsam.app.adapters import AdapterEntry, AdapterTimeline
from napari_peftsam.document import AddRun, Document, Run, StoredAdapter, UseAdapter
from napari_peftsam.errors import PeftSamError
from napari_peftsam.peft import adapter_bytes, adapter_from_bytes
from napari_peftsam.training import TrainingReport

__all__ = ["save_live", "store_adapter", "store_run", "stored_adapters"]

_log = logging.getLogger(__name__)


def stored_adapters(document: Document, weights: str, source: str) -> AdapterTimeline:
    """Return the adapters that a document holds for a model, with its live one live.

    An adapter that cannot be read is left out, so that the model can still be used.

    Parameters
    ----------
    document
        What holds them.
    weights
        Hash of the model's weights.
    source
        Registry name or path of the model.
    """
    timeline = AdapterTimeline()
    for stored in document.adapters:
        if stored.weights == weights:
            try:
                adapter = adapter_from_bytes(document.store.blob(stored.digest), stored.name)
            except PeftSamError as error:
                timeline.reserve(stored.name)
                _log.warning("the adapter %s is left out: %s", stored.name, error)
                continue
            timeline.restore(stored.name, adapter, stored.iou, stored.from_file)
    live = document.live
    if live.model == source and any(entry.name == live.name for entry in timeline.entries):
        timeline.set_live(live.name, live.strength)
    return timeline


def save_live(document: Document, adapters: AdapterTimeline, source: str) -> None:
    """Keep which model and adapter are in use."""
    if not document.store.read_only:
        name = "" if adapters.live.adapter is None else adapters.live.name
        document.do(UseAdapter(name, adapters.strength, source))


def store_adapter(document: Document, weights: str, entry: AdapterEntry) -> None:
    """Keep an adapter for a model's weights, unless it is there."""
    adapter = entry.adapter
    if adapter is None or document.store.read_only:
        return
    stored = StoredAdapter(entry.name, "", weights, entry.iou, entry.from_file)
    document.add_adapter(adapter_bytes(adapter), stored)


def store_run(
    document: Document,
    training: TrainingReport,
    entry: AdapterEntry | None,
    curve: Sequence[tuple[int, float, float]],
) -> None:
    """Keep the report of a training run.

    Parameters
    ----------
    document
        Where it is kept.
    training
        The report of the training.
    entry
        The new version it gave; None if the earlier adapter stays.
    curve
        Step, loss and held-out IoU along the run.
    """
    if document.store.read_only:
        return
    report = {
        "steps": training.steps,
        "seconds": training.seconds,
        "trainable_parameters": training.trainable_parameters,
        "iou_before": training.iou_before,
        "iou_after": training.iou_after,
        "best_step": training.best_step,
        "curve": [list(point) for point in curve],
    }
    config = training.adapter.config.model_dump(mode="json")
    document.do(AddRun(Run("" if entry is None else entry.name, config, report)))
