"""The list of models: what is told of each, downloading, choosing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import xxhash
from napari.settings import get_plugin_settings
from napari.utils.notifications import notification_manager
from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QWidget

from napari_peftsam.models import ARCHITECTURES, REGISTRY, build_tiny
from napari_peftsam.pretraining.synthetic import generate
from napari_peftsam.widgets.annotate import AnnotateDock, ModelAction
from napari_peftsam.widgets.models import ModelsDock
from napari_peftsam.widgets.panels import panel_dock
from napari_peftsam.widgets.session import session_of
from tests.models._server import Server, serve
from tests.widgets._annotate_cases import settle, wait

if TYPE_CHECKING:
    import napari

OTHER = 5  # the seed of the model on the server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Return a server that has a tiny checkpoint."""
    torch.save(build_tiny(OTHER).sam.state_dict(), tmp_path / "other.pt")
    with serve((tmp_path / "other.pt").read_bytes()) as running:
        yield running


@pytest.fixture
def viewer(
    make_napari_viewer: Callable[..., napari.Viewer],
    own_models: Callable[[str], Path],
    server: Server,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> napari.Viewer:
    """Return a viewer whose user has one model of their own, on the server."""
    monkeypatch.setenv("NAPARI_PEFTSAM_MODELS", str(tmp_path / "models"))
    digest = xxhash.xxh128_hexdigest(server.does.content)
    own_models(
        f'[[model]]\nname = "ours"\nxxh128 = "{digest}"\nurl = "{server.url}"\nmegabytes = 1\n'
        'purpose = "Our nuclei."\nlicense = "CC0-1.0"\ncitation = "Us, 2026"\n'
    )
    viewer = make_napari_viewer()
    session_of(viewer).open(tiny_checkpoint)
    return viewer


@pytest.fixture
def dock(viewer: napari.Viewer) -> ModelsDock:
    """Return the dock, its list filled."""
    dock = ModelsDock(viewer)
    viewer.window.add_dock_widget(dock, name="Models")
    wait(lambda: dock.viewer_session.has_model and dock._rows)
    return dock


def _press(widget: QWidget, key: Qt.Key) -> None:
    widget.setFocus()
    QTest.keyClick(widget, key)
    settle()


def _said(text: str) -> bool:
    return any(text in record.message for record in notification_manager.records)


def _download(dock: ModelsDock) -> None:
    dock.row("ours").action.click()
    wait(lambda: "ours" not in dock.downloads.progress)


@pytest.mark.styled
def test_every_model_is_listed_with_what_one_must_know(dock: ModelsDock) -> None:
    assert list(dock._rows) == [*REGISTRY, "ours"]
    for name, row in dock._rows.items():
        entry = row.entry
        assert name in row.title.text()
        assert row.megabytes.text() == f"{entry.megabytes:,} MB"
        assert row.purpose.text() == entry.purpose
        assert entry.license in row.terms.text()
        assert row.terms.toolTip() == entry.citation
        assert not row.action.isHidden()
        assert row.action.text() == ("Use" if entry.available else "Download")
        assert row.progress.isHidden()
    assert dock.minimumSizeHint().width() <= 320


def test_a_citation_can_be_copied(dock: ModelsDock) -> None:
    dock.row("vit_b").terms.linkActivated.emit("cite")
    clipboard = QGuiApplication.clipboard()
    assert clipboard is not None
    assert clipboard.text() == REGISTRY["vit_b"].citation


def test_a_model_is_downloaded_and_used(dock: ModelsDock, viewer: napari.Viewer) -> None:
    annotate = AnnotateDock(viewer)
    viewer.window.add_dock_widget(annotate, name="Annotate")
    combo, row, owner = annotate.view.model, dock.row("ours"), dock.viewer_session
    assert combo.findText("ours") < 0
    _download(dock)
    assert row.action.text() == "Use"
    assert combo.findText("ours") >= 0
    assert _said("ours is on this computer now")
    row.action.click()
    wait(lambda: owner.source == "ours")
    settle()
    assert (row.state.text(), row.action.isHidden()) == ("● in use", True)
    assert combo.currentText() == "ours"
    assert owner.require().engine.model.weights_hash == build_tiny(OTHER).weights_hash


def test_a_download_is_stopped_and_goes_on(dock: ModelsDock, server: Server) -> None:
    row = dock.row("ours")
    server.does.stall = 150_000  # bytes, of 200,000
    row.action.click()
    wait(lambda: dock.downloads.progress.get("ours") is not None)
    assert row.progress.maximum() > 0
    assert "of" in row.state.text()
    assert row.action.isHidden()
    row.stop.click()
    assert row.progress.isHidden()
    assert (row.state.text(), row.action.isHidden()) == ("◌ stopping", True)
    dock.downloads.start(row.entry)  # too early: nothing happens
    assert "ours" not in dock.downloads.progress
    server.does.ending.set()
    wait(lambda: row.action.text() == "Resume" and not row.action.isHidden())
    assert not row.entry.available
    server.does.stall = None
    _download(dock)
    assert row.entry.available
    assert server.does.asked_from[-1] > 0


@pytest.mark.parametrize(
    ("misbehaviour", "reason"),
    [
        pytest.param({"status": 404}, "404", id="not there"),
        pytest.param({"cut": 150_000}, "again", id="cut short"),
    ],
)
def test_a_failed_download_says_why_and_can_be_tried_again(
    misbehaviour: dict[str, int], reason: str, dock: ModelsDock, server: Server
) -> None:
    for name, value in misbehaviour.items():
        setattr(server.does, name, value)
    _download(dock)
    row = dock.row("ours")
    assert reason in row.failure.text()
    assert not row.failure.isHidden()
    assert _said(dock.downloads.failures["ours"])
    server.does.status, server.does.cut = 200, None
    _download(dock)
    assert row.entry.available
    assert row.failure.isHidden()


def test_a_download_outlives_the_dock(
    dock: ModelsDock, viewer: napari.Viewer, server: Server
) -> None:
    server.does.stall = 150_000
    dock.row("ours").action.click()
    wait(lambda: dock.downloads.progress.get("ours") is not None)
    viewer.window.remove_dock_widget(dock)
    again = ModelsDock(viewer)
    viewer.window.add_dock_widget(again, name="Models again")
    wait(lambda: again._rows)
    assert not again.row("ours").progress.isHidden()
    again.row("ours").stop.click()
    server.does.ending.set()


def test_viewers_share_a_download(
    dock: ModelsDock,
    make_napari_viewer: Callable[..., napari.Viewer],
    server: Server,
    tiny_checkpoint: Path,
) -> None:
    viewer = make_napari_viewer()
    session_of(viewer).open(tiny_checkpoint)
    other = ModelsDock(viewer)
    viewer.window.add_dock_widget(other, name="Models")
    wait(lambda: other._rows)
    server.does.status = 404
    _download(dock)
    assert not other.row("ours").failure.isHidden()
    server.does.status = 200
    _download(dock)
    assert (other.row("ours").action.text(), other.row("ours").failure.isHidden()) == ("Use", True)


def test_closing_the_viewer_does_not_wait_for_a_server(dock: ModelsDock, server: Server) -> None:
    server.does.stall = 150_000
    dock.row("ours").action.click()
    wait(lambda: dock.downloads.progress.get("ours") is not None)
    owner = dock.viewer_session
    owner.close()
    assert not owner.workers
    assert "ours" in dock.downloads.progress
    server.does.ending.set()


def test_the_preferred_folder_is_used_as_soon_as_it_is_chosen(
    dock: ModelsDock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = get_plugin_settings("napari-peftsam").storage
    monkeypatch.setattr(storage, "model_folder", str(tmp_path / "elsewhere"))
    _download(dock)
    path = dock.row("ours").entry.path
    assert path is not None
    assert path.parent == tmp_path / "elsewhere"


def _show(dock: ModelsDock, modality: str, rgb: bool = False, stack: bool = False) -> None:
    """Add an image and annotate it; of a stack, the second plane is shown."""
    image = generate(modality, (96, 96), rng=np.random.default_rng(0), mean_diameter=20).image
    viewer, layers = dock.viewer_session.viewer, dock.viewer_session.layers
    data = np.stack([np.zeros_like(image), image]) if stack else image
    layer = viewer.add_image(data, rgb=rgb)
    if stack:
        viewer.dims.set_point(0, 1)
    layers.select_image(layer)


@pytest.mark.parametrize(
    ("modality", "options", "kind"),
    [
        pytest.param("fluorescence", {}, "light", id="fluorescence"),
        pytest.param("fluorescence", {"stack": True}, "light", id="shown plane of a stack"),
        pytest.param("histology", {"rgb": True}, "colour", id="histology"),
        pytest.param("electron", {}, "electron", id="cannot be told: as it was"),
    ],
)
def test_the_recommendation_follows_the_image(
    modality: str, options: dict[str, bool], kind: str, dock: ModelsDock
) -> None:
    dock.kind.setCurrentIndex(dock.kind.findData("electron"))
    _show(dock, modality, **options)
    assert dock.kind.currentData() == kind
    assert dock.row("builtin").title.text() == "<b>★ builtin</b>"
    assert "without a GPU" in dock.advice.text()


def test_the_kind_that_one_chose_stays(dock: ModelsDock) -> None:
    electron = dock.kind.findData("electron")
    dock.kind.setCurrentIndex(electron)
    dock.kind.activated.emit(electron)
    _show(dock, "fluorescence")
    assert dock.kind.currentData() == "electron"


@pytest.fixture
def framed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tiny model have the frames of Segment Anything."""
    tiny = replace(ARCHITECTURES["tiny"], image_size=1024, patch_size=64, frames=(1024, 768, 512))
    monkeypatch.setitem(ARCHITECTURES, "tiny", tiny)


@pytest.mark.usefixtures("framed")
class TestFrames:
    """The frame of SAM models: recommended, chosen, and followed."""

    @pytest.fixture
    def tiny_checkpoint(self, tmp_path: Path) -> Path:
        """Return a tiny checkpoint that was published with a frame of 1024."""
        torch.save(build_tiny().sam.state_dict(), tmp_path / "tiny.pt")
        return tmp_path / "tiny.pt"

    def test_the_smallest_is_recommended_for_small_images_on_a_cpu(self, dock: ModelsDock) -> None:
        assert not dock.frame_advice.isVisibleTo(dock)
        _show(dock, "fluorescence")
        assert dock.frame_advice.isVisibleTo(dock)
        assert "<b>frame 512</b> for Segment Anything: images up to 512" in dock.frame_advice.text()
        assert "five times" in dock.frame.toolTip()
        texts = [dock.frame.itemText(i) for i in range(dock.frame.count())]
        assert texts == ["1024 pixels", "768 pixels", "★ 512 pixels"]
        assert dock.frame.currentData() == 1024  # nothing is chosen for anybody
        dock.viewer_session.layers.select_image(
            dock.viewer_session.viewer.add_image(np.eye(600, dtype=np.float32))
        )
        assert not dock.frame_advice.isVisibleTo(dock)
        assert dock.frame.itemText(2) == "512 pixels"

    def test_the_model_in_use_takes_the_chosen_one(
        self, dock: ModelsDock, tiny_checkpoint: Path
    ) -> None:
        owner = dock.viewer_session
        _press(dock.frame, Qt.Key.Key_End)  # the last one
        wait(lambda: owner.source == f"{tiny_checkpoint}@512")
        assert owner.require().engine.model.image_size == 512
        assert owner.document.live.model == f"{tiny_checkpoint}@512"
        _press(dock.frame, Qt.Key.Key_Home)
        wait(lambda: owner.source == str(tiny_checkpoint))
        assert owner.require().engine.model.image_size == 1024

    def test_models_of_the_list_are_used_with_it(self, dock: ModelsDock) -> None:
        owner, row = dock.viewer_session, dock.row("ours")
        _download(dock)
        _press(dock.frame, Qt.Key.Key_End)
        row.action.click()
        wait(lambda: owner.source == "ours@512")
        settle()
        assert row.state.text() == "● in use"
        dock.row("builtin").action.click()  # it has its own
        wait(lambda: owner.source == "builtin")
        settle()
        assert dock.row("builtin").state.text() == "● in use"
        assert dock.frame.currentData() == 512

    def test_the_choice_follows_the_model_in_use(
        self, dock: ModelsDock, tiny_checkpoint: Path
    ) -> None:
        dock.viewer_session.load_model(f"{tiny_checkpoint}@768")
        wait(lambda: dock.frame.currentData() == 768)


def test_the_annotate_dock_leads_to_the_list(viewer: napari.Viewer) -> None:
    annotate = AnnotateDock(viewer)
    viewer.window.add_dock_widget(annotate, name="Annotate")
    wait(lambda: annotate.viewer_session.has_model)
    combo = annotate.view.model
    wait(combo.currentText)
    chosen = combo.currentText()
    for _ in range(2):  # the second time it is there already
        combo.activated.emit(combo.findData(ModelAction.MORE))
        settle()
        assert isinstance(panel_dock(annotate, "Models"), ModelsDock)
        assert panel_dock(annotate, "Models").isVisibleTo(annotate.window())
        assert combo.currentText() == chosen
