"""What every command does, seen from outside: files, one JSON object, its keys."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from pycocotools.coco import COCO
from pydantic import BaseModel

from napari_peftsam.configs import EvaluationConfig, TrainingOptions
from napari_peftsam.export import export_labels
from napari_peftsam.models import REGISTRY, build
from napari_peftsam.peft import METHODS, apply_adapter, load_adapter
from tests.cli._cases import Inputs, Program, scene

COMMANDS = (
    "demo", "open", "models", "methods", "download", "finetune", "evaluate", "embed", "segment",
    "segment-batch", "info", "replay", "recover", "export", "export-model", "export-adapter",
    "import-adapter",
)  # fmt: skip
FINETUNE_KEYS = [
    "steps", "seconds", "trainable_parameters", "val_iou_before", "val_iou_after", "best_step",
    "verdict", "adapter",
]  # fmt: skip
MODEL_KEYS = [
    "name", "title", "purpose", "architecture", "megabytes", "license", "citation", "source",
    "available", "path", "decoder_available", "recommended_for",
]  # fmt: skip
EVALUATE_KEYS = [
    "images", "objects", "skipped_small", "point_iou", "box_iou", "ip_iou", "ib_iou",
    "iou_at_clicks", "noc80", "noc85", "noc90", "score_correlation", "score_ranking",
    "area_ranking", "intervals", "per_image",
]  # fmt: skip


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "napari_peftsam", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )  # type: ignore[call-overload]


def finetune(shared: Inputs, output: Path, *more: str) -> tuple[str, ...]:
    budget = () if "--epochs" in more or "--budget" in more else ("--steps", "2")
    return ("finetune", *shared.folders(), *shared.model(), *budget, "--output", str(output),
            "--json", *more)  # fmt: skip


# --- the program ---------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=str)
def test_help(command: tuple[str, ...], program: Program) -> None:
    outcome = program(*command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("Usage: napari-peftsam")


def test_without_a_command_it_shows_its_help(program: Program) -> None:
    outcome = program()
    assert outcome.code == 0
    assert all(name in outcome.out for name in COMMANDS)


def test_version(program: Program) -> None:
    import napari_peftsam

    assert program("--version").out == f"{napari_peftsam.__version__}\n"


@pytest.mark.parametrize("command", ["finetune", "methods"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; from napari_peftsam.cli import main; main(['{command}', '--help']);"
        "sys.exit(str([m for m in ('torch', 'napari', 'numpy', 'scipy') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("command", "config", "names"),
    [
        (
            "finetune",
            TrainingOptions,
            [
                "steps",
                "epochs",
                "learning_rate",
                "rounds",
                "prompts",
                "loss",
                "schedule",
                "validations",
                "early_stopping",
                "seed",
            ],
        ),
        ("evaluate", EvaluationConfig, ["max_objects", "seed"]),
    ],
)
def test_options_are_described_as_the_fields_of_their_configuration(
    command: str, config: type[BaseModel], names: list[str], program: Program
) -> None:
    shown = _without_spaces(program(command, "--help").out)  # lines break after hyphens, too
    for name in names:
        # typer before 0.27 writes types as INTEGER, later ones as <integer>.
        assert re.search(rf"--{name.replace('_', '-')}(<|\[|[A-Z]{{3,}})", shown)
        assert _without_spaces(str(config.model_fields[name].description)) in shown


def _without_spaces(text: str) -> str:
    return "".join(text.split())


# --- models --------------------------------------------------------------------------


def test_models(program: Program) -> None:
    outcome = program("models", "--json")
    assert list(outcome.json) == ["models"]
    entries = {entry["name"]: entry for entry in outcome.json["models"]}
    assert list(entries) == list(REGISTRY)
    assert all(list(entry) == MODEL_KEYS for entry in entries.values())
    assert entries["builtin"]["available"] is True
    assert Path(entries["builtin"]["path"]).is_file()
    assert entries["vit_b"]["available"] is False
    assert entries["vit_b"]["path"] is None
    assert entries["vit_b"]["source"].startswith("https://")
    assert entries["vit_b"]["decoder_available"] is None
    assert entries["vit_b_lm"]["decoder_available"] is False
    text = program("models").out
    assert all(entry["name"] in text and entry["purpose"] in text for entry in entries.values())


# --- finetune ------------------------------------------------------------------------


# options, and what the adapter then says of itself
FINETUNE = {
    "": "full-finetuning",
    "--method cobot-lora --rank 4 --placement late-50%": "cobot-lora rank=4 placement=late-50%",
    "--method lora --rank 2 --alpha 2 --placement 0,2": "lora rank=2 alpha=2.0 placement=0,2",
    "--method lora --rank 4 --cobot": "cobot-lora rank=4",
    "--cobot --set init=official": "cobot-lora init=official",
    "--method lora --matrices v,q,k --set lora-plus-ratio=16 --rank 2 --decoder-lora-rank 2":
        "lora matrices=q,k,v lora_plus_ratio=16.0 decoder_lora_rank=2",
    "--method fact --rank 4 --set shared=false --set dropout=0": "fact shared=False dropout=0.0",
    "--method adaptformer --cobot --bottleneck 4": "cobot-adaptformer bottleneck=4",
    "--method Late_Finetuning --placement last": "late-finetuning placement=last",
    "--method frozen-encoder": "frozen-encoder",
    "--recipe cobot": "cobot-lora rank=4 coefficient_rate=0.000125 fast_gamma=False",
    "--method cobot-lora --rank 4 --set coefficient_lr_multiplier=100":
        "cobot-lora coefficient_rate=100x",
    "--cobot --rank 4 --set relations=fixed --set projection=linear":
        "cobot-lora relations=fixed projection=linear",
    "--method adaptformer --bottleneck 4 --set dropout=0.1": "adaptformer dropout=0.1",
    "--prompts peft-sam --loss dice --schedule plateau --early-stopping 2 --validations 0":
        "full-finetuning",
    "--recipe PEFT_SAM_small": "frozen-encoder",
    "--recipe recommended --learning-rate 1e-3": "full-finetuning",
    "--epochs 1": "full-finetuning",
    "--budget 1s": "full-finetuning",
}  # fmt: skip


@pytest.mark.parametrize(("options", "trained"), FINETUNE.items())
def test_finetune(
    options: str, trained: str, shared: Inputs, program: Program, tmp_path: Path
) -> None:
    output = tmp_path / "a.safetensors"
    outcome = program(*finetune(shared, output, *options.split()))
    assert outcome.code == 0
    assert list(outcome.json) == FINETUNE_KEYS
    assert outcome.json["adapter"] == str(output)
    assert outcome.json["steps"] >= 1
    assert 0 <= outcome.json["best_step"] <= outcome.json["steps"]
    verdict = outcome.json["verdict"]
    assert verdict["objects"] >= 1
    assert verdict["outcome"] in ("better", "no difference", "worse")
    assert verdict["sentence"]
    adapter = load_adapter(output)
    method, *values = trained.split()
    assert adapter.config.method == method
    found = adapter.config.model_dump(mode="json")
    assert values == [f"{name}={found[name]}" for name in (v.split("=")[0] for v in values)]
    assert adapter.metrics["val_iou"] == outcome.json["val_iou_after"]
    with apply_adapter(build(shared / "tiny.pth"), adapter) as injection:
        sizes = [p.numel() for p in injection.trainable_parameters().values()]
    assert outcome.json["trainable_parameters"] == sum(sizes)


def test_options_of_training_take_the_place_of_a_recipes(
    shared: Inputs, program: Program, tmp_path: Path
) -> None:
    output = tmp_path / "a.safetensors"
    options = ("--recipe", "peft-sam-many", "--rounds", "2", "--loss", "dice")
    assert program(*finetune(shared, output, *options)).code == 2  # rank 32 in a width of 16
    options = ("--recipe", "recommended", "--rounds", "2", "--loss", "dice")
    assert program(*finetune(shared, output, *options)).code == 0
    training = load_adapter(output).provenance["training"]
    assert (training["rounds"], training["loss"]) == (2, "dice")
    assert (training["prompts"], training["validations"]) == ("varied", 5)


def test_the_same_seed_trains_the_same_adapter(
    shared: Inputs, program: Program, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("a", "b", "c")]
    for path, seed in zip(paths, ("3", "3", "4"), strict=True):
        assert program(*finetune(shared, path, "--seed", seed)).code == 0
    first, second, other = (load_adapter(path).digest for path in paths)
    assert first == second != other


def test_training_goes_on_from_an_adapter(shared: Inputs, program: Program, tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    rank = ("--method", "lora", "--rank", "2")
    before = program(*finetune(shared, first, *rank)).json
    after = program(*finetune(shared, second, "--adapter", str(first))).json
    assert load_adapter(second).config == load_adapter(first).config
    assert after["val_iou_before"] == before["val_iou_after"]
    onto_itself = program(*finetune(shared, second, "--adapter", str(second)))
    assert f"{second} is replaced by its continuation" in onto_itself.err


@pytest.mark.parametrize("method", [name for name in METHODS if name != "qlora"])
def test_every_method_can_be_trained(
    method: str, shared: Inputs, program: Program, tmp_path: Path
) -> None:
    output = tmp_path / "a.safetensors"
    fitting = {"rank": "4", "bottleneck": "4"}  # the model is 16 wide
    fields = METHODS[method].model_fields
    options = [f"--{n}={value}" for n, value in fitting.items() if n in fields]
    assert program(*finetune(shared, output, "--method", method, *options)).code == 0
    assert load_adapter(output).config.method == method


def test_ctrl_c_keeps_the_best_state(shared: Inputs, tmp_path: Path) -> None:
    output = tmp_path / "a.safetensors"
    process = start(*finetune(shared, output, "--budget", "1h"))
    assert process.stderr is not None
    assert process.stderr.readline().startswith("memory: ")
    assert process.stderr.readline().startswith("Recommended ")
    assert process.stderr.readline().startswith("training ")  # the loop has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "keeping the best state" in err
    assert "Traceback" not in err
    assert list(json.loads(out)) == FINETUNE_KEYS
    load_adapter(output)


def test_ctrl_c_elsewhere_ends_quietly(shared: Inputs) -> None:
    names_imports = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    process = start("evaluate", *shared.folders(), *shared.model(), env=names_imports)
    assert process.stderr is not None
    assert any(line.endswith(" numpy\n") for line in process.stderr)  # and torch comes next
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT)  # the latter before our own code runs
    assert out == ""


# --- evaluate ------------------------------------------------------------------------


def test_evaluate(shared: Inputs, program: Program) -> None:
    outcome = program("evaluate", *shared.folders(), *shared.model(), "--json")
    assert outcome.code == 0
    assert list(outcome.json) == EVALUATE_KEYS
    assert (outcome.json["images"], outcome.json["objects"]) == (3, 12)
    assert outcome.json["skipped_small"] == 3
    assert len(outcome.json["iou_at_clicks"]) == 10
    assert outcome.json["iou_at_clicks"][0] == outcome.json["point_iou"]
    assert 1 <= outcome.json["noc80"] <= outcome.json["noc90"] <= 10


def test_evaluate_the_same_seed_twice(shared: Inputs, program: Program) -> None:
    arguments = ("evaluate", *shared.folders(), *shared.model(), "--max-objects", "5", "--json")
    first, second = (program(*arguments, "--seed", "1").out for _ in range(2))
    assert first == second
    assert json.loads(first)["objects"] == 5


def test_evaluate_with_an_adapter(shared: Inputs, program: Program) -> None:
    arguments = ("evaluate", *shared.folders(), *shared.model())
    adapter = str(shared / "adapter.safetensors")
    assert "12 objects in 3 images" in program(*arguments, "--adapter", adapter).out


def test_a_stack_is_evaluated_slice_by_slice(inputs: Inputs, program: Program) -> None:
    pixels, labels = scene(0)
    empty = np.zeros_like(labels)
    stacks = {"images": [pixels] * 6, "labels": [labels] * 2 + [empty] * 4}
    for folder, planes in stacks.items():
        path = inputs / folder / "a0.tif"
        tifffile.imwrite(path, np.stack(planes), imagej=True, metadata={"axes": "ZYX"})
    outcome = program("evaluate", *inputs.folders(), *inputs.model(), "--json")
    assert (outcome.json["images"], outcome.json["objects"]) == (4, 16)


# --- embed ---------------------------------------------------------------------------


def test_embed_goes_on_with_what_is_missing(
    shared: Inputs, program: Program, tmp_path: Path
) -> None:
    slide = np.random.default_rng(0).integers(0, 255, (100, 200), np.uint8)
    zarr.create_array(tmp_path / "slide.zarr", data=slide, chunks=(64, 64))
    arguments = ("embed", str(tmp_path / "slide.zarr"), *shared.model(), "--json", "--store")
    first = program(*arguments, str(tmp_path / "store"))
    assert first.code == 0
    tiles = first.json["tiles"]
    assert first.json == {
        "total": 1, "images": 1, "failed": {}, "output": str(tmp_path / "store"),
        "tiles": tiles, "computed": tiles,
    }  # fmt: skip
    assert tiles == 2 * 4
    both = (str(shared / "image.tif"), *arguments[2:])
    again = program("embed", arguments[1], *both, str(tmp_path / "store"))
    assert (again.json["tiles"], again.json["computed"]) == (tiles + 1, 1)


def test_embed_names_what_it_cannot_read(shared: Inputs, program: Program, tmp_path: Path) -> None:
    outcome = program("embed", str(tmp_path / "no.tif"), *shared.model(), "--store", str(tmp_path))
    assert outcome.code == 2
    assert outcome.err.startswith("error:")
    assert "no.tif: no such file" in outcome.err


# --- segment -------------------------------------------------------------------------


def test_segment(shared: Inputs, program: Program, tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    outcome = program(
        "segment", str(shared / "image.tif"), "--prompts", str(shared / "prompts.json"),
        *shared.model(), "--output", str(output), "--json",
    )  # fmt: skip
    assert outcome.code == 0
    labels = tifffile.imread(output)
    assert labels.shape == (40, 48)
    assert labels.dtype == np.uint16
    found = set(np.unique(labels).tolist()) - {0}
    assert found <= {1, 2}
    assert outcome.json["objects"] == 2
    assert set(outcome.json["empty"]) == {1, 2} - found
    assert outcome.json["output"] == str(output)


PROMPTS = {
    "centres": ("centres.csv", "row,col\n10,10\n28,36\n"),
    "outlines": ("old.geojson", None),
    "COCO": ("old.json", None),
    "labels": ("old.tif", None),
}


@pytest.mark.parametrize(("name", "text"), PROMPTS.values(), ids=PROMPTS.keys())
def test_segment_takes_centres_and_old_labels(
    name: str, text: str | None, shared: Inputs, program: Program, tmp_path: Path
) -> None:
    prompts, output = tmp_path / name, tmp_path / "out.tif"
    if text is None:
        old = tifffile.imread(shared / "labels.tif")
        export_labels(np.where(old < 5, old, 0), prompts)
    else:
        prompts.write_text(text)
    outcome = program(
        "segment", shared / "image.tif", "--prompts", prompts, *shared.model(), "--output", output,
        "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.json["objects"] == (4 if text is None else 2)
    assert tifffile.imread(output).shape == (40, 48)


def test_segment_takes_a_mask_by_its_pieces(
    shared: Inputs, program: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mask = (tifffile.imread(shared / "labels.tif") % 9 > 0).astype(np.uint8)
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    arguments = (
        "segment", shared / "image.tif", "--prompts", tmp_path / "mask.tif", *shared.model(),
        "--output", tmp_path / "out.tif", "--json",
    )  # fmt: skip
    assert program(*arguments).json["objects"] == 1
    assert "use --number-pieces" in caplog.text
    assert program(*arguments, "--number-pieces").json["objects"] == 4


def test_one_object_is_no_plural(shared: Inputs, program: Program, tmp_path: Path) -> None:
    prompts, output = tmp_path / "prompts.json", tmp_path / "out.tif"
    prompts.write_text('[{"box": [2, 3, 30, 40]}]')
    outcome = program(
        "segment", str(shared / "image.tif"), "--prompts", str(prompts), *shared.model(),
        "--output", str(output),
    )  # fmt: skip
    assert outcome.out == f"1 object: {output}\n"


def test_segment_answers_like_python(shared: Inputs, program: Program, tmp_path: Path) -> None:
    import napari_peftsam

    image, prompts = shared / "image.tif", shared / "prompts.json"
    adapter = shared / "adapter.safetensors"
    choice = napari_peftsam.ModelChoice(shared / "tiny.pth", adapter, "cpu")
    napari_peftsam.segment_file(image, prompts, tmp_path / "python.tif", choice)
    program(
        "segment", str(image), "--prompts", str(prompts), *shared.model(), "--adapter",
        str(adapter), "--device", "cpu", "--output", str(tmp_path / "program.tif"),
    )  # fmt: skip
    python, shell = (tifffile.imread(tmp_path / f"{n}.tif") for n in ("python", "program"))
    np.testing.assert_array_equal(python, shell)


# --- export --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_name", "name"), [("tiff", "o.tif"), ("ome-zarr", "o.ome.zarr"), ("coco", "o.json")]
)
def test_export(
    format_name: str, name: str, shared: Inputs, program: Program, tmp_path: Path
) -> None:
    output = tmp_path / name
    arguments = ("export", str(shared / "labels.tif"), "--format", format_name)
    outcome = program(*arguments, "--output", str(output), "--json")
    assert outcome.json == {"output": str(output), "format": format_name}
    assert number_of_objects(output) == 5
    assert program(*arguments, "--output", str(output)).code == 0  # again, over the first


def test_export_goes_beside_the_labels(inputs: Inputs, program: Program) -> None:
    outcome = program("export", inputs / "labels.tif", "--format", "csv")
    assert (outcome.code, outcome.out) == (0, f"{inputs / 'labels-objects.csv'}\n")
    several = program("export", inputs / "labels.tif", "--format", "csv,tiff")
    assert several.code == 2
    assert "only a whole project is written in several formats" in several.err


def test_a_grey_image_is_not_exported_as_labels_without_a_word(
    inputs: Inputs, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    assert program("export", inputs / "image.tif", "--format", "csv").code == 0
    [message] = caplog.messages  # which the program prints on standard error
    assert message.startswith(f"{inputs / 'image.tif'}: does not look like labels: ")


def number_of_objects(path: Path) -> int:
    if path.suffix == ".json":
        return len(COCO(path).getAnnIds())
    if path.suffix == ".tif":
        return len(np.unique(tifffile.imread(path))) - 1
    return len(np.unique(np.asarray(zarr.open_group(path, mode="r")["labels/objects/s0"]))) - 1


def test_export_model(shared: Inputs, program: Program, tmp_path: Path) -> None:
    output, adapter = tmp_path / "merged.pth", str(shared / "adapter.safetensors")
    arguments = ("export-model", *shared.model(), "--adapter", adapter, "--output", str(output))
    assert program(*arguments, "--json").json == {"output": str(output)}
    merged = torch.load(output, weights_only=True)
    assert merged.keys() == torch.load(shared / "tiny.pth", weights_only=True).keys()
    assert build(output).architecture.name == "tiny"


def test_a_frame_goes_from_training_to_export(
    shared: Inputs, program: Program, tmp_path: Path
) -> None:
    adapter, merged = tmp_path / "a.safetensors", tmp_path / "merged.pth"
    frame = ("--frame", "32")
    assert program(*finetune(shared, adapter, *frame, "--method", "lora")).code == 0
    assert load_adapter(adapter).base.name == "tiny@32"
    with_adapter = (*shared.model(), "--adapter", str(adapter), *frame)
    assert program("evaluate", *shared.folders(), *with_adapter, "--json").json["objects"] > 0
    assert program("export-model", *with_adapter, "--output", str(merged)).code == 0
    assert build(merged).image_size == 32
    folder, back = tmp_path / "hf", tmp_path / "back.safetensors"
    assert program("export-adapter", *with_adapter, "--output", folder).code == 0
    imported = program("import-adapter", folder, "--output", back, "--json")
    assert imported.json["model"] == "tiny@32"
    assert load_adapter(back).digest == load_adapter(adapter).digest


def test_an_adapter_goes_to_hf_peft_and_comes_back(
    shared: Inputs, program: Program, tmp_path: Path
) -> None:
    folder, back, adapter = (
        tmp_path / "hf",
        tmp_path / "b.safetensors",
        shared / "adapter.safetensors",
    )
    arguments = ("export-adapter", *shared.model(), "--adapter", adapter, "--output", folder)
    for _ in range(2):  # again, over the first
        assert program(*arguments, "--json").json == {"output": str(folder), "format": "hf-peft"}
    assert {"adapter_config.json", "adapter_model.safetensors"} == {
        path.name for path in folder.iterdir()
    }
    outcome = program("import-adapter", folder, "--output", back, "--json")  # it knows its model
    assert outcome.json == {
        "output": str(back), "method": "lora", "rank": 2, "placement": "all",
        "matrices": "attention", "alpha": 1.0, "model": "random-tiny",
    }  # fmt: skip
    assert load_adapter(back).digest == load_adapter(adapter).digest
    told = ("--rank", "2", "--alpha", "1", "--placement", "0-3")
    text = program("import-adapter", folder, *shared.model(), *told, "--output", back)
    assert (text.code, text.err) == (0, "")
    assert text.out.endswith(f"\nadapter: {back}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "image.tif", "--prompts", "prompts.json", "--model", "tiny.pth", "--output",
         "image.tif"),
        ("export", "labels.tif", "--format", "tiff", "--output", "labels.tif"),
        ("export-model", "--model", "tiny.pth", "--adapter", "adapter.safetensors", "--output",
         "tiny.pth"),
        ("import-adapter", "adapter.safetensors", "--output", "adapter.safetensors"),
        ("export-adapter", "--model", "tiny.pth", "--adapter", "adapter.safetensors", "--output",
         "adapter.safetensors"),
    ],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_no_command_writes_over_its_input(
    arguments: tuple[str, ...], inputs: Inputs, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inputs.root)
    before = inputs.contents()
    outcome = program(*arguments)
    assert outcome.code == 2
    assert "is an input of this command" in outcome.err
    assert inputs.contents() == before


# --- demo ----------------------------------------------------------------------------


def test_demo(
    shared: Inputs, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_peftsam.app import demo
    from napari_peftsam.embeddings import grid

    monkeypatch.setattr(grid, "MOST_FRAMES", 100)  # of 64 pixels: each image fits one
    few = partial(demo.DemoConfig, objects_per_image=2, held_out_objects=4)
    monkeypatch.setattr(demo, "DemoConfig", few)
    output = tmp_path / "out"
    outcome = program("demo", *shared.model(), "--output", output, "--budget", "1s", "--json")
    assert outcome.code == 0
    assert outcome.json["simulated_annotator"] is True
    assert {"before", "after", "reloaded", "files"} <= outcome.json.keys()
    assert "simulated" in outcome.err.splitlines()[0]
    assert (output / "report.html").is_file()


# --- the viewer ----------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("open",), ("demo", "--gui")], ids=" ".join)
def test_without_a_display_the_viewer_is_refused(
    arguments: tuple[str, ...], program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(variable, raising=False)
    outcome = program(*arguments)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "no display" in outcome.err


@pytest.mark.skipif(sys.platform != "linux", reason="hides Qt by its file names on Linux")
def test_without_qt_the_extra_is_named() -> None:
    code = (
        "import sys\n"
        "for name in ('PyQt6', 'PySide6', 'PyQt5', 'PySide2'): sys.modules[name] = None\n"
        "from napari_peftsam.cli import main\n"
        "sys.exit(main(['open']))"
    )
    variables = {k: v for k, v in os.environ.items() if k != "QT_API"} | {"DISPLAY": ":7"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=variables
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "napari-peftsam[all]"' in done.stderr
