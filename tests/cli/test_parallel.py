"""The program under torchrun: one result, one message."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from napari_peftsam.peft import load_adapter
from tests.cli._cases import Inputs, Program

ROOT = Path(__file__).parents[2]


def torchrun(module: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run two processes on the CPU."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", module, *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


def finetune(inputs: Inputs, output: Path, *more: str) -> tuple[str, ...]:
    return (
        "finetune", *inputs.folders(), *inputs.model(), "--output", str(output), "--steps", "3",
        "--device", "cpu", "--json", *more,
    )  # fmt: skip


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_two_processes_write_and_tell_one_result(shared: Inputs, tmp_path: Path) -> None:
    output = tmp_path / "two.safetensors"
    done = torchrun("napari_peftsam", *finetune(shared, output, "--method", "cobot-lora"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3
    assert done.stderr.count("training 13,742 parameters") == 1
    assert load_adapter(output).provenance["training"]["images_per_step"] == 2


def test_where_one_process_fails_all_end_with_its_message(shared: Inputs, tmp_path: Path) -> None:
    output = tmp_path / "none.safetensors"
    done = torchrun("tests.cli._failing_rank", *finetune(shared, output), FAILING_RANK="1")
    assert done.returncode != 0
    assert errors(done.stderr) == ["error: this one has failed"]
    assert not output.exists()


def test_an_error_that_all_have_is_told_once(shared: Inputs, tmp_path: Path) -> None:
    output = tmp_path / "none.safetensors"
    done = torchrun("napari_peftsam", *finetune(shared, output, "--epochs", "1"))
    assert done.returncode != 0
    assert errors(done.stderr) == ["error: got --steps and --epochs: give only one of them"]


def test_fewer_images_than_processes_are_refused(
    shared: Inputs, tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    outcome = program(*finetune(shared, tmp_path / "a.safetensors", "--images-per-step", "3"))
    assert outcome.code == 2
    assert "there are 4 processes, but 3 images per step" in outcome.err
