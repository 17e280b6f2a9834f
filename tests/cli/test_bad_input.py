"""What a user can get wrong: exit code 2, one clear line, nothing written, nothing lost."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import save_file

from napari_peftsam.models import build, build_tiny
from napari_peftsam.peft import (
    capture,
    export_hf_peft,
    inject,
    load_adapter,
    parse_method_config,
    save_adapter,
)
from tests.cli._cases import Inputs, Program, scene
from tests.models._mobile_sam import checkpoint

Spoil = Callable[[Inputs], object]


def finetune(i: Inputs, *more: str) -> tuple[str, ...]:
    output = str(i / "out.safetensors")
    return ("finetune", *i.folders(), *i.model(), "--steps", "1", "--output", output, *more)


def evaluate(i: Inputs, *more: str) -> tuple[str, ...]:
    return ("evaluate", *i.folders(), *i.model(), *more)


def segment(i: Inputs, *more: str) -> tuple[str, ...]:
    prompts, output = str(i / "prompts.json"), str(i / "out.tif")
    return ("segment", str(i / "image.tif"), "--prompts", prompts, *i.model(), "--output", output,
            *more)  # fmt: skip


def segment_with_adapter(i: Inputs) -> tuple[str, ...]:
    return segment(i, "--adapter", str(i / "adapter.safetensors"))


def export(i: Inputs, *more: str) -> tuple[str, ...]:
    return ("export", str(i / "labels.tif"), "--format", "tiff", "--output", str(i / "out.tif"),
            *more)  # fmt: skip


def export_model(i: Inputs, *more: str) -> tuple[str, ...]:
    adapter, output = str(i / "adapter.safetensors"), str(i / "out.pth")
    return ("export-model", *i.model(), "--adapter", adapter, "--output", output, *more)


def methods(i: Inputs, *more: str) -> tuple[str, ...]:
    return ("methods", *more)


def export_adapter(i: Inputs, *more: str) -> tuple[str, ...]:
    adapter, output = str(i / "adapter.safetensors"), str(i / "hf")
    return ("export-adapter", *i.model(), "--adapter", adapter, "--output", output, *more)


def import_adapter(i: Inputs, *more: str) -> tuple[str, ...]:
    output = str(i / "out.safetensors")
    return ("import-adapter", str(i / "hf"), *i.model(), "--output", output, *more)


def exported(change: Spoil = lambda _: None) -> Spoil:
    """Return what exports the adapter, and then spoils the folder."""

    def spoil(i: Inputs) -> None:
        adapter = load_adapter(i / "adapter.safetensors")
        export_hf_peft(build(i / "tiny.pth"), adapter, i / "hf")
        change(i)

    return spoil


def of_another_method(i: Inputs) -> None:
    config = parse_method_config({"method": "adaptformer", "bottleneck": 4})
    with inject(build(i / "tiny.pth"), config) as injection:
        save_adapter(capture(injection), i / "adapter.safetensors")


def write_image(name: str, pixels: np.ndarray) -> Spoil:
    return lambda i: tifffile.imwrite(i / name, pixels)


def write_text(name: str, text: str) -> Spoil:
    return lambda i: (i / name).write_text(text)


def prompts(*objects: object) -> Spoil:
    return lambda i: (i / "prompts.json").write_text(json.dumps(objects))


def remove(name: str) -> Spoil:
    return lambda i: shutil.rmtree(i / name) if (i / name).is_dir() else (i / name).unlink()


def truncate(name: str) -> Spoil:
    return lambda i: (i / name).write_bytes((i / name).read_bytes()[:200])


def rename_labels(i: Inputs) -> None:
    for path in (i / "labels").iterdir():
        path.rename(path.with_name(f"other-{path.name}"))


def empty_labels(i: Inputs) -> None:
    for path in (i / "labels").iterdir():
        tifffile.imwrite(path, EMPTY)


def wrong_architecture(i: Inputs) -> None:
    state = build_tiny().sam.state_dict()
    torch.save({k: v for k, v in state.items() if ".blocks.3." not in k}, i / "tiny.pth")


def nothing(i: Inputs) -> None:
    pass


EMPTY = np.zeros((40, 48), np.uint8)
NAN = np.full((40, 48), np.nan, np.float32)

# what is wrong: how the inputs are spoiled, the command, its last options, words of the message
CASES: dict[str, tuple[Spoil, Callable[..., tuple[str, ...]], tuple[str, ...], str]] = {
    # files and folders
    "missing image folder": (remove("images"), finetune, (), "no such folder"),
    "missing label folder": (remove("labels"), evaluate, (), "no such folder"),
    "no pairs": (rename_labels, finetune, (), "has labels of the same name"),
    "no pairs to evaluate": (rename_labels, evaluate, (), "has labels of the same name"),
    "missing image": (remove("image.tif"), segment, (), "no such file"),
    "unreadable image": (write_text("image.tif", "no TIFF"), segment, (), "cannot be read"),
    "truncated image": (truncate("images/a1.tif"), finetune, (), "a1.tif"),
    "unreadable labels": (write_text("labels/a1.tif", "no TIFF"), evaluate, (), "cannot be read"),
    "missing labels to export": (remove("labels.tif"), export, (), "no such file"),
    # images and labels
    "other shape": (write_image("labels/a1.tif", EMPTY[:9] + 1), finetune, (), "a1"),
    "other shape to evaluate": (write_image("labels/a1.tif", EMPTY[:9] + 1), evaluate, (), "a1"),
    "float labels": (write_image("labels/a1.tif", NAN), finetune, (), "whole numbers"),
    "float labels to evaluate": (write_image("labels/a0.tif", NAN), evaluate, (), "whole numbers"),
    "float labels to export": (write_image("labels.tif", NAN), export, (), "whole numbers"),
    "empty labels": (empty_labels, finetune, (), "no label image holds an object"),
    "empty labels to evaluate": (empty_labels, evaluate, (), "no label image holds an object"),
    "empty labels to export": (write_image("labels.tif", EMPTY), export, (), "no object"),
    "NaN image": (write_image("images/a1.tif", NAN), finetune, (), "a1.tif: the image has no fin"),
    "NaN image to evaluate": (write_image("images/a1.tif", NAN), evaluate, (), "no finite value"),
    "NaN image to segment": (write_image("image.tif", NAN), segment, (), "no finite value"),
    "constant image": (write_image("images/a0.tif", EMPTY), finetune, (), "a0.tif: the image is c"),
    "constant image to evaluate": (write_image("images/a0.tif", EMPTY), evaluate, (), "constant"),
    "constant image to segment": (
        write_image("image.tif", EMPTY), segment, (), "image.tif: the image is constant",
    ),
    "empty image": (write_text("image.tif", ""), segment, (), "image.tif: is empty (0 bytes)"),
    "unknown image to check on": (
        nothing, finetune, ("--check-on", "nix"), "there is no image 'nix' to check on: choose one",
    ),
    "unknown image to leave out": (
        nothing, finetune, ("--leave-out", "nix"), "there is no image 'nix' to leave out: choose",
    ),
    "image without objects to check on": (
        write_image("labels/a1.tif", EMPTY), finetune, ("--check-on", "a1"),
        "the image 'a1' to check on has no object: choose one of 'a0', 'a2'",
    ),
    "stack to segment": (
        write_image("image.tif", np.stack([scene(0)[0]] * 7)), segment, (),
        "is a stack of shape (7, 40, 48): save one plane of it, or, if these are channels, say --",
    ),
    # names and numbers
    "unknown model": (nothing, finetune, ("--model", "vit_x"), "unknown model 'vit_x'"),
    "unknown model to evaluate": (nothing, evaluate, ("--model", "vit_x"), "unknown model"),
    "unknown model to segment": (nothing, segment, ("--model", "vit_x"), "unknown model"),
    "unknown model to export": (nothing, export_model, ("--model", "vit_x"), "unknown model"),
    "absent model": (nothing, evaluate, ("--model", "vit_h"), "not on this computer"),
    "unknown model to download": (nothing, lambda i: ("download", "vit_x"), (), "one of builtin"),
    "no decoder to download": (
        nothing, lambda i: ("download", "vit_b", "--decoder"), (), "has no decoder",
    ),
    "unknown method": (nothing, finetune, ("--method", "lorra"), "lora, cobot-lora, rslora"),
    "method that does not suit the model": (
        lambda i: torch.save(checkpoint(), i / "tiny.pth"), finetune, ("--method", "lora"),
        "not available for vit_t, into whose image encoder no adapters fit: choose the method froz",
    ),
    "unknown placement": (nothing, finetune, ("--placement", "middle"), "placement 'middle'"),
    "block out of range": (nothing, finetune, ("--placement", "0,7"), "block 7"),
    "unknown format": (nothing, export, ("--format", "bmp"), "'bmp': choose one of tiff, ome-zarr"),
    "unknown device": (nothing, finetune, ("--device", "tpu"), "unknown device 'tpu'"),
    "unknown recipe": (
        nothing, finetune, ("--recipe", "best"), "unknown recipe 'best': choose one of recommended",
    ),
    "recipe and rank": (
        nothing, finetune, ("--recipe", "cobot", "--rank", "4"), "leave out --recipe, or the",
    ),
    "recipe that does not fit": (
        nothing, finetune, ("--recipe", "peft-sam"), "rank 32 is larger than the width 16",
    ),
    "rank 0": (nothing, finetune, ("--method", "lora", "--rank", "0"), "at least 1"),
    "negative rank": (nothing, finetune, ("--rank", "-4"), "at least 4"),
    "rank 6 with COBOT": (nothing, finetune, ("--rank", "6"), "divisible by 4"),
    "rank is no number": (nothing, finetune, ("--rank", "many"), "--rank"),
    "checkpoint as the adapter": (
        nothing, lambda i: finetune(i, "--adapter", str(i / "tiny.pth")), (),
        "tiny.pth is a checkpoint of torch, not an adapter file",
    ),
    "rank of a method without": (
        nothing, finetune, ("--method", "frozen-encoder", "--rank", "8"),
        "unknown option 'rank', allowed are tune_mask_decoder, tune_prompt_encoder, decoder_lora",
    ),
    "bottleneck of a method without": (
        nothing, finetune, ("--bottleneck", "8"), "unknown option 'bottleneck', allowed are ",
    ),
    "bottleneck 6 with COBOT": (
        nothing, finetune, ("--method", "adaptformer", "--cobot", "--bottleneck", "6"),
        "method cobot-adaptformer: option 'bottleneck' is 6, allowed is a number divisible by 4",
    ),
    "rank beyond a layer": (
        nothing, finetune, ("--method", "lora", "--rank", "17"), "rank 17",
    ),
    "unknown matrices": (nothing, finetune, ("--matrices", "q,o"), "matrices 'q,o' are not known"),
    "COBOT on a method without": (
        nothing, finetune, ("--method", "dora", "--cobot"), "choose one of lora, adaptformer",
    ),
    "qlora without CUDA": (
        nothing, finetune, ("--method", "qlora", "--rank", "2", "--device", "cpu"),
        "needs an NVIDIA GPU",
    ),
    "a setting without a value": (nothing, finetune, ("--set", "init"), "takes NAME=VALUE"),
    "a setting without a name": (nothing, finetune, ("--set", "=3"), "takes NAME=VALUE"),
    "an unknown setting": (
        nothing, finetune, ("--set", "share=false"), "unknown option 'share', allowed are tune_m",
    ),
    "a setting that is no number": (
        nothing, finetune, ("--set", "lora_plus_ratio=much"), "'lora_plus_ratio' is 'much'",
    ),
    "a setting that is none of its choices": (
        nothing, finetune, ("--set", "init=zero"), "one of 'neutral' or 'official'",
    ),
    "a setting and its option": (
        nothing, finetune, ("--rank", "4", "--set", "rank=8"), "the option rank is given twice",
    ),
    "the method as a setting": (nothing, finetune, ("--set", "method=lora"), "by --method"),
    "unknown method to show": (nothing, methods, ("--method", "lorra"), "lora, cobot-lora, rslora"),
    "unknown architecture": (nothing, methods, ("--architecture", "vit_x"), "vit_b, vit_h, vit_l"),
    "rank of a method without to show": (
        nothing, methods, ("--method", "ssf", "--rank", "8"), "unknown option 'rank', allowed are ",
    ),
    "rank 6 with COBOT to show": (
        nothing, methods, ("--method", "lora", "--cobot", "--rank", "6"), "divisible by 4",
    ),
    "a rank that fits no method": (nothing, methods, ("--rank", "0"), "allowed is at least 1"),
    "a rank that fits no orchestrated method": (
        nothing, methods, ("--cobot", "--rank", "6"), "divisible by 4",
    ),
    "a block that no method finds": (nothing, methods, ("--placement", "9"), "names block 9"),
    "a setting that no method has": (
        nothing, methods, ("--set", "share=false"), "no method has the option 'share': there are ",
    ),
    "a setting that no orchestrated method has": (
        nothing, methods, ("--cobot", "--set", "shared=false"), "no method has the option 'shared'",
    ),
    "alpha 0": (nothing, finetune, ("--alpha", "0"), "alpha"),
    "images without end": (
        nothing, finetune, ("--images-per-step", "100000000000"), "--images-per-step",
    ),
    "learning rate 0": (nothing, finetune, ("--learning-rate", "0"), "learning_rate"),
    "two budgets": (nothing, finetune, ("--budget", "9s"), "--steps and --budget"),
    "no steps": (nothing, finetune, ("--steps", "0"), "--steps"),
    "seed beyond 64 bits": (nothing, finetune, ("--seed", str(2**64)), "seed"),
    "negative seed": (nothing, evaluate, ("--seed", "-1"), "--seed"),
    "no objects": (nothing, evaluate, ("--max-objects", "0"), "--max-objects"),
    "unknown option": (nothing, evaluate, ("--rnak", "8"), "--rnak"),
    # models and adapters
    "wrong architecture": (wrong_architecture, finetune, (), "3 blocks"),
    "wrong architecture to segment": (wrong_architecture, segment, (), "3 blocks"),
    "damaged checkpoint": (truncate("tiny.pth"), evaluate, (), "not a readable checkpoint"),
    "adapter for another base": (
        lambda i: shutil.copy(i / "other.pth", i / "tiny.pth"),
        lambda i: segment(i, "--adapter", str(i / "adapter.safetensors")), (), "trained on",
    ),
    "adapter for another base to go on from": (
        lambda i: shutil.copy(i / "other.pth", i / "tiny.pth"),
        lambda i: finetune(i, "--adapter", str(i / "adapter.safetensors")), (), "trained on",
    ),
    "adapter for another base to merge": (
        lambda i: shutil.copy(i / "other.pth", i / "tiny.pth"), export_model, (), "trained on",
    ),
    "truncated adapter": (truncate("adapter.safetensors"), export_model, (), "damaged"),
    "truncated adapter to evaluate": (
        truncate("adapter.safetensors"),
        lambda i: evaluate(i, "--adapter", str(i / "adapter.safetensors")), (), "damaged",
    ),
    "missing adapter": (remove("adapter.safetensors"), export_model, (), "no adapter file"),
    "method against the adapter's": (
        nothing,
        lambda i: finetune(i, "--adapter", str(i / "adapter.safetensors")),
        ("--method", "cobot-lora"), "was trained with method lora",
    ),
    "rank against the adapter's": (
        nothing,
        lambda i: finetune(i, "--adapter", str(i / "adapter.safetensors"), "--rank", "8"),
        (), "rank 2",
    ),
    "COBOT against the adapter's": (
        nothing,
        lambda i: finetune(i, "--adapter", str(i / "adapter.safetensors")),
        ("--cobot",), "was trained with method lora",
    ),
    # adapters of other programs
    "method that HF peft does not have": (
        of_another_method, export_adapter, (), "AdaptFormer is no low-rank update of linear layers",
    ),
    "unknown exchange format": (
        nothing, export_adapter, ("--format", "onnx"),
        "unknown format 'onnx': choose one of hf-peft",
    ),
    "missing adapter to export": (
        remove("adapter.safetensors"), export_adapter, (), "no adapter file",
    ),
    "adapter for another base to export": (
        lambda i: shutil.copy(i / "other.pth", i / "tiny.pth"), export_adapter, (), "trained on",
    ),
    "adapter over a folder of others": (
        exported(write_text("hf/mine.txt", "precious")), export_adapter, (),
        "it holds other files than an export of napari-peftsam and is not replaced",
    ),
    "adapter folder over a file": (
        write_text("hf", ""), export_adapter, (), "a file of this name exists and a folder cannot",
    ),
    "nothing to import": (nothing, import_adapter, (), "no such file or folder"),
    "folder to import that is none": (
        lambda i: (i / "hf").mkdir(), import_adapter, (), "has no adapter_config.json",
    ),
    "adapter file to import": (
        lambda i: shutil.copy(i / "adapter.safetensors", i / "hf.safetensors"),
        lambda i: ("import-adapter", str(i / "hf.safetensors")),
        ("--output", "out.safetensors"), "is an adapter file of napari-peftsam already",
    ),
    "model to import": (
        lambda i: shutil.copy(i / "tiny.pth", i / "hf"), import_adapter, (),
        "is not a folder: choose a folder that HF peft or export-adapter wrote",
    ),
    "rank against the import's": (
        exported(), import_adapter, ("--rank", "4"), "hf has rank 2, but 4 was given",
    ),
    "placement against the import's": (
        exported(), import_adapter, ("--placement", "last"),
        "hf adapts all blocks, but the placement last (3) was given",
    ),
    "import for another base": (
        exported(), import_adapter, ("--model", "other.pth"), "was trained on random-tiny",
    ),
    "import over its source": (
        exported(), import_adapter, ("--output", "hf/adapter_model.safetensors"),
        "is an input of this command",
    ),
    "wrong ending of an import": (exported(), import_adapter, ("--output", "a.pt"), ".safetensors"),
    # prompts
    "missing prompts": (remove("prompts.json"), segment, (), "No such file"),
    "prompts are no JSON": (write_text("prompts.json", "[{"), segment, (), "not valid JSON"),
    "prompts are no text": (
        lambda i: (i / "prompts.json").write_bytes(b"\xff\xfe\x00"), segment, (), "not valid JSON",
    ),
    "prompts are no list": (write_text("prompts.json", "{}"), segment, (), "must hold a list"),
    "no prompts": (prompts(), segment, (), "an empty list"),
    "an object that is none": (prompts({"box": [1, 1, 5, 5]}, 3), segment, (), "object 2 must be"),
    "neither points nor box": (prompts({"points": []}), segment, (), "object 1 has neither"),
    "unknown key": (prompts({"boxes": []}), segment, (), "object 1 has an unknown key 'boxes'"),
    "points are no list": (prompts({"points": 3}), segment, (), "object 1: points must be a list"),
    "three coordinates": (prompts({"points": [[1, 2, 3]]}), segment, (), "object 1: point 1 must"),
    "a text as coordinate": (prompts({"points": [["1", 2]]}), segment, (), "point 1 must be 2 num"),
    "NaN as coordinate": (prompts({"points": [[float("nan"), 2]]}), segment, (), "point 1 must be"),
    "too few labels": (
        prompts({"points": [[1, 2], [3, 4]], "labels": [1]}), segment, (), "2 points but 1 labels",
    ),
    "only negative points": (
        prompts({"points": [[1, 2]], "labels": [0]}), segment, (), "object 1 has only points that",
    ),
    "label 2": (prompts({"points": [[1, 2]], "labels": [2]}), segment, (), "labels must be a list"),
    "labels without points": (prompts({"labels": [1]}), segment, (), "0 points but 1 labels"),
    "three edges": (prompts({"box": [1, 2, 3]}), segment, (), "object 1: the box must be 4 num"),
    "box upside down": (prompts({"box": [9, 9, 1, 1]}), segment, (), "object 1: a box needs row0"),
    "point outside": (
        prompts({"points": [[1, 1]]}, {"points": [[40, 3]]}), segment, (), "object 2: the point",
    ),
    "box outside": (prompts({"box": [50, 1, 60, 9]}), segment, (), "object 1: the box"),
    # outputs
    "no such output folder": (nothing, finetune, ("--output", "no/where.safetensors"), "no folder"),
    "wrong ending of an adapter": (nothing, finetune, ("--output", "a.pth"), ".safetensors"),
    "wrong ending of a checkpoint": (nothing, export_model, ("--output", "a.zip"), ".pth"),
    "wrong ending of labels": (nothing, segment, ("--output", "a.png"), ".tif"),
    "wrong ending of an export": (nothing, export, ("--output", "a.json"), "not written to .json"),
    "export over its input": (
        lambda i: shutil.copy(i / "labels.tif", i / "mine.tif"),
        lambda i: ("export", "mine.tif", "--format", "tiff"),
        ("--output", "mine"), "is an input of this command",
    ),
    "adapter over its base": (
        lambda i: save_file(build_tiny().sam.state_dict(), i / "base.safetensors"),
        finetune, ("--model", "base.safetensors", "--output", "base.safetensors"),
        "is an input of this command",
    ),
    "output is a folder": (
        lambda i: (i / "out.tif").mkdir(), segment, (), "it is a folder",
    ),
    "export over a folder": (
        lambda i: (i / "out.tif").mkdir(), export, (), "folder",
    ),
    "demo over a file": (
        write_text("out", ""),
        lambda i: ("demo", *i.model(), "--output", str(i / "out")), (), "cannot make the folder",
    ),
    "demo without a parent": (
        nothing, lambda i: ("demo", "--output", str(i / "no" / "where")), (), "cannot make the fol",
    ),
    "demo in no time": (nothing, lambda i: ("demo", "--budget", "soon"), (), "the time 'soon'"),
    # frames of models
    **{
        f"frame of 600 in {name}": (
            nothing, command, ("--frame", "600"), "600 pixels: choose 64, 48 or 32",
        )
        for name, command in {
            "finetune": finetune, "evaluate": evaluate, "segment": segment,
            "export-model": export_model, "export-adapter": export_adapter,
        }.items()
    },
    "frame of 600 in import-adapter": (
        exported(), import_adapter, ("--frame", "600"), "600 pixels: choose 64, 48 or 32",
    ),
    "frame of 600 in embed": (
        nothing, lambda i: ("embed", str(i / "images"), *i.model()), ("--frame", "600"),
        "600 pixels: choose 64, 48 or 32",
    ),
    "frame of the built-in model": (
        nothing, lambda i: ("embed", str(i / "images")), ("--frame", "512"),
        "builtin has a frame of 384 pixels and no other, not 512: load it without a frame",
    ),
    "frame that is no number": (nothing, segment, ("--frame", "big"), "--frame"),
    "frame of an adapter": (
        nothing, segment_with_adapter, ("--frame", "32"), "the model is tiny@32",
    ),
    # the rest of the command line
    "unknown command": (nothing, lambda i: ("segmnt",), (), "segmnt"),
    "missing option": (nothing, lambda i: ("segment", str(i / "image.tif")), (), "--output"),
    "missing argument": (nothing, lambda i: ("export",), (), "Missing argument"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "command", "more", "words"), CASES.values(), ids=CASES.keys())
def test_one_line_and_nothing_written(
    spoil: Spoil,
    command: Callable[..., tuple[str, ...]],
    more: tuple[str, ...],
    words: str,
    inputs: Inputs,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(inputs.root)  # relative outputs would appear here
    spoil(inputs)
    before = inputs.contents()
    outcome = program(*command(inputs), *more)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
    assert inputs.contents() == before


def test_a_missing_argument_is_named(program: Program) -> None:
    # typer 0.26 writes it in capitals.
    assert re.fullmatch(r"error: Missing argument '(labels|LABELS)'\.\n", program("export").err)


BUDGETS = ("0", "-5s", "soon", "", "5 weeks", "nan")


@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets_that_are_no_time(budget: str, inputs: Inputs, program: Program) -> None:
    arguments = [a for a in finetune(inputs) if a not in ("--steps", "1")]
    outcome = program(*arguments, f"--budget={budget}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"the time {budget!r}" in outcome.err


# command, what it writes, and how many bytes the disk has left
WRITERS = {
    "segment": (segment, "out.tif", 200),
    "export": (export, "out.tif", 200),
    "export-model": (export_model, "out.pth", 5000),
    "finetune": (finetune, "out.safetensors", 5000),
    "import-adapter": (import_adapter, "out.safetensors", 5000),
}


@pytest.mark.parametrize(("command", "name", "left"), WRITERS.values(), ids=WRITERS.keys())
def test_a_full_disk_leaves_the_previous_file(
    command: Callable[..., tuple[str, ...]], name: str, left: int, inputs: Inputs, program: Program
) -> None:
    exported()(inputs)
    (inputs / name).write_bytes(b"precious")
    before = inputs.contents()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, limits[1]))  # as if the disk were full
    try:
        outcome = program(*command(inputs))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.code == 2
    assert "cannot write" in outcome.err.splitlines()[-1]
    assert inputs.contents() == before


def test_a_full_disk_leaves_the_previous_export(inputs: Inputs, program: Program) -> None:
    exported()(inputs)
    before = inputs.contents()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        outcome = program(*export_adapter(inputs))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "cannot write" in outcome.err
    assert inputs.contents() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize(("command", "name", "_left"), WRITERS.values(), ids=WRITERS.keys())
def test_a_folder_that_may_not_be_written(
    command: Callable[..., tuple[str, ...]], name: str, _left: int, inputs: Inputs, program: Program
) -> None:
    inputs.root.chmod(0o500)
    try:
        outcome = program(*command(inputs))
    finally:
        inputs.root.chmod(0o700)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert not (inputs / name).exists()


def test_nothing_of_a_file_reaches_the_terminal_raw(inputs: Inputs, program: Program) -> None:
    name = "x\x1b]0;owned\x07\n" + "y" * 150 + ".tif"
    (inputs / name).write_bytes(b"abc")
    outcome = program("embed", inputs / name, *inputs.model())
    assert outcome.code == 2
    assert r"x\x1b]0;owned\x07" in outcome.err
    assert "\x1b" not in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert len(outcome.err) <= 401


def test_a_trained_adapter_is_kept_when_its_disk_is_full(
    inputs: Inputs, program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refuge = tmp_path / "refuge"
    refuge.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(refuge))
    output = inputs / "folder" / "out.safetensors"
    output.parent.mkdir()

    def remove_folder(*_: object) -> bool:
        shutil.rmtree(output.parent, ignore_errors=True)  # the disk goes away while training
        return False

    from napari_peftsam.app.choice import ModelChoice
    from napari_peftsam.app.folders import finetune_folders
    from napari_peftsam.errors import ExportError
    from napari_peftsam.training import TrainingConfig

    with pytest.raises(ExportError, match="the trained adapter was kept at"):
        finetune_folders(
            inputs / "images", inputs / "labels", output, TrainingConfig(steps=1),
            ModelChoice(inputs / "tiny.pth"), remove_folder,
        )  # fmt: skip
    [kept] = refuge.glob("*/*.safetensors")
    assert kept.parent.stat().st_mode & 0o077 == 0, "for the user alone"
    assert load_adapter(kept).config.method == "cobot-lora"
