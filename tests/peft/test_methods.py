"""What every method must do, for every method and placement."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from napari_peftsam.errors import ConfigurationError
from napari_peftsam.models import Architecture, SamModel, build_random
from napari_peftsam.peft import (
    METHODS,
    Adapter,
    BaseIdentity,
    FrozenEncoderConfig,
    Injection,
    LoraConfig,
    MethodConfig,
    PlacedConfig,
    apply_adapter,
    capture,
    count_parameters,
    inject,
    load_adapter,
    merge,
    parse_method_config,
    save_adapter,
)
from napari_peftsam.peft.methods.ssf import ScaledShifted
from tests.peft._cases import (
    CASES,
    METHOD_OPTIONS,
    UNPLACED,
    image,
    outputs,
    perturb,
    same,
    snapshot,
    step,
    tiny,
)

table = pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
one_per_method = pytest.mark.parametrize(
    "config",
    [c for n, c in CASES.items() if n.endswith("-0,2") or n in UNPLACED],
    ids=[n for n in CASES if n.endswith("-0,2") or n in UNPLACED],
)


def optimiser_of(injection: Injection, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.AdamW(injection.parameter_groups(lr, 0.1))


@table
def test_untrained_adapter_is_the_base_bit_for_bit(config: MethodConfig) -> None:
    model = tiny()
    expected = outputs(model, image())
    with inject(model, config):
        assert torch.equal(outputs(model, image()), expected)


@table
def test_training_moves_the_adapter_and_nothing_else(config: MethodConfig) -> None:
    model = tiny()
    base = snapshot(model)
    injection = inject(model, config)
    own = injection.trainable_parameters()
    requiring = {id(p) for p in model.sam.parameters() if p.requires_grad}
    assert {id(p) for p in own.values()} == requiring
    frozen = {n: p.clone() for n, p in model.sam.named_parameters() if not p.requires_grad}
    before = injection.state()
    optimiser = optimiser_of(injection)
    losses = [step(model, optimiser) for _ in range(4)]

    assert losses[-1] < losses[0]
    after = dict(model.sam.named_parameters())
    assert all(torch.equal(after[n], p) for n, p in frozen.items())
    moved = {n for n, p in injection.state().items() if not torch.equal(p, before[n])}
    # Decay alone moves what a single point prompt does not reach; the adapter all moves.
    assert {n for n in own if n.startswith("encoder.")} <= moved
    injection.remove()
    assert same(snapshot(model), base)


@table
def test_names_are_the_adapter_and_the_decoder(config: MethodConfig) -> None:
    model = tiny()
    tuned = (
        ("prompt_encoder.",) if config.decoder_lora_rank else ("mask_decoder.", "prompt_encoder.")
    )
    decoder = {f"decoder.{n}" for n, _ in model.sam.named_parameters() if n.startswith(tuned)}
    if config.decoder_lora_rank:
        decoder |= {
            f"decoder.{n}.slots.all.{half}"
            for n, _ in model.sam.named_modules()
            if n.startswith("mask_decoder.transformer.") and n.endswith(("q_proj", "v_proj"))
            for half in "AB"
        }
        assert len(decoder) > 20
    names = set(inject(model, config).trainable_parameters())
    assert {n for n in names if n.startswith("decoder.")} == decoder
    encoder = names - decoder
    assert all(n.startswith("encoder.") and ".base." not in n for n in encoder)
    assert bool(encoder) == (not isinstance(config, FrozenEncoderConfig))


def _contents(module: torch.nn.Module) -> dict[str, int]:
    named = (*module.named_modules(), *module.named_parameters())
    return {name: id(value) for name, value in named}


def _chosen_blocks(config: MethodConfig) -> tuple[int, ...]:
    if isinstance(config, PlacedConfig):
        return config.placement.blocks(4)
    return (0, 1, 2, 3) if config.method == "full-finetuning" else ()


@table
def test_untouched_blocks_hold_nothing_new(config: MethodConfig) -> None:
    model = tiny()
    blocks = model.sam.image_encoder.blocks
    before = [_contents(block) for block in blocks]
    stem = _contents(model.sam.image_encoder.patch_embed)
    inject(model, config)
    changed = {i for i, block in enumerate(blocks) if _contents(block) != before[i]}
    assert changed == set(_chosen_blocks(config))
    first = config.first_changed_block(4)
    if _contents(model.sam.image_encoder.patch_embed) != stem:
        assert first == -1
    else:
        assert first == min(changed, default=4)


@table
def test_removing_and_disabling_restore_the_base(config: MethodConfig) -> None:
    model = tiny()
    base, modules = snapshot(model), [id(m) for m in model.sam.modules()]
    parameters = [id(p) for p in model.sam.parameters()]
    expected = outputs(model, image())
    injection = inject(model, config)
    perturb(injection.trainable_parameters())
    adapted = outputs(model, image())
    assert not torch.equal(adapted, expected)
    with injection.disabled():
        assert torch.equal(outputs(model, image()), expected)
    assert torch.equal(outputs(model, image()), adapted)
    injection.remove()
    injection.remove()
    assert torch.equal(outputs(model, image()), expected)
    assert same(snapshot(model), base)
    assert [id(m) for m in model.sam.modules()] == modules
    assert [id(p) for p in model.sam.parameters()] == parameters
    assert not any(p.requires_grad for p in model.sam.parameters())
    inject(model, config).remove()


@table
def test_saved_adapter_reproduces_and_trains_on(config: MethodConfig, tmp_path) -> None:
    model = tiny()
    injection = inject(model, config)
    optimiser = optimiser_of(injection)
    for _ in range(3):
        step(model, optimiser)
    expected = outputs(model, image())
    adapter = capture(injection, provenance={"images": 3}, metrics={"ap": 0.5})
    save_adapter(adapter, tmp_path / "a.safetensors")
    # A step changes the model, not what was captured.
    step(model, optimiser)

    loaded = load_adapter(tmp_path / "a.safetensors")
    fresh = tiny()
    again = apply_adapter(fresh, loaded)
    assert torch.equal(outputs(fresh, image()), expected)
    assert (loaded.config, loaded.base, loaded.digest) == (config, adapter.base, adapter.digest)
    assert (loaded.provenance, loaded.metrics) == ({"images": 3}, {"ap": 0.5})
    optimiser = optimiser_of(again)
    losses = [step(fresh, optimiser) for _ in range(3)]
    assert losses[-1] < losses[0]


@table
def test_merged_weights_compute_the_same(config: MethodConfig) -> None:
    model = tiny()
    base = snapshot(model)
    injection = inject(model, config)
    perturb(injection.trainable_parameters())
    expected = outputs(model, image())
    adapter = capture(injection)
    injection.remove()
    if not METHODS[config.method].mergeable:
        with pytest.raises(ConfigurationError, match="cannot be merged into plain weights"):
            merge(model, adapter)
        return
    merged = merge(model, adapter)

    assert same(snapshot(model), base)
    assert list(merged) == list(base)
    plain = tiny()
    plain.sam.load_state_dict(merged)
    error = (outputs(plain, image()) - expected).norm() / expected.norm()
    assert error <= 1e-5


@one_per_method
def test_strength_weakens_to_the_base_bit_for_bit(config: MethodConfig) -> None:
    model = tiny()
    base = outputs(model, image())
    injection = inject(model, config)
    perturb(injection.trainable_parameters(), 0.02)
    full, state = outputs(model, image()), injection.state()
    injection.set_strength(0)
    assert torch.equal(outputs(model, image()), base)
    injection.set_strength(1)
    assert torch.equal(outputs(model, image()), full)
    if not METHODS[config.method].scalable:
        with pytest.raises(ConfigurationError, match="not linear in its update"):
            injection.set_strength(0.5)
        assert torch.equal(outputs(model, image()), full)
        return
    changes = []
    if METHODS[config.method].mergeable:
        with injection.disabled():
            assert same(merge(model, capture(injection), 0), snapshot(model))
    for strength in (1e-3, 0.5):
        injection.set_strength(strength)
        changes.append((outputs(model, image()) - base).norm())
        assert same(injection.state(), state)
        with pytest.raises(ConfigurationError, match="trained at strength 1"):
            injection.parameter_groups(1e-4, 0)
        if METHODS[config.method].mergeable:
            with injection.disabled():
                merged = merge(model, capture(injection), strength)
            plain = tiny()
            plain.sam.load_state_dict(merged)
            torch.testing.assert_close(outputs(plain, image()), outputs(model, image()))
    assert 0 < changes[0] < 0.01 * (full - base).norm() + 0.01 * changes[1]
    assert changes[0] < changes[1] < 1.5 * (full - base).norm()
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigurationError, match="not within 0 and 1"):
            injection.set_strength(wrong)


@pytest.mark.parametrize("config", [c for n, c in CASES.items() if n in UNPLACED])
def test_embeddings_stay_valid_when_only_the_decoder_is_trained(config: MethodConfig) -> None:
    model = tiny()
    embedding = model.sam.image_encoder(image())
    injection = inject(model, config)
    perturb(injection.trainable_parameters())
    unchanged = torch.equal(model.sam.image_encoder(image()), embedding)
    assert capture(injection).changes_embeddings == (not unchanged)
    assert unchanged == (config.method == "frozen-encoder")


@one_per_method
def test_looking_at_an_adapter_does_not_freeze_the_model(config: MethodConfig) -> None:
    model = tiny()
    adapter = capture(injection := inject(model, config))
    injection.remove()
    model.sam.requires_grad_(True)
    if METHODS[config.method].mergeable:
        merge(model, adapter)
    if "rank" in type(config).model_fields:
        with pytest.raises(ConfigurationError, match="larger than the width"):
            inject(model, config.model_copy(update={"rank": 400}))
    assert all(p.requires_grad for p in model.sam.parameters())


def test_tensors_loaded_into_a_weakened_adapter_count_at_once() -> None:
    model = tiny()
    injection = inject(model, CASES["late-finetuning-last"])
    perturb(injection.trainable_parameters())
    trained = injection.state()
    injection.set_strength(0.5)
    half = outputs(model, image())
    injection.load({k: v + 0.1 for k, v in trained.items()})
    assert not torch.equal(outputs(model, image()), half)
    injection.load(trained)
    assert torch.equal(outputs(model, image()), half)


def test_dora_leaves_rows_of_zeros() -> None:
    model = tiny()
    with torch.no_grad():
        model.sam.image_encoder.blocks[1].attn.qkv.weight[3] = 0
    expected = outputs(model, image())
    injection = inject(model, CASES["dora-all"])
    assert torch.equal(outputs(model, image()), expected)
    perturb(injection.trainable_parameters())
    assert torch.isfinite(outputs(model, image())).all()


def test_small_scales_are_not_rounded_away_in_bf16() -> None:
    layer = ScaledShifted(torch.nn.Linear(64, 64))
    x = torch.randn(256, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        layer.gamma.fill_(1.003)  # between two numbers of bfloat16
        after = layer(x)
    assert not torch.equal(after, before)


@one_per_method
@pytest.mark.parametrize("grid", [(5, 9), (8, 3)], ids=["wide", "tall"])
def test_non_square_grids(config: MethodConfig, grid: tuple[int, int]) -> None:
    model = tiny()
    tokens = torch.randn(2, *grid, 16, generator=torch.Generator().manual_seed(0))
    blocks = model.sam.image_encoder.blocks[0], model.sam.image_encoder.blocks[2]  # windowed
    expected = [b(tokens) for b in blocks]
    with inject(model, config) as injection:
        assert all(torch.equal(b(tokens), e) for b, e in zip(blocks, expected, strict=True))
        perturb(injection.trainable_parameters())
        assert all(b(tokens).shape == tokens.shape for b in blocks)


@one_per_method
def test_bf16_autocast_is_finite(config: MethodConfig) -> None:
    model = tiny()
    injection = inject(model, config)
    perturb(injection.trainable_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        loss = outputs(model, image()).float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    for name, p in injection.trainable_parameters().items():
        if name.startswith("encoder."):
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
            assert p.grad.dtype == p.dtype == torch.float32, name


@one_per_method
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_whole_and_independent(config: MethodConfig, how: str) -> None:
    model = tiny()
    injection = inject(model, config)
    perturb(injection.trainable_parameters())
    expected = outputs(model, image())
    twin = _copied(injection, how)
    assert torch.equal(outputs(twin.model, image()), expected)
    perturb(twin.trainable_parameters())
    assert not torch.equal(outputs(twin.model, image()), expected)
    assert torch.equal(outputs(model, image()), expected)
    with pytest.raises(ConfigurationError, match="already carries"):
        inject(twin.model, config)
    twin.remove()
    assert same(snapshot(twin.model), snapshot(tiny()))


def _copied(injection: Injection, how: str) -> Injection:
    if how == "deepcopy":
        return copy.deepcopy(injection)
    if how == "pickle":
        return pickle.loads(pickle.dumps(injection))
    buffer = io.BytesIO()
    torch.save(injection, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@one_per_method
def test_the_start_is_repeatable_and_applying_leaves_the_generator_alone(
    config: MethodConfig,
) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(capture(inject(tiny(), config)))
    assert states[0].digest == states[1].digest
    before = torch.get_rng_state()
    model = tiny()
    apply_adapter(model, states[0]).remove()
    if METHODS[config.method].mergeable:
        merge(model, states[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", METHOD_OPTIONS)
def test_decoder_parts_can_be_fixed(name) -> None:
    options = METHOD_OPTIONS[name]
    part = parse_method_config({**options, "tune_prompt_encoder": False})
    names = inject(tiny(), part).trainable_parameters()
    assert any(n.startswith("decoder.mask_decoder.") for n in names)
    assert not any(n.startswith("decoder.prompt_encoder.") for n in names)


def test_nothing_to_train_is_refused() -> None:
    model = tiny()
    config = FrozenEncoderConfig(tune_mask_decoder=False, tune_prompt_encoder=False)
    with pytest.raises(ConfigurationError, match="nothing to train"):
        inject(model, config)
    inject(model, LoraConfig())


def test_a_method_that_changes_nothing_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(LoraConfig, "install", lambda self, surgery: None)
    with pytest.raises(ConfigurationError, match="found nothing to adapt"):
        inject(tiny(), LoraConfig())


def test_second_injection_is_refused_with_the_remedy() -> None:
    model = tiny()
    adapter = capture(injection := inject(model, LoraConfig()))
    for attempt in (lambda: inject(model, LoraConfig()), lambda: merge(model, adapter)):
        with pytest.raises(ConfigurationError, match="remove that injection first"):
            attempt()
    assert injection.strength == 1
    injection.remove()
    with pytest.raises(ConfigurationError, match="was removed"):
        injection.state()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_lora_rank": 9}, r"rank 9 is larger than the width 8 of mask_decoder"),
        ({"rank": 17}, r"rank 17 is larger than the width 16 of .*qkv: choose at most 16"),
        ({"placement": "1,4"}, r"names block 4, but this encoder has 4 blocks"),
    ],
    ids=["decoder", "rank", "placement"],
)
def test_options_that_do_not_fit_the_model_leave_it_whole(options, message) -> None:
    model = tiny()
    base, modules = snapshot(model), [id(m) for m in model.sam.modules()]
    for method in ("lora", "cobot-lora"):
        fitting = {"rank": 20} if method == "cobot-lora" and "rank" in options else options
        config = parse_method_config({"method": method, **fitting})
        with pytest.raises(ConfigurationError, match=message.replace("17", "(17|20)")):
            inject(model, config)
        assert same(snapshot(model), base)
        assert [id(m) for m in model.sam.modules()] == modules
    inject(model, LoraConfig())


def test_a_foreign_layer_is_refused() -> None:
    model = tiny()
    model.sam.image_encoder.blocks[1].attn.qkv = torch.nn.Identity()
    with pytest.raises(ConfigurationError, match=r"expected a linear layer at .*found Identity"):
        inject(model, LoraConfig())


# --- an encoder that no adapters fit into ----------------------------------------------


@pytest.fixture(scope="module")
def untouched() -> SamModel:
    """Return a model that every test here leaves as it was, and says so."""
    return build_random("vit_t")


@pytest.mark.parametrize(
    "config",
    [c for n, c in CASES.items() if n.endswith("-all")],
    ids=[n for n in CASES if n.endswith("-all")],
)
def test_adapters_are_refused_before_anything_is_touched(
    config: MethodConfig, small_vit_t: Architecture, untouched: SamModel
) -> None:
    model = untouched
    base = snapshot(model)
    message = r".+ is not available for vit_t, .*: choose the method frozen-encoder, or anoth"
    with pytest.raises(ConfigurationError, match=message):
        inject(model, config)
    with pytest.raises(ConfigurationError, match=message):
        count_parameters(small_vit_t, config)
    forged = Adapter(config, BaseIdentity.of(model), {})
    with pytest.raises(ConfigurationError, match=message):
        merge(model, forged)
    assert same(snapshot(model), base)
    assert all(p.requires_grad for p in model.sam.parameters())  # not even frozen


@pytest.mark.usefixtures("small_vit_t")
def test_its_decoder_is_trained_all_the_same() -> None:
    model = build_random("vit_t")
    base, x = snapshot(model), torch.randn(1, 3, 128, 128)
    with inject(model, FrozenEncoderConfig()) as injection:
        optimiser = optimiser_of(injection, 1e-3)
        losses = []
        for _ in range(3):
            optimiser.zero_grad()
            loss = outputs(model, x).square().mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        adapter, trained = capture(injection), snapshot(model)
    assert all(name.startswith("decoder.") for name in adapter.tensors)
    assert same(snapshot(model), base)
    assert same(merge(model, adapter), trained)
