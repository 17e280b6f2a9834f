"""The demo: the whole loop without a user, on the shipped sample, with a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from napari_peftsam.app.choice import ModelChoice
from napari_peftsam.app.demo import (
    DemoConfig,
    DemoEvent,
    DemoReport,
    DemoStage,
    annotate_object,
    choose_labels,
    demo,
)
from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import ImportLabels, PlaneKey
from napari_peftsam.embeddings import grid
from napari_peftsam.errors import ExportError
from napari_peftsam.evaluation import EvaluationReport
from napari_peftsam.models import build, build_tiny
from napari_peftsam.peft import apply_adapter, load_adapter
from napari_peftsam.samples import shipped_samples
from napari_peftsam.training import TrainingConfig, TrainingStep
from tests.training._world import finish

Finished = tuple[Path, list[DemoEvent], DemoReport]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelChoice:
    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    torch.save(build_tiny().sam.state_dict(), path)
    return ModelChoice(path, None, "cpu")


@pytest.fixture(scope="module")
def finished(tiny: ModelChoice, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Run the demo once; return its folder, events and report."""
    output = tmp_path_factory.mktemp("demo") / "out"
    config = DemoConfig(output, tiny, seconds=1, objects_per_image=2, held_out_objects=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MOST_FRAMES", 100)  # of 64 pixels: each image fits one
        return (output, *finish(demo(config)))


def test_it_says_first_that_the_annotator_is_simulated(
    finished: Finished,
) -> None:
    _, events, report = finished
    assert isinstance(events[0], DemoStage)
    assert "simulated" in events[0].text
    assert report.to_dict()["simulated_annotator"] is True


def test_it_trains_from_the_session_and_reloads_what_is_better(
    finished: Finished, tiny: ModelChoice
) -> None:
    output, events, report = finished
    steps = [e.step for e in events if isinstance(e, TrainingStep)]
    assert report.annotated_objects == 10
    assert 1 <= report.clicks_per_object <= 4
    assert report.reloaded == ("the old one stays" not in report.verdict)
    assert report.training_steps == steps[-1] >= 1
    adapter = load_adapter(output / "adapter.safetensors")
    assert adapter.config.method == "cobot-lora"
    apply_adapter(build(tiny.model), adapter).remove()


def test_it_measures_images_it_has_not_seen(
    finished: Finished,
) -> None:
    report = finished[2]
    for figures in (report.before, report.after):
        assert isinstance(figures, EvaluationReport)
        assert figures.objects == 6
        assert len(figures.iou_at_clicks) == 10
    assert report.before.box_iou != report.after.box_iou, "whatever the verdict"


def test_everything_it_lists_is_written(finished: Finished) -> None:
    output, _, report = finished
    assert all((output / name).exists() for name in report.files)
    for sample in shipped_samples("train"):
        folder = output / "labels"
        assert len(np.unique(tifffile.imread(folder / f"{sample.name}.tif"))) == 3
        assert len(json.loads((folder / f"{sample.name}.json").read_text())["annotations"]) == 2
        assert (folder / f"{sample.name}.ome.zarr").is_dir()
    summary = json.loads((output / "summary.json").read_text())
    assert summary == json.loads(json.dumps(report.to_dict()))


def test_the_report_stands_alone_and_says_what_was_simulated(
    finished: Finished,
) -> None:
    page = (finished[0] / "report.html").read_text()
    assert "The annotator is simulated" in page
    # Only attributes count: the picture's base64 may spell any word by chance.
    links = re.findall(r'\b(src|href)="(\w+)', page)
    assert links == [("src", "data")]


def test_the_figure_shows_every_held_out_image(
    finished: Finished,
) -> None:
    from PIL import Image

    with Image.open(finished[0] / "figure.png") as figure:
        width, height = figure.size
    assert width > 1000
    assert height > 250 * len(shipped_samples("held_out"))


def test_it_can_be_stopped_at_any_event(tiny: ModelChoice, tmp_path: Path) -> None:
    output = tmp_path / "out"
    events = demo(DemoConfig(output, tiny, seconds=60, objects_per_image=2))
    next(events)
    events.close()
    assert [p for p in output.rglob("*") if p.is_file()] == []


def test_a_folder_that_cannot_be_made(tiny: ModelChoice, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ExportError, match="cannot make the folder"):
        next(demo(DemoConfig(tmp_path / "out", tiny)))


# --- the annotator -------------------------------------------------------------------


@pytest.fixture
def workspace(tiny: ModelChoice) -> Workspace:
    """Return a workspace that shows one sample image."""
    workspace = tiny.open()
    workspace.document.add_image("a", shipped_samples("train")[0].read()[0])
    return workspace


def test_the_annotator_leaves_the_truth_with_its_prompts_on_record(workspace: Workspace) -> None:
    truth = shipped_samples("train")[0].read()[1]
    plane = PlaneKey("a")
    for label in choose_labels(truth, 3, seed=0):
        made = annotate_object(workspace, plane, truth == label)
        assert made is not None
        mask = workspace.document.labels(plane) == made.label
        np.testing.assert_array_equal(mask, truth == label)
        record = workspace.document.records("a")[-1]
        assert len(record.prompts.points) == made.clicks <= 4
        assert record.corrected == (made.brushed > 0)
        assert record.model == "tiny"
    # The plane is in tiles for this model: prompts outside of their object's tile stay behind.
    assert any(
        plane.prompts for plane in workspace.prepare_training(TrainingConfig(steps=1))().planes
    )


def test_the_annotator_gives_up_where_nothing_is_left(workspace: Workspace) -> None:
    truth = shipped_samples("train")[0].read()[1]
    workspace.document.do(ImportLabels("a", np.ones_like(truth, np.int32)))
    assert annotate_object(workspace, PlaneKey("a"), truth == 1) is None
    assert workspace.document.current is None


def test_objects_are_chosen_by_seed() -> None:
    truth = shipped_samples("train")[0].read()[1]
    first = choose_labels(truth, 5, seed=0)
    assert first == choose_labels(truth, 5, seed=0) != choose_labels(truth, 5, seed=1)
    assert first == sorted(first)
    assert len(choose_labels(truth, 1000, seed=0)) <= truth.max()
