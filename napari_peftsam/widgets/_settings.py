"""The plugin's page in napari's preferences, read with defaults."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from napari.settings import get_plugin_settings

from napari_peftsam.folders import embedding_folder, expanded, model_folder, use_model_folder

_PLUGIN = "napari-peftsam"


@dataclass(frozen=True)
class PluginSettings:
    """Preferences of the plugin.

    Attributes
    ----------
    embedding_folder
        Where embeddings are kept between starts.
    model_folder
        Where downloaded models are kept.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    precision
        ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
    embedding_space
        Disk space of embeddings, in GB.
    keys
        Keys that the user has changed, as in ``"accept=A box=Shift+B"``; None where there are no
        preferences to keep them in.
    """

    embedding_folder: Path
    model_folder: Path
    device: str = "auto"
    precision: str = "auto"
    embedding_space: float = 4.0
    keys: str | None = None


def plugin_settings() -> PluginSettings:
    """Return the present settings; the defaults where napari does not know the plugin."""
    try:
        settings = get_plugin_settings(_PLUGIN)
    except KeyError:  # e.g. the plugin is disabled and its dock was made from a script
        return PluginSettings(embedding_folder(), model_folder())
    storage = settings.storage
    return PluginSettings(
        expanded(storage.embedding_folder) if storage.embedding_folder else embedding_folder(),
        expanded(storage.model_folder) if storage.model_folder else model_folder(),
        settings.computing.device,
        settings.computing.precision,
        float(storage.embedding_space),
        settings.keyboard.changed,
    )


def keep_keys(changed: str) -> None:
    """Keep the keys that the user has changed, where napari knows the plugin."""
    with suppress(KeyError):
        get_plugin_settings(_PLUGIN).keyboard.changed = changed


def use_preferred_model_folder() -> None:
    """Keep models where the preferences say, from now on."""
    chosen = plugin_settings().model_folder
    if chosen != model_folder():
        use_model_folder(chosen)
