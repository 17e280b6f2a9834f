"""The plugin's page in napari's preferences: folders, and what empty ones mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import napari
import pytest
from napari.settings import get_plugin_settings
from napari.utils.notifications import notification_manager

from napari_peftsam.embeddings import DEFAULT_STORE_BYTES
from napari_peftsam.folders import CONFIGURATION_VARIABLE, embedding_folder, model_folder
from napari_peftsam.widgets._settings import plugin_settings
from napari_peftsam.widgets.session import session_of
from tests.widgets._annotate_cases import wait


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


def test_the_space_for_embeddings_is_what_the_user_says(
    make_napari_viewer: Callable[..., napari.Viewer], monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_napari_viewer()
    assert round(plugin_settings().embedding_space * 1e9) == DEFAULT_STORE_BYTES
    storage = get_plugin_settings("napari-peftsam").storage
    monkeypatch.setattr(storage, "embedding_space", 1.5)
    store = session_of(viewer).require()._store
    assert store is not None
    assert store.budget == 1_500_000_000


def test_a_broken_list_of_own_models_does_not_hide_the_others(
    make_napari_viewer: Callable[..., napari.Viewer],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "models.toml").write_text("[[model]\n")
    monkeypatch.setenv(CONFIGURATION_VARIABLE, str(tmp_path))
    owner = session_of(make_napari_viewer())
    owner.open(tiny_checkpoint)
    wait(lambda: owner.has_model)
    assert "builtin" in [entry.name for entry in owner.models]
    assert any("models.toml" in record.message for record in notification_manager.records)
