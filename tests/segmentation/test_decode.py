"""The decoder computes what `segment_anything` computes, in other steps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from napari_peftsam.models import Architecture, PlainVit, SamModel, construct
from napari_peftsam.peft import FrozenEncoderConfig, LoraConfig, inject
from napari_peftsam.segmentation import PromptTensors, decode
from napari_peftsam.segmentation.crops import fine
from napari_peftsam.segmentation.decode import decode_outputs
from napari_peftsam.types import Window

# Wide enough for both ways to compute an attention: up to 20 tokens, and more.
SMALL = Architecture(
    "small", 64, 8, PlainVit(16, 4, 2, (1, 3), 4), 64, decoder_heads=2, decoder_mlp_width=48
)
DRAWN = replace(SMALL, drawn_prompts=True, position_scale=3.0)
REFINED = replace(DRAWN, refined_masks=True)
ARCHITECTURES = [
    pytest.param(SMALL, id="SAM"),
    pytest.param(DRAWN, id="drawn prompts"),
    pytest.param(REFINED, id="refined masks"),
]
SIDE, GRID = SMALL.image_size, SMALL.grid


def build(arch: Architecture) -> SamModel:
    torch.manual_seed(0)
    sam = construct(arch)
    for parameter in sam.parameters():  # so that biases, norms and what starts as zero matter
        nn.init.normal_(parameter, parameter.mean().item(), 0.15)
    return SamModel(arch.name, arch, sam, "0")


def reference(
    sam: Sam, features: Tensor, prompts: PromptTensors, offset: tuple[int, int] = (0, 0)
) -> tuple[Tensor, Tensor]:
    """Decode object by object with the modules' own `forward`."""
    height, width = features.shape[-2:]
    top, left = offset
    rows, cols = slice(top, top + height), slice(left, left + width)
    positions = sam.prompt_encoder.get_dense_pe()[..., rows, cols]
    answers = []
    for index, one in enumerate(objects(prompts)):
        points = None if one.points is None else (one.points, one.labels)
        sparse, dense = sam.prompt_encoder(points=points, boxes=one.boxes, masks=one.masks)
        if one.masks is None:
            dense = dense[..., rows, cols]
        window = (top, left, height, width)
        if hasattr(sam.prompt_encoder, "drawing"):
            dense = dense + sam.prompt_encoder.drawing(one.points, one.labels, one.boxes, window)
        image = features[index % len(features), None]
        with refined(sam, one, window):
            answers.append(sam.mask_decoder.predict_masks(image, positions, sparse, dense))
    logits, scores = zip(*answers, strict=True)
    return torch.cat(logits), torch.cat(scores)


@contextmanager
def refined(sam: Sam, prompts: PromptTensors, window: tuple[int, int, int, int]) -> Iterator[None]:
    """Refine the pixels between the two steps of the decoder, if there is a last mask."""
    if prompts.masks is None or not hasattr(sam.mask_decoder, "refiner"):
        yield
        return
    refiner = sam.mask_decoder.refiner
    maps = sam.prompt_encoder.drawing.maps(prompts.points, prompts.labels, prompts.boxes, window)
    guides = refiner.guides(maps, prompts.masks)
    handle = sam.mask_decoder.output_upscaling.register_forward_hook(
        lambda _module, _inputs, pixels: refiner(pixels, guides)
    )
    with handle:
        yield


def objects(prompts: PromptTensors) -> Iterator[PromptTensors]:
    given = {name: value for name, value in vars(prompts).items() if value is not None}
    for index in range(len(next(iter(given.values())))):
        yield PromptTensors(**{name: value[index, None] for name, value in given.items()})


def make_prompts(
    objects: int, points: int = 0, box: bool = False, mask: bool = False
) -> PromptTensors:
    draw = torch.Generator().manual_seed(1)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw)

    labels = torch.randint(-1, 2, (objects, points), generator=draw).float()
    corners = (uniform(objects, 2, 2) * SIDE).sort(dim=1).values.flatten(1)
    return PromptTensors(
        uniform(objects, points, 2) * SIDE if points else None,
        labels if points else None,
        corners if box else None,
        uniform(objects, 1, 4 * GRID, 4 * GRID) * 8 - 4 if mask else None,
    )


def embedding(objects: int = 1, side: int = GRID) -> Tensor:
    features = torch.randn(objects, 64, side, side, generator=torch.Generator().manual_seed(2))
    return features.requires_grad_()


