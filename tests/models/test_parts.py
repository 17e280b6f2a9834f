"""Parts and crops, which the built-in model has and segment-anything has not."""

from __future__ import annotations

import pytest
import torch

from napari_peftsam.models import DenseHead, build_random, encode_tensor
from napari_peftsam.models.parts import ConvStem, MaskRefiner, PromptDrawing

WINDOW = (0, 0, 48, 48)


def test_the_stem_gives_tokens_of_eight_pixels() -> None:
    assert ConvStem(16)(torch.rand(2, 3, 64, 32)).shape == (2, 8, 4, 16)


def test_the_dense_head_gives_three_maps_of_two_pixels() -> None:
    assert DenseHead(16)(torch.rand(2, 16, 8, 4)).shape == (2, len(DenseHead.channels), 32, 16)


def _maps(**prompts: torch.Tensor | None) -> torch.Tensor:
    """Return the drawn maps ``(B, 9, 192, 192)`` before any layer."""
    drawing = PromptDrawing(16, patch_size=8)
    drawing.layers = torch.nn.Identity()
    given = {"points": None, "labels": None, "boxes": None, **prompts}
    window = given.pop("window", None) or WINDOW
    return drawing(**given, window=window)


def test_a_new_drawing_changes_nothing() -> None:
    boxes = torch.tensor([[10.0, 20.0, 60.0, 80.0]])
    drawn = PromptDrawing(16, patch_size=8)(None, None, boxes, WINDOW)
    assert drawn.shape == (1, 16, 48, 48)
    assert not drawn.any()


def test_a_new_refiner_changes_nothing() -> None:
    pixels, guides = torch.rand(2, 4, 16, 12), torch.rand(2, 10, 16, 12)
    assert torch.equal(MaskRefiner(4)(pixels, guides), pixels)


def test_a_refiner_sees_as_far_as_its_reach() -> None:
    refiner, pixels = MaskRefiner(1), torch.zeros(1, 1, 31, 31)
    for parameter in refiner.parameters():
        torch.nn.init.ones_(parameter)
    guides = torch.zeros(1, 10, 31, 31)
    guides[..., 15, 15] = 1
    changed = refiner(pixels, guides) != refiner(pixels, torch.zeros_like(guides))
    rows, columns = changed[0, 0].nonzero().unbind(1)
    assert {int(15 - rows.min()), int(columns.max() - 15)} == {MaskRefiner.reach}


def test_guides_are_the_drawn_prompts_and_the_last_mask() -> None:
    points, window = torch.tensor([[[21.0, 11.0]]]), (0, 0, 8, 8)
    drawing = PromptDrawing(16, patch_size=8)
    maps = drawing.maps(points, torch.ones(1, 1), None, window)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 5, 10] = 2.0
    guides = MaskRefiner.guides(maps, mask)
    assert guides.shape == (1, PromptDrawing.channels + 1, 32, 32)
    assert (guides[0, 3] == guides[0, 3].max()).nonzero().tolist() == [[5, 10]]
    assert guides[0, -1].nonzero().tolist() == [[5, 10]]


def test_a_box_is_drawn_where_it_is() -> None:
    has, depth, ellipse, *clicks = _maps(boxes=torch.tensor([[40.0, 20.0, 120.0, 60.0]]))[0]
    assert has.all()
    inside = torch.zeros(192, 192, dtype=torch.bool)
    inside[10:30, 20:60] = True  # rows 20-60 and columns 40-120, two pixels each
    assert ((depth > 0) == inside).all()
    assert int(ellipse.argmax()) in {19 * 192 + 39, 19 * 192 + 40, 20 * 192 + 39, 20 * 192 + 40}
    assert (ellipse > 0).sum() < inside.sum()
    assert not any(channel.any() for channel in clicks)


@pytest.mark.parametrize(("label", "first"), [(1.0, 3), (0.0, 6)], ids=["positive", "negative"])
def test_clicks_are_bells_of_three_widths(label: float, first: int) -> None:
    points = torch.tensor([[[100.0, 30.0], [-5.0, -5.0]]])
    maps = _maps(points=points, labels=torch.tensor([[label, -1.0]]))[0]
    bells = maps[first : first + 3]
    assert all(int(bell.argmax()) in {15 * 192 + 50, 14 * 192 + 50} for bell in bells)
    assert bells[0].sum() < bells[1].sum() < bells[2].sum()
    others = torch.cat([maps[:first], maps[first + 3 :]])
    assert not others.any()


@pytest.mark.parametrize("label", [1.0, 0.0, -1.0], ids=["positive", "negative", "no point"])
def test_a_click_alone_is_drawn_as_among_others(label: float) -> None:
    points, labels = torch.tensor([[[100.3, 30.7]]]), torch.tensor([[label]])
    alone = _maps(points=points, labels=labels)
    again = _maps(points=points.repeat(1, 2, 1), labels=labels.repeat(1, 2))
    torch.testing.assert_close(alone, again, rtol=1e-4, atol=1e-7)


def test_a_crop_draws_its_part_of_the_frame() -> None:
    boxes = torch.tensor([[100.0, 90.0, 200.0, 180.0]])
    points, labels = torch.tensor([[[150.0, 130.0]]]), torch.ones(1, 1)
    whole = _maps(points=points, labels=labels, boxes=boxes)
    part = _maps(points=points, labels=labels, boxes=boxes, window=(10, 12, 16, 8))
    torch.testing.assert_close(part, whole[..., 40:104, 48:80])


def test_a_crop_uses_the_central_relative_positions() -> None:
    model = build_random("builtin")
    encoder = model.sam.image_encoder
    for block in encoder.blocks:
        torch.nn.init.normal_(block.attn.rel_pos_h)
        torch.nn.init.normal_(block.attn.rel_pos_w)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        before = encode_tensor(model.sam, x)
        for block in (encoder.blocks[3], encoder.blocks[7]):
            block.attn.rel_pos_h[:30] += 5  # further away than any two tokens of the crop
        torch.testing.assert_close(encode_tensor(model.sam, x), before)
