"""The plugin's page in napari's preferences, read with defaults."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import platformdirs
from napari.settings import get_plugin_settings

__all__ = ["PluginSettings", "plugin_settings"]

_PLUGIN = "napari-peftsam"


@dataclass(frozen=True)
class PluginSettings:
    """What the user chose.

    Attributes
    ----------
    embedding_folder
        Where embeddings are kept between starts.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    """

    embedding_folder: Path
    device: str = "auto"


def plugin_settings() -> PluginSettings:
    """Return the present settings; the defaults where napari does not know the plugin."""
    default = Path(platformdirs.user_cache_dir(_PLUGIN)) / "embeddings"
    try:
        settings = get_plugin_settings(_PLUGIN)
    except KeyError:  # e.g. the plugin is disabled and its dock was made from a script
        return PluginSettings(default)
    folder = settings.storage.embedding_folder
    return PluginSettings(
        Path(folder).expanduser() if folder else default, settings.computing.device
    )
