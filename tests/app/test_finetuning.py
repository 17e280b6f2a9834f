"""A finetuning run belongs to the project and the model that it was started with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import napari_peftsam as ps
from napari_peftsam.app.finetuning import DocumentRun, train
from napari_peftsam.models import build_tiny
from tests.app._cases import TRAINING
from tests.training._world import finish, make_plane


@pytest.fixture
def annotated(app: ps.App, useless: Path) -> ps.App:
    """Return an app with objects, and a live adapter that any training beats."""
    app.document.do(ps.ImportLabels(app.images["discs"].id, make_plane("discs").labels))
    app.workspace.load_adapter(useless)
    return app


def other_project(app: ps.App, folder: Path) -> None:
    app.document.open(ps.create_project(folder / "other.peftsam"))


def other_model(app: ps.App, folder: Path) -> None:
    torch.save(build_tiny(seed=5).sam.state_dict(), folder / "other.pth")
    app.load_model(folder / "other.pth", "cpu")


@pytest.mark.parametrize(
    ("replace", "what"),
    [
        pytest.param(other_project, "project", id="another project"),
        pytest.param(other_model, "model", id="another model"),
    ],
)
def test_a_result_never_lands_in_what_took_its_place(
    annotated: ps.App, tmp_path: Path, replace: Callable[[ps.App, Path], None], what: str
) -> None:
    workspace, document = annotated.workspace, annotated.document
    run = DocumentRun(workspace, TRAINING)
    events = run.events(train(run.prepare()))
    next(events)
    replace(annotated, tmp_path)
    runs, adapters = document.runs, document.adapters
    finish(events)
    assert run.result is not None
    assert run.result.improved
    assert run.entry is None
    assert run.replaced == what
    assert (document.runs, document.adapters) == (runs, adapters)
    assert "v1" not in [entry.name for entry in workspace.adapters.entries]


def test_a_run_that_was_dropped_delivers_nothing(annotated: ps.App) -> None:
    workspace = annotated.workspace
    run = DocumentRun(workspace, TRAINING)
    events = run.events(train(run.prepare()))
    next(events)
    run.drop()
    finish(events)
    assert run.entry is None
    assert workspace.live.name == "useless"
    assert annotated.document.runs == ()


def test_a_run_knows_its_way(annotated: ps.App) -> None:
    workspace = annotated.workspace
    run = DocumentRun(workspace, TRAINING)
    _, report = finish(run.events(train(run.prepare())))
    assert run.result is report
    assert (run.before, run.replaced, run.failure) == ("useless", "", "")
    assert run.entry is not None
    assert run.entry.name == workspace.live.name == "v1"
    assert [step for step, _, _ in run.curve] == [0, 1, 2]


@pytest.mark.parametrize("seconds", [-1, 0, float("nan"), float("inf")])
def test_no_time_is_refused_in_one_line(app: ps.App, seconds: float) -> None:
    with pytest.raises(ps.PeftSamError, match=r"^seconds is .*: give the time .* positive number$"):
        app.finetune(seconds=seconds)
