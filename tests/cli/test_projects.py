"""Projects on the command line: their contents, labels from the actions, training, export."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

import napari_peftsam as ps
from napari_peftsam.app.finetuning import train
from napari_peftsam.cli.projects import label_file_names
from napari_peftsam.document import RenameImage
from napari_peftsam.files import read_image
from napari_peftsam.models import build_tiny
from napari_peftsam.peft import (
    LoraConfig,
    adapter_bytes,
    capture,
    inject,
    load_adapter,
    save_adapter,
)
from tests.app._cases import write_useless_adapter
from tests.cli._cases import Inputs, Program, scene
from tests.cli._project_cases import ROOT, held_open, make_project
from tests.document._project_cases import check_project
from tests.training._world import finish

INFO_KEYS = ["images", "objects", "proposals", "adapters", "actions", "seconds"]
REPLAY_KEYS = ["actions", "images", "objects", "identical", "differences", "files"]
FINETUNE_KEYS = [
    "steps", "seconds", "trainable_parameters", "val_iou_before", "val_iou_after", "best_step",
    "verdict", "adapter", "live", "output",
]  # fmt: skip
OBJECTS = 10  # five in each image


@pytest.fixture
def project(inputs: Inputs) -> Path:
    return make_project(inputs)


def opened(project: Path) -> ps.Document:
    return ps.Document(ps.open_project(project, read_only=True))


# --- info ---------------------------------------------------------------------------


def test_info(project: Path, program: Program) -> None:
    outcome = program("info", project, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert list(outcome.json) == [*INFO_KEYS, "missing", "judged"]
    assert outcome.json["missing"] == []
    expected = {"images": 2, "objects": OBJECTS, "proposals": 0, "adapters": 0, "actions": 6}
    assert {k: outcome.json[k] for k in expected} == expected
    text = program("info", project).out
    assert [line.split()[0] for line in text.splitlines()] == INFO_KEYS


def test_info_says_how_many_judgements_adapters_bring(project: Path, program: Program) -> None:
    """Of a file, and of those in a project, without torch; what is damaged has no number."""
    adapter = capture(inject(build_tiny(), LoraConfig(rank=2)))
    taught = adapter.with_judged(np.zeros((7, 17)), np.ones(7))
    with closing(ps.open_project(project)) as store:
        document = ps.Document(store)
        for name, content in (
            ("v1", adapter_bytes(adapter)), ("v2", adapter_bytes(taught)), ("v3", b"damaged"),
        ):  # fmt: skip
            document.add_adapter(content, ps.document.StoredAdapter(name))
    assert program("info", project, "--json").json["judged"] == {"v1": 0, "v2": 7}
    assert program("info", project).out.splitlines()[-1] == "v2: 7 judged proposals"
    file = project.with_suffix(".safetensors")
    save_adapter(taught, file)
    found = program("info", file, "--json").json
    assert {name: found[name] for name in ("method", "rank", "judged")} == {
        "method": "lora", "rank": 2, "judged": 7,
    }  # fmt: skip
    assert program("info", file).out.strip().endswith("7 judged proposals")


def test_info_names_images_that_are_gone_or_changed(
    project: Path, inputs: Inputs, program: Program
) -> None:
    (inputs / "images" / "a1.tif").unlink()
    with (inputs / "images" / "a0.tif").open("ab") as file:
        file.write(b"more")
    outcome = program("info", project, "--json")
    assert (outcome.code, outcome.json["missing"]) == (0, ["a1"])
    changed, missing = outcome.err.splitlines()
    assert changed.startswith("a0: ")
    assert "has changed since it was annotated" in changed
    assert missing.startswith("a1: ")
    assert "is not there: locate it" in missing


@pytest.mark.parametrize("command", ["info", "replay"])
def test_looking_at_a_project_imports_no_torch(command: str, project: Path) -> None:
    code = (
        f"import sys; from napari_peftsam.cli import main; main(['{command}', {str(project)!r}]);"
        "sys.exit(str([m for m in ('torch', 'napari', 'zarr') if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stderr.strip() == "[]"


# command, and the number of objects that it must see
WHILE_OPEN = {
    "info": (("info",), OBJECTS + 1),
    "replay": (("replay",), OBJECTS + 1),
    "replay until": (("replay", "--until", "2"), 5),
}


@pytest.mark.parametrize(("command", "objects"), WHILE_OPEN.values(), ids=WHILE_OPEN.keys())
def test_a_project_that_another_process_writes_can_be_looked_at(
    command: tuple[str, ...], objects: int, project: Path, program: Program
) -> None:
    with held_open(project):
        outcome = program(*command, project, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.json["objects"] == objects


# --- replay -------------------------------------------------------------------------


def test_replay_rebuilds_the_labels_without_the_images(
    project: Path, inputs: Inputs, program: Program
) -> None:
    for path in (inputs / "images").iterdir():
        path.unlink()
    outcome = program("replay", project, "--output", inputs / "labels again", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert list(outcome.json) == REPLAY_KEYS
    assert outcome.json["identical"] is True
    assert outcome.json["differences"] == []
    document = opened(project)
    for path, image in zip(outcome.json["files"], document.images.values(), strict=True):
        assert Path(path) == inputs / "labels again" / f"{image.name}.tif"
        np.testing.assert_array_equal(tifffile.imread(path), image.labels)
    again = program("replay", project, "--output", inputs / "labels again")
    assert "6 actions, 2 images, 10 objects; identical" in again.out


# number of actions, and the objects by image after them
UNTIL = {"none": (0, {}), "image": (1, {"a0": 0}), "labels": (2, {"a0": 5}),
         "deleted": (5, {"a0": 4, "a1": 5}), "all": (6, {"a0": 5, "a1": 5})}  # fmt: skip


@pytest.mark.parametrize(("until", "objects"), UNTIL.values(), ids=UNTIL.keys())
def test_replay_stops_where_it_is_told(
    until: int, objects: dict[str, int], project: Path, program: Program, tmp_path: Path
) -> None:
    outcome = program("replay", project, "--until", until, "--output", tmp_path / "out", "--json")
    assert outcome.code == 0
    assert (outcome.json["actions"], outcome.json["identical"]) == (until, None)
    found = {Path(p).stem: len(np.unique(tifffile.imread(p))) - 1 for p in outcome.json["files"]}
    assert found == objects


def test_replay_tells_each_difference(project: Path, program: Program) -> None:
    with closing(ps.open_project(project)) as store:
        document = ps.Document(store)
        image = document.find_image("a1")
        assert image is not None
        log = list(store.actions())
        document.do(ps.Paint(image.id, np.arange(7), 40))  # stored, and then left out of the log
        forget_last_action(store.path, len(log))
    outcome = program("replay", project, "--json")
    assert outcome.code == 1
    lines = outcome.err.splitlines()
    assert lines == outcome.json["differences"]
    assert lines == ["a1: 7 pixels of the labels differ", "a1: the records of objects [40] differ"]
    assert outcome.json["identical"] is False
    assert program("replay", project, "--until", "6").code == 0


def forget_last_action(project: Path | None, number: int) -> None:
    assert project is not None
    with closing(sqlite3.connect(project)) as connection, connection:
        connection.execute("DELETE FROM actions WHERE number > ?", (number,))


NAMES = {
    "plain": (["a", "b c-1 (x)"], ["a.tif", "b c-1 (x).tif"]),
    "folders": (["a/b", "..\\c", "../../etc"], ["a_b.tif", "_c.tif", "_.._etc.tif"]),
    "dots": (["..", ".", ".hidden"], ["image.tif", "image-2.tif", "hidden.tif"]),
    "empty": (["", " "], ["image.tif", "image-2.tif"]),
    "equal but for case": (["A", "a", "a-2"], ["A.tif", "a-2.tif", "a-2-2.tif"]),
    "devices": (["con", "LPT1.x", "console"], ["_con.tif", "_LPT1.x.tif", "console.tif"]),
    "special": (['a:b*"?\0\n'], ["a_b_____.tif"]),
    "letters": (["zellkern ü 細胞"], ["zellkern ü 細胞.tif"]),
}  # fmt: skip


@pytest.mark.parametrize(("names", "files"), NAMES.values(), ids=NAMES.keys())
def test_file_names_are_safe_and_distinct(names: list[str], files: list[str]) -> None:
    assert label_file_names(names) == files


def test_long_names_stay_within_what_file_systems_take() -> None:
    found = label_file_names([*(letter * 300 for letter in "x細"), "x" * 300 + "y"])
    assert len(set(found)) == 3
    assert max(len(name.encode()) for name in found) < 200


# --- finetune -----------------------------------------------------------------------

CONFIG = ps.TrainingConfig(
    method=LoraConfig(rank=2), steps=2, learning_rate=1e-3, images_per_step=1
)


def finetune(project: Path, inputs: Inputs, *more: object) -> tuple[object, ...]:
    return ("finetune", "--project", project, *inputs.model(), "--method", "lora", "--rank", "2",
            "--steps", "2", "--learning-rate", "1e-3", "--device", "cpu", *more)  # fmt: skip


def test_a_project_is_trained_on_as_in_the_viewer(
    project: Path, inputs: Inputs, program: Program
) -> None:
    tifffile.imwrite(inputs / "stack.tif", np.stack([scene(s)[0] for s in range(5)]))
    with ps.App(project) as app:
        stack = app.add_image(inputs / "stack.tif")
        labels = np.stack([scene(s)[1] for s in range(5)]).astype(np.int32)
        labels[:2] = 0  # each object lies in the other three planes
        app.document.do(ps.ImportLabels(stack.id, labels))
        app.load_model(inputs / "tiny.pth", "cpu")
        job = app.workspace.prepare_training(CONFIG)()
    assert [p.name for p in job.planes] == ["a0", "a1", "stack[2]", "stack[3]", "stack[4]"]
    assert job.planes[0].prompts == {10: ps.Prompts((ps.Point(10, 10),))}
    _, finished = finish(train(job))  # as the viewer's child process does

    output = inputs / "out.safetensors"
    outcome = program(*finetune(project, inputs, "--output", output))
    assert outcome.code == 0, outcome.err
    written = load_adapter(output)
    assert written.provenance["trained_on"] == finished.adapter.provenance["trained_on"]
    assert written.tensors.keys() == finished.adapter.tensors.keys()
    for name, tensor in written.tensors.items():
        assert torch.equal(tensor, finished.adapter.tensors[name]), name


def test_an_image_to_check_on_is_called_by_its_present_name(
    project: Path, inputs: Inputs, program: Program
) -> None:
    with ps.App(project) as app:
        app.document.do(RenameImage(app.images["a1"].id, "mine"))
    output = inputs / "out.safetensors"
    outcome = program(*finetune(project, inputs, "--output", output, "--check-on", "mine"))
    assert outcome.code == 0, outcome.err
    assert {*load_adapter(output).provenance["trained_on"]} == {"a0"}


def test_a_better_version_is_saved_live_in_the_project(
    project: Path, inputs: Inputs, program: Program
) -> None:
    useless = write_useless_adapter(inputs / "useless.safetensors", inputs / "tiny.pth")
    output = inputs / "out.safetensors"
    outcome = program(*finetune(project, inputs, "--output", output, "--json"))
    assert list(outcome.json) == FINETUNE_KEYS
    with closing(ps.open_project(project)) as store:
        workspace = ps.Workspace(ps.Document(store))
        workspace.load_model(inputs / "tiny.pth", "cpu")
        workspace.load_adapter(useless)
    outcome = program(*finetune(project, inputs, "--output", output, "--json"))
    assert outcome.code == 0, outcome.err
    version = outcome.json["adapter"]
    assert (outcome.json["live"], outcome.json["output"]) == (version, str(output))
    assert outcome.json["val_iou_after"] > outcome.json["val_iou_before"]
    document = opened(project)
    assert document.live.name == version
    assert document.live.model == str(inputs / "tiny.pth")
    [stored] = [adapter for adapter in document.adapters if adapter.name == version]
    assert load_adapter(output).digest == load_adapter_of(document, stored.digest, inputs)
    assert document.runs[-1].adapter == version
    # The next commands take the project's own model and adapter.
    again = program("evaluate", "--project", project, "--device", "cpu", "--json")
    assert again.code == 0, again.err
    assert again.json["objects"] == 8
    assert check_project(document.store) == []


def load_adapter_of(document: ps.Document, digest: str, inputs: Inputs) -> str:
    path = inputs / "stored.safetensors"
    path.write_bytes(document.store.blob(digest))
    return load_adapter(path).digest


def test_a_version_that_is_no_better_leaves_the_project_as_it_is(
    project: Path, inputs: Inputs, program: Program
) -> None:
    outcome = program(*finetune(project, inputs, "--learning-rate", "1e-12"))
    assert outcome.code == 0, outcome.err
    assert "the old one stays" in outcome.out
    assert "live in the project: base" in outcome.out
    document = opened(project)
    assert document.adapters == ()
    assert [r.adapter for r in document.runs] == [""]


GONE = {
    "missing": (Path.unlink, "is not there"),
    "another shape": (lambda p: tifffile.imwrite(p, np.zeros((5, 6), np.uint8)), "spatial shape"),
    "unreadable": (lambda p: p.write_bytes(b"no TIFF"), "cannot be read"),
}
NEED_PIXELS = {
    "finetune": finetune,
    "evaluate": lambda p, i: ("evaluate", "--project", p, *i.model(), "--device", "cpu"),
    "export": lambda p, i: (
        "export", p, "--image", "a1", "--format", "coco", "--output", i / "out.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), GONE.values(), ids=GONE.keys())
@pytest.mark.parametrize("command", NEED_PIXELS.values(), ids=NEED_PIXELS.keys())
def test_the_rest_is_used_where_an_image_is_gone_and_named(
    command: object, spoil: object, words: str, project: Path, inputs: Inputs, program: Program
) -> None:
    spoil(inputs / "images" / "a1.tif")  # type: ignore[operator]
    outcome = program(*command(project, inputs))  # type: ignore[operator]
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith("a1: ")
    assert words in outcome.err.splitlines()[0]


# --- export -------------------------------------------------------------------------


def test_the_provenance_goes_with_the_export(
    project: Path, inputs: Inputs, program: Program
) -> None:
    outcome = program("export", project, "--image", "a0", "--format", "coco", "--output",
                      inputs / "out", "--json")  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.json == {"output": str(inputs / "out.json"), "format": "coco"}
    found = json.loads((inputs / "out.json").read_text())
    assert found["images"][0]["file_name"] == "a0.tif"
    with ps.App(project) as app:
        viewer = json.loads(app.images["a0"].export(inputs / "viewer.json").read_text())
        expected = [record.to_dict() for record in app.images["a0"].objects]
    assert found["annotations"] == viewer["annotations"]
    assert any(r["source"] == "point" and r["model"] == "tiny" for r in expected)


@pytest.mark.parametrize("name", ["cells.peftsam", "renamed.tif"])
def test_a_project_with_one_image_needs_no_name_and_no_suffix(
    name: str, inputs: Inputs, program: Program
) -> None:
    with ps.App(inputs / name) as app:
        image = app.add_image(inputs / "image.tif")
        app.document.do(ps.ImportLabels(image.id, scene(0)[1].astype(np.int32)))
    output = inputs / "out.ome.zarr"
    outcome = program("export", inputs / name, "--format", "ome-zarr", "--output", output)
    assert (outcome.code, outcome.err) == (0, "")
    np.testing.assert_array_equal(read_image(output), scene(0)[0])


def test_a_project_that_is_open_elsewhere_is_exported(
    project: Path, inputs: Inputs, program: Program
) -> None:
    output = inputs / "out.tif"
    with held_open(project):
        outcome = program("export", project, "--image", "a0", "--format", "tiff", "--output",
                          output)  # fmt: skip
    assert (outcome.code, outcome.err) == (0, "")
    assert (tifffile.imread(output).ravel()[:5] == 11).all()


def test_all_images_are_exported_into_a_folder(
    project: Path, inputs: Inputs, program: Program
) -> None:
    arguments = ("export", project, "--format", "tiff,csv", "--output", inputs / "out", "--json")
    outcome = program(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    names = [Path(path).name for path in outcome.json["written"]]
    assert names == ["a0.tif", "a1.tif", "a0.csv", "a1.csv"]
    again = program(*arguments).json
    assert (again["written"], again["kept"]) == ([], 4)


# --- recover ------------------------------------------------------------------------


def test_a_damaged_project_is_recovered_into_another_file(
    project: Path, inputs: Inputs, program: Program
) -> None:
    with closing(ps.open_project(project)) as store:
        labels = ps.Document(store).find_image("a0").labels.copy()  # type: ignore[union-attr]
    forget_tiles(project)
    before = project.read_bytes()
    output = inputs / "whole.peftsam"
    outcome = program("recover", project, "--output", output, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.json["output"] == str(output)
    assert (outcome.json["actions"], outcome.json["is_history_whole"]) == (6, True)
    assert project.read_bytes() == before
    image = opened(output).find_image("a0")
    assert image is not None
    np.testing.assert_array_equal(image.labels, labels)
    assert program("replay", output).code == 0
    assert "Recovered" in program("recover", project, "--output", inputs / "b.peftsam").out


def test_a_recovery_that_loses_objects_says_so_and_ends_with_1(
    project: Path, inputs: Inputs, program: Program
) -> None:
    forget_tiles(project)
    with closing(sqlite3.connect(project)) as connection, connection:
        connection.execute("UPDATE actions SET payload = x'00' WHERE number = 2")
    outcome = program("recover", project, "--output", inputs / "part.peftsam")
    assert outcome.code == 1
    assert "lost: " in outcome.out
    assert "tiles of labels" in outcome.out
    assert opened(inputs / "part.peftsam").find_image("a0") is not None


def test_a_recovery_notices_objects_whose_end_of_the_log_is_gone(
    project: Path, inputs: Inputs, program: Program
) -> None:
    forget_tiles(project)
    forget_last_action(project, 1)
    outcome = program("recover", project, "--output", inputs / "part.peftsam", "--json")
    assert (outcome.code, outcome.json["lost_objects"]) == (1, OBJECTS)


def test_a_recovery_that_may_have_lost_something_ends_with_1(
    project: Path, inputs: Inputs, program: Program
) -> None:
    with closing(sqlite3.connect(project)) as connection, connection:
        connection.execute("UPDATE images SET info = 'x' WHERE position = 1")
        connection.execute("UPDATE actions SET payload = x'00' WHERE number = 6")
    outcome = program("recover", project, "--output", inputs / "part.peftsam", "--json")
    assert (outcome.code, outcome.json["in_doubt"]) == (1, ["images"])
    assert outcome.json["most_objects_in_doubt"] is None


def forget_tiles(project: Path) -> None:
    """Damage what is stored of the labels; SQLite itself does not see it."""
    with closing(sqlite3.connect(project)) as connection, connection:
        connection.execute("UPDATE tiles SET data = zeroblob(length(data))")
