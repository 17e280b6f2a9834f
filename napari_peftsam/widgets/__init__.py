"""The docks of the napari plugin."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_peftsam.widgets.adapters import AdaptersDock
    from napari_peftsam.widgets.annotate import AnnotateDock
    from napari_peftsam.widgets.export import ExportDock
    from napari_peftsam.widgets.finetune import FinetuneDock
    from napari_peftsam.widgets.models import ModelsDock

__all__ = ["AdaptersDock", "AnnotateDock", "ExportDock", "FinetuneDock", "ModelsDock"]

_MODULES = {
    "AdaptersDock": "adapters",
    "AnnotateDock": "annotate",
    "ExportDock": "export",
    "FinetuneDock": "finetune",
    "ModelsDock": "models",
}


def __getattr__(name: str) -> Any:
    # Each dock is imported when it is opened: sample data need none of them.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
