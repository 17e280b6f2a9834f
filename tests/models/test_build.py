"""Models are built by name or path, safely, and misfits are explained."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from napari_peftsam.errors import CheckpointError, ConfigurationError, ImageError, PeftSamError
from napari_peftsam.models import (
    REGISTRY,
    ModelEntry,
    architecture,
    build,
    build_random,
    build_tiny,
    construct,
    decoder_state_dict,
    encode_steps,
    encode_tensor,
    hash_weights,
    pick_device,
    read_state_dict,
    to_model_input,
)

State = dict[str, torch.Tensor]
PATIENCE = 60.0  # s; a limit for a hanging test, not a demand


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save(build_tiny().sam.state_dict(), path)
    return path


def test_a_checkpoint_path_gives_the_same_network(checkpoint: Path) -> None:
    model, original = build(checkpoint), build_tiny()
    assert model.name == "tiny"
    assert model.architecture == architecture("tiny")
    assert model.weights_hash == original.weights_hash
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encode_tensor(model.sam, x), encode_tensor(original.sam, x))


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_the_architectures_have_the_keys_of_segment_anything(name: str) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        ours = construct(architecture(name)).state_dict()
        theirs = sam_model_registry[name]().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_a_vit_b_checkpoint_is_loaded_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(build_random("vit_b").sam.state_dict(), path)
    model = build(path)
    assert (model.architecture.name, model.image_size) == ("vit_b", 1024)
    assert model.sam.image_encoder.pos_embed.shape == (1, 64, 64, 768)


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def training_state(state: State) -> dict[str, object]:
    """What a training program saves: the network among much else."""
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    return {
        "model_state": prefixed("sam.", state),
        "decoder_state": layer.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "iteration": 3,
        "best_metric": 0.25,
    }


WRAPPERS: dict[str, Callable[[State], object]] = {
    "plain": lambda s: s,
    "ordered": OrderedDict,
    "model_state": lambda s: {"model_state": s, "epoch": 3},
    "state_dict": lambda s: {"state_dict": s},
    "model": lambda s: {"model": s},
    "model in state_dict": lambda s: {"state_dict": {"model": s}},
    "state_dict in model": lambda s: {"model": {"state_dict": s}},
    "module.": lambda s: prefixed("module.", s),
    "sam.": lambda s: prefixed("sam.", s),
    "module.sam.": lambda s: prefixed("module.sam.", s),
    "sam.module.": lambda s: prefixed("sam.module.", s),
    "module.module.": lambda s: prefixed("module.module.", s),
    "torch.compile": lambda s: prefixed("_orig_mod.", s),
    "torch.compile in DDP": lambda s: prefixed("module._orig_mod.", s),
    "Lightning": lambda s: {"state_dict": prefixed("model.", s), "global_step": 2},
    "model_state_dict": lambda s: {
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []},
        "model_state_dict": s,
    },
    "any name": lambda s: {"trained": {"net": s}, "epoch": 3},
    "wrapped and prefixed": lambda s: {"model_state": prefixed("module.sam.", s)},
    "parameters": lambda s: {k: torch.nn.Parameter(v) for k, v in s.items()},
    "with other values": lambda s: {**s, "epoch": 3, "name": "tiny"},
    "a training program's": training_state,
}


def test_several_state_dicts_in_one_file_are_refused(tmp_path: Path) -> None:
    state = build_tiny().sam.state_dict()
    torch.save({"student": state, "teacher": state}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"several state dicts \(student, teacher\)"):
        build(tmp_path / "x.pt", "cpu")


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_wrapped_state_dicts_are_recognised(
    wrap: Callable[[State], object], tmp_path: Path
) -> None:
    path = tmp_path / "wrapped.pt"
    torch.save(wrap(build_tiny().sam.state_dict()), path)
    assert build(path).weights_hash == build_tiny().weights_hash


def test_a_safetensors_file_with_prefixes(tmp_path: Path) -> None:
    path = tmp_path / "prefixed.safetensors"
    save_file(prefixed("module.sam.", build_tiny().sam.state_dict()), path)
    assert build(path).weights_hash == build_tiny().weights_hash


class _Evil:
    """What a hostile checkpoint holds: code that runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return shutil.copyfile, (__file__, "evil-was-here")


