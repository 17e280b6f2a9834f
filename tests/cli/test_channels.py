"""Images of several channels: an adapter is used with the channels that it was trained with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_peftsam.peft import load_adapter
from tests.cli._cases import Inputs, Program, scene


@pytest.fixture
def several(inputs: Inputs) -> Inputs:
    """Return inputs whose images have a second, empty-looking channel in front."""
    for path in [*(inputs / "images").iterdir(), inputs / "image.tif"]:
        grey = tifffile.imread(path)
        both = np.stack([scene(7)[0].T[:40, :40].repeat(2, 1)[:, :48], grey])
        path.unlink()
        details = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}
        tifffile.imwrite(path.with_suffix(".ome.tif"), both, metadata=details, ome=True)
    return inputs


def trained(several: Inputs, program: Program, *channels: str) -> Path:
    output = several / "adapter.safetensors"
    outcome = program(
        "finetune", *several.folders(), *several.model(), "--steps", "1", "--method", "lora",
        *channels, "--output", output,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return output


def segmented(several: Inputs, program: Program, name: str, *options: object) -> np.ndarray:
    output = several / f"{name}.tif"
    outcome = program(
        "segment", several / "image.ome.tif", "--prompts", several / "prompts.json",
        *several.model(), *options, "--output", output,
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    return tifffile.imread(output)


def test_an_adapter_is_used_with_its_own_channels(several: Inputs, program: Program) -> None:
    adapter = trained(several, program, "--channels", "GFP")
    assert load_adapter(adapter).channels == "GFP"
    own = segmented(several, program, "own", "--adapter", adapter)
    asked = segmented(several, program, "asked", "--adapter", adapter, "--channels", "1")
    np.testing.assert_array_equal(own, asked)


def test_training_and_evaluation_go_on_with_them(several: Inputs, program: Program) -> None:
    adapter = trained(several, program, "--channels", "GFP")
    evaluated = program("evaluate", *several.folders(), *several.model(), "--adapter", adapter)
    assert evaluated.code == 0, evaluated.err
    again = trained(several, program, "--adapter", str(adapter))
    assert load_adapter(again).channels == "GFP"


def test_other_channels_than_its_own_are_named(
    several: Inputs, program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = trained(several, program, "--channels", "GFP")
    outcome = program(
        "evaluate", *several.folders(), *several.model(), "--adapter", adapter,
        "--channels", "DAPI",
    )  # fmt: skip
    assert outcome.code == 0
    assert "was trained with the channels GFP, not with DAPI" in caplog.text


def test_without_a_choice_the_channels_are_asked_for(several: Inputs, program: Program) -> None:
    outcome = program("evaluate", *several.folders(), *several.model())
    assert outcome.code == 2
    assert "0 DAPI, 1 GFP" in outcome.err


def test_one_channel_is_no_choice_to_remember(inputs: Inputs, program: Program) -> None:
    adapter = trained(inputs, program, "--channels", "0")
    assert load_adapter(adapter).channels == ""
