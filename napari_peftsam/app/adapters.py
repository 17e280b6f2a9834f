"""The adapters of a model: base, v1, v2, …, in memory and as a document keeps them.

A document that another process writes to is left as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_peftsam.document import AddRun, Document, Run, StoredAdapter, UseAdapter
from napari_peftsam.embeddings import BASE_ADAPTER
from napari_peftsam.errors import ConfigurationError, PeftSamError
from napari_peftsam.peft import Adapter, adapter_bytes, adapter_from_bytes, save_adapter
from napari_peftsam.segmentation.engine import LiveAdapter
from napari_peftsam.training import TrainingReport

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class AdapterEntry:
    """One row of the list of adapters.

    Attributes
    ----------
    name
        ``base``, ``v1``, ``v2``, … or the stem of the file it was loaded from.
    adapter
        None for the base model.
    iou
        Held-out IoU, where it was measured.
    from_file
        True if it was loaded; its IoU is then that of the objects held out when it was trained.
    """

    name: str
    adapter: Adapter | None = None
    iou: float | None = None
    from_file: bool = False

    @property
    def method(self) -> str:
        """The method's name, empty for the base model."""
        return "" if self.adapter is None else self.adapter.config.method

    def save(self, path: Path) -> None:
        """Write the adapter to one self-describing file."""
        if self.adapter is None:
            raise ConfigurationError("the base model has no adapter to save: finetune it first")
        save_adapter(self.adapter, path)


class AdapterList:
    """The adapters of one model in the order they came, the base model first."""

    def __init__(self) -> None:
        self._entries = {BASE_ADAPTER: AdapterEntry(BASE_ADAPTER)}
        self._versions = 0

    def copy(self) -> AdapterList:
        """Return a list that can be added to without changing this one."""
        copied = AdapterList()
        copied._entries, copied._versions = dict(self._entries), self._versions
        return copied

    @property
    def entries(self) -> tuple[AdapterEntry, ...]:
        """All entries, the base model first."""
        return tuple(self._entries.values())

    def __getitem__(self, name: str) -> AdapterEntry:
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise ConfigurationError(f"there is no adapter {name!r}: choose one of {known}")
        return self._entries[name]

    def add_version(self, adapter: Adapter, iou: float | None = None) -> AdapterEntry:
        """Append a newly trained adapter as the next version."""
        self._versions += 1
        return self.add(f"v{self._versions}", adapter, iou)

    def reserve(self, name: str) -> None:
        """Give no new version the name of one that a project holds."""
        version = re.fullmatch(r"v(\d+)", name)
        if version is not None:
            self._versions = max(self._versions, int(version[1]))

    def add(
        self, name: str, adapter: Adapter, iou: float | None = None, from_file: bool = False
    ) -> AdapterEntry:
        """Append an adapter under this name, or a similar one; one content is listed once."""
        for existing in self._entries.values():
            if existing.adapter is not None and existing.adapter.digest == adapter.digest:
                return existing
        unique, count = name, 2
        while unique in self._entries:
            unique, count = f"{name}-{count}", count + 1
        self._entries[unique] = AdapterEntry(unique, adapter, iou, from_file)
        return self._entries[unique]


def stored_adapters(
    document: Document, weights: str, source: str
) -> tuple[AdapterList, LiveAdapter]:
    """Return the adapters that a document holds for a model, and its live one.

    An adapter that cannot be read is left out, so that the model can still be used.

    The model is given by the hash of its weights, and its registry name or path.
    """
    adapters = AdapterList()
    for stored in document.adapters:
        if stored.weights == weights:
            adapters.reserve(stored.name)
            try:
                adapter = adapter_from_bytes(document.store.blob(stored.digest), stored.name)
            except PeftSamError as error:
                _log.warning("the adapter %s is left out: %s", stored.name, error)
                continue
            adapters.add(stored.name, adapter, stored.iou, stored.from_file)
    live = document.live
    for entry in adapters.entries:
        if live.model == source and entry.name == live.name:
            return adapters, LiveAdapter(entry.name, entry.adapter, live.strength)
    return adapters, LiveAdapter()


def save_live(document: Document, live: LiveAdapter, source: str) -> None:
    """Keep which model and adapter are in use."""
    if not document.store.read_only:
        name = "" if live.adapter is None else live.name
        document.do(UseAdapter(name, live.strength, source))


def store_adapter(document: Document, weights: str, entry: AdapterEntry) -> None:
    """Keep an adapter for a model's weights, unless it is there."""
    if entry.adapter is not None and not document.store.read_only:
        stored = StoredAdapter(entry.name, "", weights, entry.iou, entry.from_file)
        document.add_adapter(adapter_bytes(entry.adapter), stored)


def store_run(
    document: Document,
    training: TrainingReport,
    version: str,
    curve: Sequence[tuple[int, float, float]],
) -> None:
    """Keep the report of a training run.

    `version` is the name of the new version, empty if the earlier adapter stays; the `curve` has
    step, loss and held-out IoU.
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
        "verdict": training.verdict.to_dict(),
        "curve": [list(point) for point in curve],
    }
    config = training.adapter.config.model_dump(mode="json")
    document.do(AddRun(Run(version, config, report)))
