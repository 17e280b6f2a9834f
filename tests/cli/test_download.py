"""``napari-peftsam download``: one file, one line of progress or of error, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import xxhash

from napari_peftsam.cli.models import received
from napari_peftsam.models import DownloadProgress, build_tiny, find_model
from tests.cli._cases import Program
from tests.models._server import Server, serve

LONG_ENOUGH = 100_000  # bytes: more than a block of a transfer, less than the file


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    torch.save(build_tiny().sam.state_dict(), tmp_path / "tiny.pt")
    with serve((tmp_path / "tiny.pt").read_bytes()) as running:
        yield running


@pytest.fixture
def models(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """List the server's file as the user's model ``cells``; return the folder of models."""
    monkeypatch.setenv("NAPARI_PEFTSAM_CONFIG", str(tmp_path))
    monkeypatch.setenv("NAPARI_PEFTSAM_MODELS", str(tmp_path / "models"))
    digest = xxhash.xxh128_hexdigest(server.does.content)
    (tmp_path / "models.toml").write_text(
        f'[[model]]\nname = "cells"\nurl = "{server.url}"\nxxh128 = "{digest}"\n'
    )
    return tmp_path / "models"


def target() -> Path:
    entry = find_model("cells")
    assert entry is not None
    return entry.target()


def part_size() -> int:
    part = target().with_name(f"{target().name}.part")
    return part.stat().st_size if part.exists() else 0


def test_a_downloaded_model_can_be_used(models: Path, program: Program) -> None:
    first, second = (program("download", "cells", "--json") for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    path = str(target())
    assert path.startswith(str(models))
    assert first.json == {"name": "cells", "part": "encoder", "path": path, "downloaded": True}
    assert second.json == {**first.json, "downloaded": False}
    listed = {entry["name"]: entry for entry in program("models", "--json").json["models"]}
    assert (listed["cells"]["available"], listed["cells"]["path"]) == (True, path)


def test_a_model_that_is_here_is_not_downloaded(
    models: Path, program: Program, server: Server
) -> None:
    assert program("download", "cells").out == f"downloaded: {target()}\n"
    server.does.requests.clear()
    outcome = program("download", "cells")
    assert (outcome.code, outcome.out, outcome.err) == (0, f"already here: {target()}\n", "")
    assert server.does.requests == []


def test_the_built_in_model_is_always_here(program: Program) -> None:
    outcome = program("download", "builtin")
    assert (outcome.code, outcome.out.startswith("already here: ")) == (0, True)


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [(404, None, "it is not there"), (500, None, "try again later"), (200, b"other", "digest")],
    ids=["not there", "server broken", "wrong bytes"],
)
def test_one_line_and_no_model(
    status: int, content: bytes | None, words: str, models: Path, program: Program, server: Server
) -> None:
    server.does.status = status
    server.does.content = content or server.does.content
    outcome = program("download", "cells")
    assert (outcome.code, outcome.out) == (2, "")
    assert (outcome.err.startswith("error: "), outcome.err.count("\n")) == (True, 1)
    assert words in outcome.err
    assert not target().exists()


@pytest.mark.parametrize("command", [("models",), ("download", "cells")], ids=" ".join)
def test_a_wrong_list_of_own_models(
    command: tuple[str, ...], models: Path, program: Program
) -> None:
    (models.parent / "models.toml").write_text("[[model]]\nname = 3\n")
    outcome = program(*command)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "models.toml, model 1 (3): name must be a text" in outcome.err


def test_the_next_command_goes_on(models: Path, program: Program, server: Server) -> None:
    server.does.cut = LONG_ENOUGH
    outcome = program("download", "cells")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    size = part_size()
    server.does.cut = None
    assert program("download", "cells").code == 0
    assert size > 0
    assert server.does.asked_from == [0, size]


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        pytest.param((1_500_000, None), "1.5 MB", id="unknown length"),
        pytest.param((1_500_000, 2_000_000), "1.5 of 2.0 MB", id="known length"),
        pytest.param(
            (2_000_000, 2_000_000, 500_000), "2.0 of 2.0 MB, 0.5 MB verified", id="verifying"
        ),
    ],
)
def test_the_progress_in_words(progress: tuple[int, int | None], text: str) -> None:
    assert received(DownloadProgress(*progress)) == text


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_interrupted_it_keeps_what_came(models: Path, program: Program, server: Server) -> None:
    server.does.stall = LONG_ENOUGH
    command = [sys.executable, "-m", "napari_peftsam", "download", "cells"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert server.does.stalled.wait(100)
        while not part_size():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "what has come is kept: the same command goes on from there" in err
    assert "Traceback" not in err
    size = part_size()
    server.does.stall = None
    assert program("download", "cells").code == 0
    assert server.does.asked_from == [0, size]
    assert target().read_bytes() == server.does.content
