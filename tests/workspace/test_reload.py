"""After another adapter went live: what was embedded before is embedded again, nearest first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_peftsam.app.workspace import Workspace
from napari_peftsam.document import PlaneKey, RemoveImage
from napari_peftsam.embeddings import Encoded, EncodeProgress, image_signature
from napari_peftsam.models import build
from napari_peftsam.peft import Adapter, FrozenEncoderConfig, LoraConfig, capture, inject
from napari_peftsam.segmentation.engine import IN_MEMORY
from tests.peft._cases import perturb
from tests.workspace._steps import embedding_of

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4000, (6, 40, 50)).astype(np.uint16)
OTHER = RNG.integers(0, 4000, (40, 50)).astype(np.uint16)


@pytest.fixture
def opened(workspace: Workspace) -> Workspace:
    workspace.document.add_image("stack", STACK)
    workspace.document.add_image("other", OTHER)
    for plane in (PlaneKey("other"), *(PlaneKey("stack", (z,)) for z in (0, 2, 5))):
        list(workspace.embed(plane))
    return workspace


def adapter(checkpoint: Path, method: LoraConfig | FrozenEncoderConfig) -> Adapter:
    with inject(build(checkpoint, "cpu"), method) as injection:
        perturb(injection.trainable_parameters())
        return capture(injection)


def go_live(workspace: Workspace, new: Adapter) -> None:
    workspace.activate(workspace.adapters.add_version(new, 0.5).name)


def planes(workspace: Workspace, near: PlaneKey) -> list[str]:
    """Reload, and return the planes in the order in which they came."""
    names = {image_signature(STACK[z]): f"stack {z}" for z in range(len(STACK))}
    names[image_signature(OTHER)] = "other"
    events = workspace.reload(near)
    return [names[e.embedding.key.image] for e in events if isinstance(e, Encoded)]


@pytest.mark.parametrize(
    ("near", "expected"),
    [
        pytest.param(PlaneKey("stack", (4,)), ["5", "2", "0"], id="late in the stack"),
        pytest.param(PlaneKey("stack", (1,)), ["0", "2", "5"], id="early in the stack"),
    ],
)
def test_planes_of_the_stack_come_before_other_images(
    near: PlaneKey, expected: list[str], opened: Workspace, checkpoint: Path
) -> None:
    assert planes(opened, near) == []
    go_live(opened, adapter(checkpoint, LoraConfig()))
    found = planes(opened, near)
    if near.index == (1,):  # planes 0 and 2 are equally near
        found[:2] = sorted(found[:2])
    assert found == [*(f"stack {z}" for z in expected), "other"]
    assert planes(opened, near) == []
    assert all(embedding_of(opened, PlaneKey("stack", (z,))) is not None for z in (0, 2, 5))


def test_an_adapter_of_the_decoder_leaves_nothing_to_do(
    opened: Workspace, checkpoint: Path
) -> None:
    go_live(opened, adapter(checkpoint, FrozenEncoderConfig()))
    assert planes(opened, PlaneKey("stack", (0,))) == []


def test_closed_it_goes_on_where_it_was(opened: Workspace, checkpoint: Path) -> None:
    go_live(opened, adapter(checkpoint, LoraConfig()))
    near = PlaneKey("stack", (0,))
    events = opened.reload(near)
    encoded = (event for event in events if isinstance(event, Encoded))
    next(encoded)
    assert isinstance(next(e for e in events if isinstance(e, EncodeProgress)), EncodeProgress)
    events.close()  # type: ignore[attr-defined]  # it is a generator
    assert planes(opened, near) == ["stack 2", "stack 5", "other"]


def test_what_is_gone_is_left_out(opened: Workspace, checkpoint: Path) -> None:
    opened.document.do(RemoveImage("other"))
    opened.document.replace_pixels("stack", STACK[:, ::-1].copy())
    list(opened.embed(PlaneKey("discs")))
    go_live(opened, adapter(checkpoint, LoraConfig()))
    events = [e for e in opened.reload(PlaneKey("stack", (0,))) if isinstance(e, Encoded)]
    assert [event.name for event in events] == ["discs"]


def test_an_image_that_can_be_embedded_no_more_is_tried_once(
    opened: Workspace, checkpoint: Path
) -> None:
    go_live(opened, adapter(checkpoint, LoraConfig()))
    opened.document.image("other").pixels[:] = 7
    assert planes(opened, PlaneKey("stack", (0,))) == ["stack 0", "stack 2", "stack 5"]
    assert list(opened.reload(PlaneKey("stack", (0,)))) == []


def test_another_models_planes_are_not_its_business(opened: Workspace) -> None:
    opened.load_model("builtin", "cpu")
    assert list(opened.reload(PlaneKey("stack", (0,)))) == []


def test_without_a_store_no_more_than_memory_holds(checkpoint: Path) -> None:
    workspace = Workspace()
    workspace.load_model(checkpoint, "cpu")
    many = RNG.integers(0, 4000, (20, 16, 16)).astype(np.uint16)
    workspace.document.add_image("many", many)
    for z in range(20):
        list(workspace.embed(PlaneKey("many", (z,))))
    go_live(workspace, adapter(checkpoint, LoraConfig()))
    events = list(workspace.reload(PlaneKey("many", (0,))))
    assert sum(isinstance(event, Encoded) for event in events) == 15
    assert list(workspace.reload(PlaneKey("many", (0,)))) == []


def test_the_plane_in_use_stays_in_memory(checkpoint: Path) -> None:
    workspace = Workspace()
    workspace.load_model(checkpoint, "cpu")
    many = RNG.integers(0, 4000, (IN_MEMORY + 1, 16, 16)).astype(np.uint16)
    workspace.document.add_image("many", many)
    for z in range(IN_MEMORY + 1):
        list(workspace.embed(PlaneKey("many", (z,))))
        assert embedding_of(workspace, PlaneKey("many", (0,))) is not None
    assert embedding_of(workspace, PlaneKey("many", (1,))) is None
