"""The plugin's page in napari's preferences: folders, and what empty ones mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import pytest
from napari.settings import get_plugin_settings

from napari_peftsam.folders import embedding_folder, model_folder
from napari_peftsam.widgets._settings import plugin_settings


@pytest.mark.parametrize(
    ("preference", "default"),
    [("model_folder", model_folder), ("embedding_folder", embedding_folder)],
)
def test_a_folder_of_the_preferences_or_the_default(
    preference: str,
    default: Callable[[], Path],
    make_napari_viewer: Callable[..., napari.Viewer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_napari_viewer()  # napari knows plugins once it runs
    assert getattr(plugin_settings(), preference) == default()
    storage = get_plugin_settings("napari-peftsam").storage
    monkeypatch.setattr(storage, preference, "~/chosen")
    assert getattr(plugin_settings(), preference) == Path("~/chosen").expanduser()