class _EvilMethod:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("evil-was-here"),)


class _EvilCommand:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch evil-was-here",)


class _EvilSource:
    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("open('evil-was-here', 'w')",)


class _Settings(dict):  # type: ignore[type-arg]
    """An object of a program that is not here; its items are set when it is unpickled."""


# What is saved with the weights, and what a refusal names
NOT_ONLY_TENSORS: dict[str, tuple[object, str]] = {
    "numpy number": (np.float64(0.25), r"asks for numpy\.\S+scalar"),
    "numpy array": (np.zeros(3), r"asks for numpy\.\S+_reconstruct"),
    "path": (Path("a"), r"asks for pathlib\S+Path"),
    "class": (torch.optim.AdamW, r"asks for torch\.optim\.adamw\.AdamW"),
    "network": (torch.nn.Linear(2, 2), r"asks for torch\.nn\.modules\.linear\.Linear"),
    "partial": (partial(torch.add, 1), r"asks for functools\.partial"),
}
HARMFUL: dict[str, tuple[object, str]] = {
    "hidden code": (_Evil(), r"asks for shutil\.copyfile"),
    "hidden source": (_EvilSource(), r"asks for builtins\.exec"),
    "hidden command": (_EvilCommand(), r"asks for (posix|nt)\.system"),
}
not_only_tensors = pytest.mark.parametrize(
    ("extra", "reason"), NOT_ONLY_TENSORS.values(), ids=NOT_ONLY_TENSORS.keys()
)


