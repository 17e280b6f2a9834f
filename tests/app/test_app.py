"""Projects in Python: each call is saved when it returns, and comes back when reopened."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

import napari_peftsam as ps
from napari_peftsam.errors import (
    ConfigurationError,
    ExportError,
    ImageError,
    ProjectError,
    PromptError,
)
from napari_peftsam.peft import LoraConfig
from napari_peftsam.training import TrainEvent, TrainingStep, Validated
from tests.app._cases import TRAINING
from tests.training._world import CENTRES, make_plane


def annotate(app: ps.App) -> None:
    """Bring in the true objects of the discs."""
    app.document.do(ps.ImportLabels(app.images["discs"].id, make_plane("discs").labels))


def stored(project: Path) -> ps.Document:
    """Return what another process would read now."""
    return ps.Document(ps.open_project(project, read_only=True))


# --- opening ------------------------------------------------------------------------


def test_a_project_is_created_and_opened_again(tmp_path: Path) -> None:
    project = tmp_path / "new.peftsam"
    with ps.App(project) as app:
        app.add_image(np.zeros((8, 9), np.uint8), "empty")
    with ps.App(project) as app:
        assert list(app.images) == ["empty"]
        assert app.notes == ()
    assert [path.name for path in tmp_path.iterdir()] == [project.name]


def test_without_a_file_it_works_in_memory(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ps.App() as app:
        app.load_model(checkpoint, "cpu")
        image = app.add_image(make_plane("discs").pixels)
        assert image.name == "image"
        image.prompt(points=[(12, 12)])
        assert image.accept() == 1
    assert list(tmp_path.iterdir()) == []


def test_a_project_that_is_open_elsewhere_can_be_read(app: ps.App, tmp_path: Path) -> None:
    with ps.App(tmp_path / "cells.peftsam") as second:
        assert list(second.images) == ["discs"]
        [note] = second.notes
        assert "can only be read, it is open in process" in note
        with pytest.raises(ProjectError, match="can only be read"):
            second.add_image(np.zeros((8, 9), np.uint8))


def test_a_closed_app_changes_nothing(app: ps.App) -> None:
    app.close()
    with pytest.raises(ProjectError):
        app.undo()


# --- images -------------------------------------------------------------------------

ADDED: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path,
    "its path as a text": str,
    "an array": tifffile.imread,
}


@pytest.mark.parametrize("given", ADDED.values(), ids=ADDED.keys())
def test_an_image_that_is_there_already_is_returned(
    given: Callable[[Path], object], discs: Path, tmp_path: Path
) -> None:
    project = tmp_path / "cells.peftsam"
    with ps.App(project) as app:
        first = app.add_image(given(discs), "mine")
        assert app.add_image(given(discs), "mine").id == first.id
    with ps.App(project) as app:
        assert app.add_image(given(discs), "mine").id == first.id
        assert len(app.images) == 1
        np.testing.assert_array_equal(app.images["mine"].pixels, tifffile.imread(discs))


def test_channels_of_a_file_are_images_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "two.ome.tif"
    details = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 40, 50)).astype(np.uint16)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=details)
    with ps.App(tmp_path / "cells.peftsam") as app:
        first = app.add_image(path, channels="GFP").id
        assert app.add_image(path).id == first  # it is remembered
        assert app.add_image(path, channels="gfp").id == first
        assert app.add_image(path, channels="1").id == first
        other = app.add_image(path, "other", channels="DAPI")
        np.testing.assert_array_equal(other.pixels, pixels[0])


def test_another_image_of_the_same_name_is_refused(app: ps.App) -> None:
    with pytest.raises(ImageError, match="discs"):
        app.add_image(np.zeros((8, 9), np.uint8), "discs")


def test_images_are_found_by_name_and_stay_the_same_when_renamed(app: ps.App) -> None:
    image = app.images["discs"]
    app.document.do(ps.RenameImage(image.id, "slide 1"))
    assert image.name == "slide 1"
    assert app.images["slide 1"].id == image.id
    with pytest.raises(KeyError):
        app.images["discs"]


SPOILED = {
    "missing": (Path.unlink, "is not there: locate it"),
    "another shape": (lambda p: tifffile.imwrite(p, np.zeros((5, 6), np.uint8)), "spatial shape"),
    "unreadable": (lambda p: p.write_bytes(b"no TIFF"), "cannot be read"),
    "changed": (
        lambda p: tifffile.imwrite(p, make_plane("discs", 5).pixels), "has changed since",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED.keys())
def test_notes_name_the_images_whose_file_is_not_as_it_was(
    spoil: Callable[[Path], object], words: str, app: ps.App, discs: Path, tmp_path: Path
) -> None:
    annotate(app)
    app.add_image(make_plane("discs").pixels, "other")
    app.close()
    spoil(discs)
    with ps.App(tmp_path / "cells.peftsam") as app:
        [note] = app.notes
        assert note.startswith("discs: ")
        assert words in note
        image = app.images["discs"]
        np.testing.assert_array_equal(image.labels, make_plane("discs").labels)
        image.export(tmp_path / "labels.tif")
        app.images["other"].prompt(points=[(12, 12)])
        if words != "has changed since":
            assert image.pixels is None
            with pytest.raises(ImageError, match="locate it first"):
                image.prompt(points=[(12, 12)])


# --- prompts and objects ------------------------------------------------------------


def test_each_call_is_saved_when_it_returns(app: ps.App, tmp_path: Path) -> None:
    project, image = tmp_path / "cells.peftsam", app.images["discs"]
    image.prompt(points=[(12, 12)])
    assert stored(project).queue == (ps.Prompts((ps.Point(12, 12),)),)
    label = image.accept()
    assert [record.label for record in stored(project).records(image.id)] == [label]
    app.undo()
    assert stored(project).records(image.id) == ()
    app.redo()
    found = stored(project)
    np.testing.assert_array_equal(found.image(image.id).labels, image.labels)
    assert image.objects == found.records(image.id)
    assert (image.objects[0].model, image.objects[0].adapter) == ("tiny", "base")


POINT, NEGATIVE, BOX = ps.Point(12, 12), ps.Point(2, 40, positive=False), ps.Box(4, 4, 20, 20)
PROMPTS = {
    "a point": ({"points": [(12, 12)]}, ps.Prompts((POINT,))),
    "a box": ({"box": (4, 4, 20, 20)}, ps.Prompts(box=BOX)),
    "all kinds": (
        {"points": [(12, 12)], "negatives": [(2, 40)], "box": (4, 4, 20, 20)},
        ps.Prompts((POINT, NEGATIVE), BOX),
    ),
}


@pytest.mark.parametrize(("given", "expected"), PROMPTS.values(), ids=PROMPTS.keys())
def test_prompts_of_one_call_are_one_step(
    given: dict[str, object], expected: ps.Prompts, app: ps.App
) -> None:
    prediction = app.images["discs"].prompt(**given)
    assert len(prediction.scores) == len(prediction.masks) >= 1
    assert app.document.queue == (expected,)
    app.undo()
    assert app.document.queue == ()


def test_a_second_call_adds_to_the_pending_object(app: ps.App) -> None:
    image = app.images["discs"]
    image.prompt(points=[(12, 12)])
    image.prompt(negatives=[(2, 40)])
    assert app.document.queue == (ps.Prompts((POINT, NEGATIVE)),)
    current = app.document.current
    assert current is not None
    assert current.mask_prompt is not None  # its mask is refined, as after a click
    image.prompt(box=(4, 4, 20, 20))
    assert app.document.queue == (ps.Prompts((POINT, NEGATIVE), BOX),)


def test_a_call_for_another_plane_starts_an_object_there(app: ps.App) -> None:
    stack = app.add_image(np.stack([make_plane("z", z).pixels for z in range(3)]), "stack")
    app.images["discs"].prompt(points=[(12, 12)])
    stack.prompt(points=[(34, 34)], plane=(2,))
    assert app.document.queue == (ps.Prompts((ps.Point(34, 34),)),)
    stack.accept()
    assert [record.index for record in stack.objects] == [(2,)]
    assert stack.labels[2].any()
    assert not stack.labels[:2].any()


def test_a_discarded_object_is_gone(app: ps.App) -> None:
    image = app.images["discs"]
    image.prompt(points=[(12, 12)])
    image.discard()
    assert app.document.queue == ()
    with pytest.raises(PromptError, match="nothing is prompted in discs"):
        image.accept()


def test_accepting_in_one_image_leaves_the_pending_object_of_another(app: ps.App) -> None:
    other = app.add_image(make_plane("discs").pixels, "other")
    app.images["discs"].prompt(points=[(12, 12)])
    with pytest.raises(PromptError, match="nothing is prompted in other"):
        other.accept()
    assert app.document.queue


REFUSED = {
    "no prompt": ({}, "there is no prompt"),
    "a point outside": ({"points": [(12, 12), (99, 1)]}, "outside"),
    "a box upside down": ({"box": (9, 9, 1, 1)}, "row0 < row1"),
    "a plane of a 2D image": ({"points": [(1, 1)], "plane": (0,)}, "plane"),
}


@pytest.mark.parametrize(("given", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_prompts_that_do_not_fit_change_nothing(
    given: dict[str, object], words: str, app: ps.App
) -> None:
    before = app.document.store.last_number
    with pytest.raises(ps.PeftSamError, match=words):
        app.images["discs"].prompt(**given)
    assert app.document.store.last_number == before


def test_labels_are_a_read_only_view(app: ps.App) -> None:
    image = app.images["discs"]
    labels = image.labels
    with pytest.raises(ValueError, match="read-only"):
        labels[0, 0] = 1
    annotate(app)
    np.testing.assert_array_equal(labels, make_plane("discs").labels)  # it follows


def test_a_prompt_is_accepted_after_reopening(app: ps.App, tmp_path: Path) -> None:
    app.images["discs"].prompt(points=[(12, 12)])
    app.close()
    with ps.App(tmp_path / "cells.peftsam") as app:
        assert app.images["discs"].accept() == 1


def test_undo_works_after_reopening(app: ps.App, tmp_path: Path) -> None:
    annotate(app)
    app.close()
    with ps.App(tmp_path / "cells.peftsam") as app:
        assert app.undo() is not None
        assert app.images["discs"].objects == ()
        assert app.redo() is not None
        assert len(app.images["discs"].objects) == len(CENTRES)
        assert app.redo() is None


# --- model and training -------------------------------------------------------------


def test_the_first_prompt_loads_the_model_of_the_project(
    app: ps.App, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.close()
    monkeypatch.chdir(tmp_path)
    with ps.App("cells.peftsam") as app:
        assert not app.workspace.has_model
        app.images["discs"].prompt(points=[(12, 12)])
        assert app.workspace.engine.model.name == "tiny"
        assert app.document.live.model == str(checkpoint)


def test_without_a_model_in_the_project_the_first_prompt_loads_builtin(discs: Path) -> None:
    with ps.App() as app:
        app.add_image(discs).prompt(points=[(12, 12)])
        assert app.workspace.engine.model.name == "builtin"


def test_a_relative_checkpoint_is_found_from_any_folder(
    app: ps.App, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    app.load_model(checkpoint.name, "cpu")
    app.close()
    monkeypatch.chdir(tmp_path)
    with ps.App("cells.peftsam") as app:
        app.load_model(device="cpu")
        assert app.workspace.engine.model.name == "tiny"


def test_a_better_version_is_live_and_comes_back_with_the_model(
    app: ps.App, tmp_path: Path, useless: Path
) -> None:
    annotate(app)
    app.workspace.load_adapter(useless)
    report = app.finetune(config=TRAINING)
    assert (report.adapter, report.live, report.steps) == ("v1", "v1", 2)
    assert report.val_iou_after > report.val_iou_before
    adapter = app.workspace.live.adapter
    assert adapter is not None
    app.close()
    with ps.App(tmp_path / "cells.peftsam") as app:
        app.load_model(device="cpu")
        assert [e.name for e in app.workspace.adapters.entries] == ["base", "useless", "v1"]
        live = app.workspace.adapters[app.workspace.live.name]
        assert (live.name, app.workspace.live.decoder) == ("v1", adapter.digest)
        assert app.workspace.engine.live.decoder == adapter.digest
        app.images["discs"].prompt(points=[(2, 2)])
        assert app.document.current is not None
        assert app.document.current.made_by.adapter == "v1"
        [run] = app.document.runs
        assert (run.adapter, run.report["steps"]) == ("v1", 2)


def test_a_version_that_is_no_better_leaves_the_earlier_one_live(app: ps.App) -> None:
    annotate(app)
    report = app.finetune(config=TRAINING.model_copy(update={"learning_rate": 1e-12}))
    assert not report.improved
    assert (report.adapter, report.live) == ("", "base")
    assert app.document.adapters == ()
    assert [run.adapter for run in app.document.runs] == [""]


def test_a_training_can_be_ended_early(app: ps.App) -> None:
    annotate(app)
    config = ps.TrainingConfig(seconds=600, rounds=1)
    report = app.finetune(config=config, watch=lambda event: isinstance(event, TrainingStep))
    assert report.steps == 1


def test_the_best_state_stays_when_a_training_breaks_off(app: ps.App, useless: Path) -> None:
    annotate(app)
    app.workspace.load_adapter(useless)
    best: list[int] = []

    def watch(event: TrainEvent) -> None:
        if isinstance(event, Validated) and event.step > 0 and event.adapter is not None:
            best.append(event.step)
        elif isinstance(event, TrainingStep) and best:
            raise MemoryError

    config = ps.TrainingConfig(
        steps=60, method=LoraConfig(rank=4), rounds=1, learning_rate=1e-2, validations=60,
        held_out=0.7,  # six of eight objects: there are no folds where a training breaks off
    )  # fmt: skip
    with pytest.raises(ps.PeftSamError, match=r"not enough memory .* is live as v1"):
        app.finetune(config=config, watch=watch)
    assert app.document.live.name == "v1"
    assert app.document.runs[0].report["best_step"] == best[-1]


def test_too_few_objects_are_told(app: ps.App) -> None:
    with pytest.raises(ps.PeftSamError, match="at least 3 annotated objects, found 0"):
        app.finetune()


# --- export -------------------------------------------------------------------------


def test_exports_carry_the_provenance(app: ps.App, tmp_path: Path) -> None:
    image = app.images["discs"]
    image.prompt(points=[(12, 12)])
    image.accept()
    written = image.export(tmp_path / "out", "coco")
    assert written == tmp_path / "out.json"
    content = json.loads(written.read_text())
    assert content["images"][0]["file_name"] == "discs.tif"
    np.testing.assert_array_equal(tifffile.imread(image.export(tmp_path / "o.tif")), image.labels)
    with pytest.raises(ConfigurationError, match="no export format"):
        image.export(tmp_path / "out.bmp")


def test_an_export_never_replaces_an_image_of_the_project(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, np.arange(72, dtype=np.uint8).reshape(8, 9))
    before = path.read_bytes()
    with ps.App(tmp_path / "cells.peftsam") as app:
        image = app.add_image(path)
        app.document.do(ps.ImportLabels(image.id, np.ones((8, 9), np.int32)))
        with pytest.raises(ExportError, match="is an image of the project"):
            image.export(path)
    assert path.read_bytes() == before


def test_a_file_is_the_same_image_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, np.arange(72, dtype=np.uint8).reshape(8, 9))
    with ps.App() as app:
        named = app.add_image(path, name="mine")
        assert app.add_image(path).id == named.id


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"points": (3, 4)}, id="one point without its list"),
        pytest.param({"points": [(1, 2, 3)]}, id="three numbers"),
        pytest.param({"points": "abc"}, id="text"),
        pytest.param({"box": (1, 2, 3)}, id="box of three"),
    ],
)
def test_prompts_of_another_form_are_refused(app: ps.App, given: dict[str, object]) -> None:
    with pytest.raises(PromptError, match="prompts must be points"):
        app.images["discs"].prompt(**given)  # type: ignore[arg-type]


def test_an_object_can_take_the_pixels_of_another(app: ps.App) -> None:
    image = app.images["discs"]
    image.prompt(points=[(12, 12)])
    first = image.accept()
    image.prompt(points=[(12, 12)])
    with pytest.raises(PromptError, match="existing objects cover"):
        image.accept()
    assert image.accept(overlap="overwrite") == first + 1
