"""After a swap of the adapter: the shown plane first, the others in quiet moments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import PlaneKey
from napari_peftsam.models import build
from napari_peftsam.peft import LoraConfig, capture, inject
from napari_peftsam.widgets.finetune import Phase, training_of
from tests.peft._cases import perturb
from tests.widgets._annotate_cases import Bench, settle, wait

Open = Callable[..., Bench]
STACK = np.random.default_rng(0).integers(0, 4000, (6, 48, 60)).astype(np.uint16)
VISITED = (0, 2, 4)


@pytest.fixture
def visited(bench: Open, tiny_checkpoint: Path) -> Bench:
    """Return a viewer in which three planes of a stack were embedded, and a version is ready."""
    opened = bench(STACK)
    for z in VISITED:
        show(opened, z)
    with inject(build(tiny_checkpoint, "cpu"), LoraConfig()) as injection:
        perturb(injection.trainable_parameters())
        adapter = capture(injection)
    workspace(opened).adapters.add_version(adapter, 0.5)
    return opened


def workspace(bench: Bench) -> Workspace:
    return bench.owner.require()


def show(bench: Bench, z: int) -> None:
    bench.viewer.dims.set_point(0, z)
    wait(lambda: bench.dock.prompting._target == PlaneKey("image0", (z,)))
    wait(lambda: bench.dock.prompting.state.kind == "ready")


def known(bench: Bench) -> list[int]:
    planes = [PlaneKey("image0", (z,)) for z in range(len(STACK))]
    engine, document = workspace(bench).engine, bench.document
    found = (engine.embedding(document.pixels(plane), plane.image) for plane in planes)
    return [z for z, embedding in enumerate(found) if embedding is not None]


def test_what_was_visited_is_embedded_again_without_being_shown(visited: Bench) -> None:
    workspace(visited).activate("v1")
    assert known(visited) == []
    wait(lambda: set(known(visited)) >= set(VISITED))  # and the next plane
    assert visited.layers.plane == PlaneKey("image0", (4,))
    wait(lambda: not visited.dock.reload.is_running)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda b: b.click(20, 20), id="a prompt"),
        pytest.param(lambda b: b.viewer.dims.set_point(0, 2), id="another plane"),
        pytest.param(lambda b: workspace(b).activate("base"), id="another adapter"),
    ],
)
def test_whatever_the_user_does_ends_it_and_it_goes_on_later(
    visited: Bench, act: Callable[[Bench], Any]
) -> None:
    reload = visited.dock.reload
    workspace(visited).activate("v1")
    wait(lambda: reload.is_running)
    act(visited)
    settle()
    assert not reload.is_running
    wait(lambda: set(known(visited)) >= set(VISITED) and not reload.is_running)


def test_a_closed_dock_embeds_nothing(visited: Bench) -> None:
    reload = visited.dock.reload
    workspace(visited).activate("v1")
    wait(lambda: reload.is_running)
    visited.viewer.window.remove_dock_widget(visited.holder)
    settle()
    assert not reload.is_running


def test_a_training_pauses_while_the_user_waits(
    visited: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Child:
        said: list[str]

        def __init__(self) -> None:
            self.said = []

        def pause(self) -> None:
            self.said.append("pause")

        def go_on(self) -> None:
            self.said.append("go on")

        def cancel(self) -> None:
            """Called when the viewer closes."""

    run, child = training_of(visited.owner), Child()
    visited.click(20, 20)
    visited.answered()
    assert child.said == []
    monkeypatch.setattr(run, "_process", child)
    monkeypatch.setattr(run, "phase", Phase.TRAINING)
    visited.click(24, 24)
    wait(lambda: not visited.dock.prompting.state.is_awaited)
    assert child.said == ["pause", "go on"]
    show(visited, 5)
    assert child.said == ["pause", "go on"] * 2