def change(part: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    """Return what changes the tensors of a state dict whose names contain `part`."""

    def changed(state: State) -> State:
        assert any(re.search(part, key) for key in state)
        return {k: make(v) if re.search(part, k) else v for k, v in state.items()}

    return changed


def vast_lora(state: State, side: int) -> State:
    """Let a LoRA pair and what it adapts claim to be so large; they store one number."""
    block = "image_encoder.blocks.2.mlp."
    sizes = {
        "mlp_layer.lin1": (side, side), "w_b_linear_1": (side, 2), "w_a_linear_1": (2, side),
    }  # fmt: skip
    vast = {f"{block}{k}.weight": torch.zeros(1).expand(size) for k, size in sizes.items()}
    return {**state, **vast}


def with_lora(state: State, spoil: Callable[[State], State] = lambda s: s) -> State:
    """Return a state dict as micro-sam's LoRA training names it, changed by `spoil`."""
    block = "image_encoder.blocks.2."
    for wrapped in ("attn.qkv.", "mlp."):
        inner = {"attn.qkv.": "qkv_proj.", "mlp.": "mlp_layer."}[wrapped]
        prefix = f"{block}{wrapped}"
        state = {k.replace(prefix, prefix + inner): v for k, v in state.items()}
    generator = torch.Generator().manual_seed(0)
    sizes = {"attn.qkv": {"q": (16, 16), "v": (16, 16)}, "mlp": {"1": (16, 64), "2": (64, 16)}}
    for layer, parts in sizes.items():
        for part, (ins, outs) in parts.items():
            down, up = (f"{block}{layer}.w_{m}_linear_{part}.weight" for m in "ab")
            state[down] = torch.randn(2, ins, generator=generator)
            state[up] = torch.randn(outs, 2, generator=generator)
    return spoil(state)


def test_lora_layers_of_micro_sam_are_folded(tmp_path: Path) -> None:
    path, plain = tmp_path / "lora.pt", build_tiny().sam.state_dict()
    saved = with_lora(plain)
    torch.save({"model_state": prefixed("sam.", saved)}, path)
    found = build(path).sam.state_dict()
    block = "image_encoder.blocks.2."
    for layer, part, rows, target in [
        ("attn.qkv", "q", slice(0, 16), "attn.qkv"),
        ("attn.qkv", "v", slice(32, 48), "attn.qkv"),
        ("mlp", "1", slice(None), "mlp.lin1"),
        ("mlp", "2", slice(None), "mlp.lin2"),
    ]:
        down, up = (saved[f"{block}{layer}.w_{m}_linear_{part}.weight"] for m in "ab")
        key = f"{block}{target}.weight"
        torch.testing.assert_close(found[key][rows], plain[key][rows] + up @ down)
    changed = {k for k in plain if not torch.equal(found[k], plain[k])}
    assert changed == {f"{block}{name}.weight" for name in ("attn.qkv", "mlp.lin1", "mlp.lin2")}
    qkv = f"{block}attn.qkv.weight"
    assert torch.equal(found[qkv][16:32], plain[qkv][16:32])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            lambda s: {k: v for k, v in s.items() if "w_a_linear_q" not in k},
            r"1 unexpected \(image_encoder\.blocks\.2\.attn\.qkv\.w_b_linear_q\.weight\)",
            id="half a pair",
        ),
        pytest.param(
            lambda s: {k: v[:, 1:] if "w_b_linear_v" in k else v for k, v in s.items()},
            "LoRA layers that do not fit",
            id="rank",
        ),
        pytest.param(
            change(r"w_b_linear_q", lambda v: v[:5]),
            r"LoRA layers that do not fit: .*w_b_linear_q\.weight and its pair are 5 x 2 and "
            r"2 x 16, .*attn\.qkv\.weight is 48 x 16$",
            id="too few rows",
        ),
        pytest.param(
            change(r"w_b_linear_2", lambda v: v[:1]),
            r"are 1 x 2 and 2 x 64, .*mlp\.lin2\.weight is 16 x 64$",
            id="one row",
        ),
        pytest.param(
            change(r"w_a_linear_v", lambda v: v[:, :1]),
            r"are 16 x 2 and 2 x 1, .*attn\.qkv\.weight is 48 x 16$",
            id="one column",
        ),
        pytest.param(
            change(r"w_a_linear_1", lambda v: v[..., None]), "is no plain matrix", id="no matrix"
        ),
        pytest.param(
            change(r"2\.mlp\.mlp_layer\.lin1\.weight", lambda v: (9 * v).to(torch.int8)),
            "is no plain matrix",
            id="integers",
        ),
        pytest.param(change(r"w_b_linear_1", lambda v: v * 1j), "is no plain matrix", id="complex"),
        pytest.param(
            lambda s: vast_lora(s, 10**7), "is no plain matrix", id="larger than any memory"
        ),
        pytest.param(
            lambda s: {k: v for k, v in s.items() if "mlp_layer.lin1.weight" not in k},
            "LoRA layers that do not fit",
            id="no base",
        ),
    ],
)
def test_lora_layers_that_do_not_fit_are_refused(
    spoil: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "lora.pt"
    torch.save(with_lora(build_tiny().sam.state_dict(), spoil), path)
    with pytest.raises(CheckpointError, match=message):
        build(path)


@not_only_tensors
def test_objects_beside_the_wrapped_weights_are_passed_over(
    extra: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "training.pt"
    allowed = set(torch.serialization.get_safe_globals())
    torch.save({"model_state": build_tiny().sam.state_dict(), "init": {"extra": [extra]}}, path)
    assert build(path).weights_hash == build_tiny().weights_hash
    assert not Path("evil-was-here").exists()
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_two_threads_read_the_same_training_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, load = tmp_path / "training.pt", torch.load
    torch.save({"model_state": build_tiny().sam.state_dict(), "init": Path("a")}, path)
    first_is_done, second_asks = threading.Event(), threading.Event()
    states: list[State] = []

    class Lock:
        """A lock that announces the second thread."""

        inner = threading.Lock()

        def __enter__(self) -> None:
            if threading.current_thread() is second:
                second_asks.set()
            self.inner.acquire()

        def __exit__(self, *_: object) -> None:
            self.inner.release()

    monkeypatch.setattr("napari_peftsam.models.checkpoint._LOCK", Lock())
    second = threading.Thread(target=lambda: states.append(read_state_dict(path)))

    def in_turns(*arguments: object, **options: object) -> object:
        if threading.current_thread() is second:
            second_asks.set()
            first_is_done.wait(PATIENCE)
        else:  # what it may make is allowed now: let the other one find out what it may make
            second.start()
            assert second_asks.wait(PATIENCE)
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", in_turns)
    states.append(read_state_dict(path))
    first_is_done.set()
    second.join(PATIENCE)
    assert [hash_weights(state) for state in states] == [build_tiny().weights_hash] * 2


@pytest.mark.parametrize(
    ("extra", "reason"), {**NOT_ONLY_TENSORS, **HARMFUL}.values(), ids=[*NOT_ONLY_TENSORS, *HARMFUL]
)
@pytest.mark.parametrize(
    "save",
    [
        pytest.param(lambda state, extra: {**state, "extra": extra}, id="among"),
        pytest.param(lambda state, extra: {"model_state": {**state, "a": extra}}, id="wrapped"),
        pytest.param(lambda state, extra: {"model": extra}, id="instead"),
        pytest.param(lambda state, extra: extra, id="alone"),
    ],
)
def test_objects_among_the_weights_are_refused_and_named(
    save: Callable[[State, object], object], extra: object, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "training.pt"
    torch.save(save(build_tiny().sam.state_dict(), extra), path)
    with pytest.raises(CheckpointError, match=rf"{reason}\): save its state dict alone") as caught:
        build(path)
    assert str(caught.value).isprintable()  # torch's own words hold colours and lines


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        pytest.param(_Evil(), r"shutil\.copyfile", id="code"),
        pytest.param(_EvilSource(), r"builtins\.exec", id="source"),
        pytest.param(_EvilCommand(), r"(posix|nt)\.system", id="command"),
        pytest.param(_EvilMethod(), r"(builtins\.)?getattr", id="method"),
        pytest.param(_Settings(a=1), r"\S+_Settings", id="dictionary"),
    ],
)
def test_what_cannot_be_passed_over_is_refused_and_named(
    extra: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "training.pt"
    torch.save({"model_state": build_tiny().sam.state_dict(), "init": extra}, path)
    with pytest.raises(CheckpointError, match=rf"asks for {reason}\): save its state dict alone"):
        build(path)
    assert not Path("evil-was-here").exists()


@pytest.mark.skipif(os.name == "nt", reason="makes a pipe")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_is_a_regular_file(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(PeftSamError):
        build(tmp_path / f"pipe{suffix}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            lambda s: {k: v for k, v in s.items() if not k.startswith("mask_decoder.iou_pred")},
            r"6 missing \(mask_decoder\.iou_prediction_head\.layers\.0\.bias, .*, .*, …\)$",
            id="missing",
        ),
        pytest.param(
            lambda s: {**s, "a": torch.zeros(1), "b": torch.zeros(1)},
            r"tensors 2 unexpected \(a, b\)$",
            id="unexpected",
        ),
        pytest.param(
            lambda s: {**s, "mask_decoder.iou_token.weight": torch.zeros(1, 7)},
            r"1 of another shape \(mask_decoder\.iou_token\.weight: 1 x 7 instead of 1 x 16\)$",
            id="shape",
        ),
        pytest.param(
            lambda s: {**{k: v for k, v in s.items() if "iou_token" not in k}, "a": torch.ones(1)},
            r"1 missing \(mask_decoder\.iou_token\.weight\); 1 unexpected \(a\)$",
            id="renamed",
        ),
    ],
)
def test_a_misfit_is_told_in_one_line(
    spoil: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "misfit.pt"
    torch.save(spoil(build_tiny().sam.state_dict()), path)
    with pytest.raises(CheckpointError, match=message):
        build(path)


TOKEN = r"mask_decoder\.iou_token\.weight"


@pytest.mark.parametrize(
    ("part", "make", "message"),
    [
        pytest.param(
            "", lambda v: v.to(torch.int8), r"\(.*: int8 instead of float32, …\)$", id="int8"
        ),
        pytest.param(
            TOKEN, torch.Tensor.long,
            rf"1 of another kind of number \({TOKEN}: int64 instead of float32\)$", id="one int64",
        ),
        pytest.param(TOKEN, lambda v: v > 0, r"1 .* \(.*: bool instead of float32\)$", id="bool"),
        pytest.param(
            TOKEN, lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
            r"1 of another kind of number \(.*: qint8 instead of float32\)$", id="quantised",
        ),
        pytest.param(
            TOKEN, lambda v: v * 1j, r"1 of another kind of number \(.*: complex64 instead of",
            id="complex",
        ),
        pytest.param(
            TOKEN, torch.Tensor.to_sparse, rf"1 of another layout \({TOKEN}: sparse_coo\)$",
            id="sparse",
        ),
        pytest.param(
            TOKEN, lambda v: v.to("meta"), rf"1 without values \({TOKEN}\)$", id="meta"
        ),
        pytest.param(
            TOKEN, lambda v: torch.full_like(v, torch.nan), rf"1 not finite \({TOKEN}\)$", id="nan"
        ),
        pytest.param(
            TOKEN, lambda v: v.half() - torch.inf, rf"1 not finite \({TOKEN}\)$", id="infinite"
        ),
        pytest.param(
            TOKEN, lambda v: v.double() + 1e300, rf"1 not finite \({TOKEN}\)$",
            id="too large for a float",
        ),
        pytest.param(
            TOKEN, lambda v: v[:1, :1].half().expand(10**7, 10**6),
            rf"1 of another shape \({TOKEN}: 10000000 x 1000000 instead of 1 x 16\)$",
            id="larger than any memory",
        ),
    ],
)  # fmt: skip
# torch has something to say on making quantised tensors and on reading sparse ones
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_tensors_that_are_no_weights_are_told_in_one_line(
    part: str, make: Callable[[torch.Tensor], torch.Tensor], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.pt"
    torch.save(change(part, make)(build_tiny().sam.state_dict()), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        build(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(torch.Tensor.double, id="double"),
        pytest.param(lambda v: torch._neg_view(-v), id="negated lazily"),
        pytest.param(lambda v: v.mT.contiguous().mT if v.ndim > 1 else v, id="transposed"),
        pytest.param(lambda v: torch.nn.Parameter(v.double()), id="double parameters"),
    ],
)
def test_the_same_values_in_another_form_are_the_same_weights(
    make: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "tiny.pt"
    torch.save(change("", make)(build_tiny().sam.state_dict()), path)
    model = build(path)
    assert model.weights_hash == build_tiny().weights_hash
    found = model.sam.state_dict().values()
    assert all(v.dtype == torch.float32 and v.is_contiguous() for v in found)


def test_an_expanded_weight_stores_each_of_its_values(tmp_path: Path) -> None:
    path = tmp_path / "expanded.pt"
    torch.save(
        change(TOKEN, lambda v: v[0, :1].clone().expand(1, 16))(build_tiny().sam.state_dict()), path
    )
    token = build(path).sam.mask_decoder.iou_token.weight
    assert token.untyped_storage().nbytes() == token.nbytes


@pytest.mark.parametrize("depth", [16, None], ids=["17 wrappers", "in itself"])
def test_wrappers_without_end_are_refused(depth: int | None, tmp_path: Path) -> None:
    path, outer = tmp_path / "endless.pt", {}
    outer["model"] = outer
    if depth is not None:
        outer = {"model": build_tiny().sam.state_dict()}
        for _ in range(depth):
            outer = {"state_dict": outer}
    torch.save(outer, path)
    with pytest.raises(CheckpointError, match="more than 16 mappings in each other, or one that"):
        build(path)


# --- the decoder for automatic segmentation --------------------------------------------

DECODER = {"out_conv.weight": torch.ones(3, 4), "out_conv.bias": torch.zeros(3)}


def with_decoder(**options: object) -> ModelEntry:
    return ModelEntry("cells", "", "tiny", 0, "", "", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(DECODER, id="plain"),
        pytest.param(OrderedDict(DECODER), id="ordered"),
        pytest.param(prefixed("module.", DECODER), id="prefixed"),
        pytest.param({"decoder_state": DECODER}, id="decoder_state"),
        pytest.param({"state_dict": DECODER}, id="state_dict"),
    ],
)
def test_a_decoder_is_read(content: object) -> None:
    entry = with_decoder(decoder_url="https://a.org/d.pt")
    entry.target("decoder").parent.mkdir(parents=True)
    torch.save(content, entry.target("decoder"))
    torch.testing.assert_close(decoder_state_dict(entry), DECODER)


def test_a_decoder_beside_its_model_is_read(tmp_path: Path) -> None:
    path = tmp_path / "both.pt"
    torch.save({"model_state": build_tiny().sam.state_dict(), "decoder_state": DECODER}, path)
    torch.testing.assert_close(decoder_state_dict(with_decoder(file=path)), DECODER)
    assert build(path).weights_hash == build_tiny().weights_hash


def test_a_decoder_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(ConfigurationError, match="`napari-peftsam download vit_b_lm --decoder`"):
        decoder_state_dict(REGISTRY["vit_b_lm"])


@pytest.mark.parametrize(("name", "message"), [("builtin", "no decoder"), ("vit_b", "not on this")])
def test_a_model_without_a_decoder(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        decoder_state_dict(REGISTRY[name])


def test_a_decoder_is_read_as_safely_as_a_model() -> None:
    entry = with_decoder(decoder_url="https://a.org/d.pt")
    entry.target("decoder").parent.mkdir(parents=True)
    torch.save({**DECODER, "evil": _Evil()}, entry.target("decoder"))
    with pytest.raises(CheckpointError, match="could run code"):
        decoder_state_dict(entry)


def test_safetensors_in_half_precision_are_loaded_as_float(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({k: v.half().contiguous() for k, v in build_tiny().sam.state_dict().items()}, path)
    model = build(path)
    assert next(model.sam.parameters()).dtype == torch.float32


BYTES_OF_A_LENGTH = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x70\x85R."
ZIPS = {
    "compressed parts": (zipfile.ZIP_DEFLATED, b""),
    "a large pickle": (zipfile.ZIP_STORED, bytes(9 * 1024**2)),
    "many lists": (zipfile.ZIP_STORED, b"]" * 1_000_001),
    "many lists in capitals": (zipfile.ZIP_STORED, b"]" * 1_000_001),
    "bytes of a length": (zipfile.ZIP_STORED, BYTES_OF_A_LENGTH),
    "text that doubles": (
        zipfile.ZIP_STORED,
        b"\x80\x02"
        + 33 * b"c_codecs\nencode\n"
        + b"X\x04\x00\x00\x00aaaa"
        + 33 * b"X\x03\x00\x00\x00hex\x86R"
        + b".",
    ),
    "lists behind a name that is no ASCII": (
        zipfile.ZIP_STORED,
        b"\x80\x02c\xc3\xa9\na\n" + b"]" * 1_000_001,
    ),
    "numbers of one hash": (
        zipfile.ZIP_STORED,
        b"".join(pickle.dumps(n * (2**61 - 1), 2)[2:-1] for n in range(9, 1010)) + b".",
    ),
    "tuples as keys": (
        zipfile.ZIP_STORED,
        pickle.dumps({(n,): n for n in range(1001)}, 2),
    ),
    "a long text": (zipfile.ZIP_STORED, b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a."),
}
SAME = reduce(lambda inner, _: dict.fromkeys(range(20), inner), range(15), {})
EMPTY_ARCHIVE = b"PK\5\6" + bytes(18)
PLAIN = {
    "empty": b"",
    "garbage": b"not a checkpoint at all",
    "bytes of a length in the older format": 4 * pickle.dumps(1) + BYTES_OF_A_LENGTH,
    "many lists in the older format": 3 * pickle.dumps(1) + b"]" * 1_000_001,
    "many lists before an archive": 3 * pickle.dumps(1) + b"]" * 1_000_001 + EMPTY_ARCHIVE,
}


def _write(path: Path, kind: str) -> None:  # noqa: C901  # one branch per kind
    state = build_tiny().sam.state_dict()
    if kind == "pickled objects":
        torch.save({"state": _Evil()}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(_Evil(), protocol=2))
    elif kind in PLAIN:
        path.write_bytes(PLAIN[kind])
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "a damaged part":
        torch.save(state, path)
        path.write_bytes(path.read_bytes().replace(b"image_encoder", b"image_Encoder", 1))
    elif kind == "another network":
        torch.save(torch.nn.Linear(3, 3).state_dict(), path)
    elif kind == "unknown width":
        torch.save({"image_encoder.blocks.0.norm1.weight": torch.zeros(7)}, path)
    elif kind == "missing keys":
        torch.save({k: v for k, v in state.items() if "mask_decoder" not in k}, path)
    elif kind == "extra keys":
        torch.save({**state, "surprise": torch.zeros(1)}, path)
    elif kind == "escapes":
        torch.save({**state, "\x1b]0;owned\x07": torch.zeros(1)}, path)
    elif kind in ZIPS:
        with zipfile.ZipFile(path, "w", ZIPS[kind][0]) as file:
            name = "archive/DATA.PKL" if "capitals" in kind else "archive/data.pkl"
            file.writestr(name, ZIPS[kind][1])
            file.writestr("archive/version", "3\n")
    else:
        content = {"a list": [1, 2, 3], "nothing in it": {}, "the same in many places": SAME}
        torch.save(content[kind], path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pickled objects", "could run code"),
        ("plain pickle", "could run code|not a readable checkpoint"),
        ("garbage", "not a readable checkpoint|could run code"),
        ("empty", "not a readable checkpoint"),
        ("a damaged part", "it is damaged"),
        ("truncated", "not a readable checkpoint"),
        ("another network", "no SAM image encoder"),
        ("nothing in it", "holds no tensors"),
        ("unknown width", "1 blocks, 7 wide"),
        ("missing keys", "missing"),
        ("extra keys", "unexpected.*surprise"),
        ("escapes", r"unexpected.*\\x1b\]0;owned\\x07"),
        ("compressed parts", "has compressed parts"),
        ("a large pickle", "describes its tensors in 9 MB"),
        ("many lists", "more than 1,000,000 plain values"),
        ("many lists in the older format", "more than 1,000,000 plain values"),
        ("many lists in capitals", "more than 1,000,000 plain values"),
        ("many lists before an archive", "more than 1,000,000 plain values"),
        ("numbers of one hash", "more than 1,000 large numbers"),
        ("tuples as keys", "holds more than tensors"),
        ("a long text", "not a readable checkpoint|could run code"),
        ("bytes of a length", "holds more than tensors"),
        ("bytes of a length in the older format", "holds more than tensors"),
        ("text that doubles", "holds more than tensors"),
        ("lists behind a name that is no ASCII", "not a readable checkpoint"),
        ("a list", "not a state dict"),
        ("the same in many places", "holds no tensors"),
    ],
)
def test_bad_checkpoints_are_refused_with_the_reason(
    kind: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    _write(path, kind)
    with pytest.raises(CheckpointError, match=message):
        build(path)
    assert not Path("evil-was-here").exists()


@pytest.mark.parametrize("first", range(0, 256, 5))
def test_no_first_byte_gets_through(first: int, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(bytes([first]) * 50)
    with pytest.raises(CheckpointError):
        build(path)


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        build(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nonsense", "unknown model 'nonsense'.*builtin"), ("vit_b", "not on this computer")],
)
def test_a_name_that_cannot_be_loaded_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(name)


def test_unknown_architectures_and_devices_name_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="vit_b"):
        architecture("vit_x")
    with pytest.raises(ConfigurationError, match="cuda"):
        pick_device("tpu")
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in {"cpu", "cuda", "mps"}


def test_the_hash_sees_values_and_names_but_not_order() -> None:
    state = {"a": torch.ones(2), "b": torch.zeros(2)}
    same = dict(reversed(state.items()))
    assert hash_weights(state) == hash_weights(same)
    assert hash_weights(state) != hash_weights({**state, "b": torch.tensor([0.0, 1e-7])})
    assert hash_weights(state) != hash_weights({"a": state["a"], "c": state["b"]})


def test_encoding_in_steps_equals_encoding_at_once() -> None:
    model = build_tiny()
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        *progress, (last, embedding) = encode_steps(model.sam, x)
        torch.testing.assert_close(embedding, encode_tensor(model.sam, x), rtol=0, atol=0)
    fractions = [fraction for fraction, _ in progress]
    assert fractions == sorted(fractions)
    assert last == 1
    assert len(fractions) == model.architecture.depth + 1


@pytest.mark.parametrize(
    ("shape", "inner"),
    [
        pytest.param((32, 32), (64, 64), id="enlarged"),
        pytest.param((128, 64), (64, 32), id="portrait"),
        pytest.param((10, 40), (16, 64), id="landscape"),
        pytest.param((64, 64, 3), (64, 64), id="rgb"),
    ],
)
def test_images_are_scaled_by_the_longer_side_and_padded(
    shape: tuple[int, ...], inner: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    x = to_model_input(pixels, build_tiny())
    assert x.shape == (1, 3, 64, 64)
    rows, cols = inner
    assert x[..., :rows, :cols].abs().sum() > 0
    assert x[..., rows:, :].abs().sum() == 0
    assert x[..., cols:].abs().sum() == 0


@pytest.mark.parametrize(
    ("make", "same"),
    [
        pytest.param(lambda x: x.astype(np.uint16) * 257, True, id="16-bit"),
        pytest.param(lambda x: x.astype(np.float32) / 255 - 3, True, id="float"),
        pytest.param(lambda x: x[..., None].repeat(3, -1), True, id="grey-as-rgb"),
        pytest.param(lambda x: 255 - x, False, id="inverted"),
    ],
)
def test_the_model_sees_the_same_whatever_the_number_format(make, same: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    model = build_tiny()
    ours, theirs = to_model_input(pixels, model), to_model_input(make(pixels), model)
    assert torch.allclose(ours, theirs, atol=1e-3) is same


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        pytest.param(np.full((8, 8), 7), "constant", id="constant"),
        pytest.param(np.full((8, 8), np.nan), "no finite value", id="all-nan"),
        pytest.param(np.zeros((2, 8, 8)), "one plane", id="stack"),
        pytest.param(np.zeros((0, 8)), "one plane", id="empty"),
        pytest.param(np.zeros((8, 8), complex), "real numbers", id="complex"),
    ],
)
def test_images_without_content_are_refused(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        to_model_input(pixels, build_tiny())


def test_a_few_missing_values_count_as_the_darkest() -> None:
    pixels = np.random.default_rng(0).random((32, 32))
    pixels[0, 0] = pixels.min()
    holed = pixels.copy()
    holed[0, 0] = np.nan
    model = build_tiny()
    torch.testing.assert_close(to_model_input(holed, model), to_model_input(pixels, model))
