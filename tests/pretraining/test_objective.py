"""One step's prompts: what is ambiguous, and what is asked about a field without an object."""

from __future__ import annotations

import math

import pytest
import torch

from napari_peftsam.models import DenseHead, SamModel, architecture, build_random
from napari_peftsam.pretraining import objective
from napari_peftsam.pretraining.data import Batch
from napari_peftsam.segmentation.decode import PromptTensors

SIDE = 64


@pytest.fixture(scope="module")
def model() -> SamModel:
    made = build_random("builtin")
    return SamModel("builtin", made.architecture, made.sam, "", DenseHead(128))


def _batch(objects: int, present: bool) -> Batch:
    masks = torch.zeros(1, objects, SIDE, SIDE, dtype=torch.bool)
    masks[..., 20:40, 20:40] = present
    levels = torch.zeros(1, objects, 3, SIDE, SIDE, dtype=torch.bool)
    dense = torch.zeros(1, 3, SIDE, SIDE)
    dense[:, 0] = masks[:, 0].float()
    return Batch(torch.rand(1, 3, SIDE, SIDE) * 255, masks, levels, dense)


@pytest.mark.parametrize("present", [True, False], ids=["objects", "an empty field"])
@pytest.mark.parametrize("seed", range(4))
def test_every_kind_of_prompt_has_a_loss_and_gradients(
    model: SamModel, present: bool, seed: int
) -> None:
    model.sam.requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    loss, parts = objective.pretraining_loss(model, _batch(2, present), generator)
    loss.backward()
    assert math.isfinite(loss.item())
    assert sum(parts.values()) == pytest.approx(loss.item(), rel=1e-5)
    weight = model.sam.mask_decoder.output_hypernetworks_mlps[1].layers[0].weight
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_prompts_in_an_empty_field_mean_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    user = objective.PromptSimulator(generator)
    for _ in range(8):
        prompts, meant = objective.first_prompts(user, _batch(3, False), generator)
        assert not meant.any()
        assert prompts.points is not None or prompts.boxes is not None


@pytest.mark.parametrize(
    ("extra", "counts"),
    [pytest.param(slice(40, 48), True, id="a part of eight pixels"),
     pytest.param(slice(40, 42), False, id="a seam of two pixels")],
)  # fmt: skip
def test_a_correction_counts_where_the_mask_was_wrong(extra: slice, counts: bool) -> None:
    target = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    target[0, 20:40, 20:40] = True
    before = torch.where(target, 5.0, -5.0)
    before[0, 20:40, extra] = 5.0
    heeded, ignored = torch.where(target, 5.0, -5.0), before
    ignoring = objective.correction_loss(ignored, before, target).item()
    assert ignoring == pytest.approx(5.007 if counts else 0.0, abs=1e-3)
    assert objective.correction_loss(heeded, before, target).item() < 0.01


PATCH = architecture("builtin").patch_size


@pytest.mark.parametrize(
    ("point", "expected"),
    [pytest.param((32, 32), [True, True, True], id="in the nucleus"),
     pytest.param((24, 24), [False, True, True], id="in the cytoplasm"),
     pytest.param((15, 15), [False, False, True], id="in a neighbour"),
     pytest.param((2, 2), [False, False, False], id="beside the cluster")],
)  # fmt: skip
def test_a_click_may_mean_the_levels_that_contain_it(
    point: tuple[int, int], expected: list[bool]
) -> None:
    levels = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.bool)
    for level, reach in enumerate((4, 12, 20)):
        levels[:, level, 32 - reach : 32 + reach, 32 - reach : 32 + reach] = True
    corner = (5.0 * PATCH, 2.0 * PATCH)
    points = torch.tensor([[[point[0] + corner[0], point[1] + corner[1]]]])
    prompts = PromptTensors(points, torch.ones(1, 1))
    found = objective.possible_levels(levels, prompts, corner, levels[:, 1])
    assert found is not None
    assert found.flatten(2).any(2)[0].tolist() == expected


@pytest.mark.parametrize(
    "prompts",
    [pytest.param(PromptTensors(torch.zeros(1, 2, 2), torch.ones(1, 2)), id="two clicks"),
     pytest.param(PromptTensors(boxes=torch.tensor([[1.0, 1, 9, 9]])), id="a box")],
)  # fmt: skip
def test_other_prompts_are_not_ambiguous(prompts: PromptTensors) -> None:
    levels = torch.ones(1, 3, SIDE, SIDE, dtype=torch.bool)
    assert objective.possible_levels(levels, prompts, (0.0, 0.0), levels[:, 1]) is None