def gradients(
    function: Callable[..., tuple[Tensor, Tensor]], model: SamModel, *arguments: object
) -> dict[str, Tensor]:
    """Return results and the gradients of a sum of them in random proportions."""
    features = arguments[0]
    assert isinstance(features, Tensor)
    logits, scores = function(model.sam, *arguments)
    draw = torch.Generator().manual_seed(3)
    total = sum((x * torch.randn(x.shape, generator=draw)).sum() for x in (logits, scores))
    names, trained = zip(
        *((n, p) for n, p in model.sam.named_parameters() if p.requires_grad), strict=True
    )
    found = torch.autograd.grad(total, (features, *trained), allow_unused=True)
    by_name = zip(("features", *names), found, strict=True)
    results = {"logits": logits.detach(), "scores": scores.detach()}
    return results | {name: gradient for name, gradient in by_name if gradient is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compare results one by one, and all gradients as the one vector that they are."""
    for name in ("logits", "scores"):
        assert found[name].dtype == torch.float32
        assert error(found.pop(name), expected.pop(name)) < 1e-5
    # A bias that changes no softmax: rounding errors there, nothing here.
    assert {
        n for n in expected.keys() - found.keys() if not n.endswith("image.k_proj.bias")
    } == set()
    zeros = {name: found.get(name, torch.zeros_like(expected[name])) for name in expected}
    vectors = [torch.cat([x.flatten() for x in named.values()]) for named in (zeros, expected)]
    assert error(*vectors) < 1e-5
    for name, value in expected.items():  # none of them wrong, however small
        torch.testing.assert_close(
            zeros[name], value, rtol=1e-3, atol=1e-5 * vectors[1].norm().item()
        )


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


PROMPTS = [
    pytest.param({"points": 1}, id="a point"),
    pytest.param({"points": 4}, id="points, some no points"),
    pytest.param({"points": 30}, id="many points"),
    pytest.param({"box": True}, id="box"),
    pytest.param({"points": 2, "box": True}, id="points and box"),
    pytest.param({"points": 3, "mask": True}, id="points and mask"),
    pytest.param({"points": 25, "mask": True}, id="many points and mask"),
    pytest.param({"points": 1, "box": True, "mask": True}, id="all"),
]


@pytest.mark.parametrize("given", PROMPTS)
@pytest.mark.parametrize(
    ("count", "images"),
    [
        pytest.param(1, 1, id="one object"),
        pytest.param(3, 1, id="objects of one image"),
        pytest.param(3, 3, id="an image each"),
    ],
)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_results_and_gradients_are_those_of_segment_anything(
    arch: Architecture, count: int, images: int, given: dict[str, int]
) -> None:
    model, prompts = build(arch), make_prompts(count, **given)
    arguments = embedding(images), prompts
    assert_same(gradients(decode, model, *arguments), gradients(reference, model, *arguments))


@pytest.mark.parametrize("given", PROMPTS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_crop_lies_where_it_lies(arch: Architecture, given: dict[str, int]) -> None:
    prompts = make_prompts(2, **given)
    if prompts.masks is not None:
        prompts = replace(prompts, masks=prompts.masks[..., :16, :16])
    arguments = embedding(side=4), prompts, (1, 3)
    model = build(arch)
    assert_same(gradients(decode, model, *arguments), gradients(reference, model, *arguments))


@pytest.mark.parametrize("given", PROMPTS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_crops_of_objects_lie_each_where_it_lies(arch: Architecture, given: dict[str, int]) -> None:
    prompts, model = make_prompts(2, **given), build(arch)
    if prompts.masks is not None:
        prompts = replace(prompts, masks=prompts.masks[..., :16, :16])
    crops, corners = embedding(2, side=4), [(1, 3), (0, 2)]
    with torch.no_grad():
        outputs = decode_outputs(model.sam, crops, prompts, corners)
        logits, scores = zip(
            *map(partial(decode, model.sam), crops.split(1), objects(prompts), corners), strict=True
        )
        assert error(outputs.logits(), torch.cat(logits)) < 1e-5
    assert error(outputs.scores, torch.cat(scores)) < 1e-5


@pytest.mark.parametrize("points", [2, 30], ids=["few points", "many points"])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(FrozenEncoderConfig(), id="tuned decoder"),
        pytest.param(FrozenEncoderConfig(tune_prompt_encoder=True), id="tuned prompt encoder, too"),
        pytest.param(FrozenEncoderConfig(decoder_lora_rank=2), id="LoRA in the decoder"),
        pytest.param(LoraConfig(rank=2, decoder_lora_rank=2), id="LoRA everywhere"),
    ],
)
def test_adapted_decoders(config: FrozenEncoderConfig | LoraConfig, points: int) -> None:
    model = build(SMALL)
    base = gradients(decode, model, embedding(), make_prompts(2, points))["logits"]
    injection = inject(model, config)
    with torch.no_grad():
        for parameter in model.sam.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    arguments = embedding(), make_prompts(2, points)
    found = gradients(decode, model, *arguments)
    assert error(found["logits"], base) > 1e-3
    assert_same(found, gradients(reference, model, *arguments))
    injection.remove()
    torch.testing.assert_close(decode(model.sam, *arguments)[0], base)


@pytest.mark.parametrize("given", PROMPTS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_half_precision_is_near_and_its_results_are_single(
    arch: Architecture, given: dict[str, int]
) -> None:
    model = build(arch)
    arguments = embedding(), make_prompts(3, **given)
    expected = decode(model.sam, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = decode(model.sam, *arguments)
    for half, single in zip(found, expected, strict=True):
        assert half.dtype == torch.float32
        assert error(half.detach(), single.detach()) < 3e-2


@pytest.mark.parametrize("mask", [False, True], ids=["first mask", "correction"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_only_the_masks_asked_for_are_drawn(arch: Architecture, mask: bool) -> None:
    arch = replace(arch, image_size=128)  # larger than what a refined window sees
    model, prompts = build(arch), make_prompts(3, 2, mask=mask)
    if prompts.masks is not None:
        prompts = replace(prompts, masks=prompts.masks.repeat(1, 1, 2, 2))
    outputs = decode_outputs(model.sam, embedding(side=2 * GRID), prompts)
    every = outputs.logits()
    assert every.shape == (3, 4, 8 * GRID, 8 * GRID)
    windows = [Window(6 * n, 4 + n, 4, 4) for n in range(3)]
    drawn = outputs.within(windows).logits()
    for one, window, whole in zip(drawn, windows, every, strict=True):
        torch.testing.assert_close(one, whole[:, *fine(window).slices])
    wanted = torch.tensor([[2, 0], [3, 3], [1, 2]])
    expected = torch.stack([masks[chosen] for masks, chosen in zip(every, wanted, strict=True)])
    torch.testing.assert_close(outputs.logits(wanted), expected)


class TestPositions:
    """They are computed once per prompt encoder, and never those of another."""

    @staticmethod
    def matrix(model: SamModel) -> Tensor:
        matrix: Tensor = model.sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
        return matrix

    def check(self, model: SamModel) -> None:
        arguments = embedding(), make_prompts(1, 1)
        with torch.no_grad():
            results = zip(
                decode(model.sam, *arguments), reference(model.sam, *arguments), strict=True
            )
            assert all(error(*pair) < 1e-5 for pair in results)

    def test_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, calls = build(SMALL), []
        encoder = model.sam.prompt_encoder
        compute = encoder.get_dense_pe
        monkeypatch.setattr(encoder, "get_dense_pe", lambda: calls.append(1) or compute())
        for _ in range(3):
            decode(model.sam, embedding(), make_prompts(1, 1))
        assert len(calls) == 1

    def test_they_follow_the_frequencies(self) -> None:
        model = build(SMALL)
        self.check(model)
        self.matrix(model).mul_(2)
        self.check(model)
        model.sam.load_state_dict({n: t * 1.5 for n, t in model.sam.state_dict().items()})
        self.check(model)

    @pytest.mark.parametrize(
        "duplicate",
        [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
        ids=["copied", "pickled"],
    )
    def test_another_model_has_its_own(self, duplicate: Callable[[SamModel], SamModel]) -> None:
        model = build(SMALL)
        self.check(model)
        other = duplicate(model)
        self.matrix(other).mul_(2)
        self.check(other)
        self.check(model)
        assert other.sam.state_dict().keys() == model.sam.state_dict().keys()

    def test_training_may_follow_prediction(self) -> None:
        model = build(SMALL)
        with torch.inference_mode():
            decode(model.sam, embedding(), make_prompts(1, 1))
        assert "features" in gradients(decode, model, embedding(), make_prompts(1, 1))
