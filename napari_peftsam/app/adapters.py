"""The adapters of a workspace: base, v1, v2, … and which of them is live."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from napari_peftsam.embeddings import BASE_ADAPTER
from napari_peftsam.errors import ConfigurationError
from napari_peftsam.peft import Adapter

__all__ = ["AdapterEntry", "AdapterTimeline"]


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
        Whether it was loaded; its IoU is that of the objects held out when it was trained.
    """

    name: str
    adapter: Adapter | None = None
    iou: float | None = None
    from_file: bool = False

    @property
    def digest(self) -> str:
        """The adapter's content hash, or ``"base"``: one content is listed once."""
        return BASE_ADAPTER if self.adapter is None else self.adapter.digest

    @property
    def method(self) -> str:
        """The method's name, empty for the base model."""
        return "" if self.adapter is None else self.adapter.config.method

    @property
    def scalable(self) -> bool:
        """Whether there is anything to weaken, and that can be done."""
        return self.adapter is not None and self.adapter.scalable

    @property
    def mergeable(self) -> bool:
        """Whether it can be written as a plain checkpoint."""
        return self.adapter is None or self.adapter.mergeable


class AdapterTimeline:
    """The entries in the order they came; one of them is live."""

    def __init__(self) -> None:
        self._entries = {BASE_ADAPTER: AdapterEntry(BASE_ADAPTER)}
        self._live = BASE_ADAPTER
        self._strength = 1.0
        self._versions = 0

    @property
    def entries(self) -> tuple[AdapterEntry, ...]:
        """All entries, the base model first."""
        return tuple(self._entries.values())

    @property
    def live(self) -> AdapterEntry:
        """The entry that answers prompts now."""
        return self._entries[self._live]

    def __getitem__(self, name: str) -> AdapterEntry:
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise ConfigurationError(f"there is no adapter {name!r}: choose one of {known}")
        return self._entries[name]

    def add_version(self, adapter: Adapter, iou: float | None = None) -> AdapterEntry:
        """Append a newly trained adapter as the next version."""
        self._versions += 1
        return self._add(f"v{self._versions}", adapter, iou)

    def restore(
        self, name: str, adapter: Adapter, iou: float | None = None, from_file: bool = False
    ) -> AdapterEntry:
        """Append an adapter that a project holds, under the name it has there."""
        self.reserve(name)
        return self._add(name, adapter, iou, from_file)

    def reserve(self, name: str) -> None:
        """Give no new version the name of one that a project holds."""
        version = re.fullmatch(r"v(\d+)", name)
        if version is not None:
            self._versions = max(self._versions, int(version[1]))

    def add_file(self, path: Path, adapter: Adapter) -> AdapterEntry:
        """Append an adapter that was loaded from a file, under the file's name."""
        iou = adapter.metrics.get("val_iou")
        return self._add(path.stem, adapter, float(iou) if iou is not None else None, True)

    @property
    def strength(self) -> float:
        """Factor on the changes of the live adapter, from 0 to 1."""
        return self._strength

    def set_live(self, name: str, strength: float = 1.0) -> AdapterEntry:
        """Note that this entry answers prompts now, at this strength."""
        entry = self[name]
        self._live, self._strength = name, strength
        return entry

    def _add(
        self, name: str, adapter: Adapter, iou: float | None, from_file: bool = False
    ) -> AdapterEntry:
        for existing in self._entries.values():
            if existing.digest == adapter.digest:
                return existing
        unique, count = name, 2
        while unique in self._entries:
            unique, count = f"{name}-{count}", count + 1
        self._entries[unique] = AdapterEntry(unique, adapter, iou, from_file)
        return self._entries[unique]
