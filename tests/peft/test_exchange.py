"""Adapters in the formats of other programs: what is exact, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from napari_peftsam.errors import (
    AdapterMismatchError,
    ConfigurationError,
    ExportError,
    InputFileError,
)
from napari_peftsam.models import ARCHITECTURES, build_random, build_tiny
from napari_peftsam.peft import (
    METHODS,
    Adapter,
    ExpectedAdapter,
    LoraConfig,
    MethodConfig,
    Placement,
    capture,
    export_hf_peft,
    import_adapter,
    inject,
    load_adapter,
    merge,
    parse_method_config,
    restore_adapter,
    save_adapter,
)
from napari_peftsam.peft.methods.qlora import QLoraConfig
from tests.peft._cases import CASES, METHOD_OPTIONS, UNPLACED, image, outputs, perturb, tiny
from tests.peft._exchange import (
    BLOCK,
    CONFIG,
    OWN,
    WEIGHTS,
    assert_equal,
    assert_same,
    exported,
    trained,
)

MORE: dict[str, dict[str, Any]] = {
    "dora-decoder": {"method": "dora", "rank": 2, "alpha": 0.5, "decoder_lora_rank": 4},
    "dora-all-linear": {"method": "dora", "rank": 2, "matrices": "all-linear", "alpha": 2},
    "lora-fixed-decoder": {
        "method": "lora", "tune_mask_decoder": False, "tune_prompt_encoder": False,
    },
    "lora-mask-decoder": {"method": "lora", "rank": 3, "tune_prompt_encoder": False},
    "frozen-encoder": {"method": "frozen-encoder"},
    "decoder-lora": {"method": "frozen-encoder", "decoder_lora_rank": 4},
    # From 20 target modules on, peft shortens their names.
    "lora-everything": {
        "method": "lora", "rank": 2, "matrices": "all-linear", "decoder_lora_rank": 2,
        "placement": "0,1,3",
    },
}  # fmt: skip
LOW_RANK: dict[str, MethodConfig] = {
    name: config
    for name, config in CASES.items()
    if METHODS[config.method].low_rank and (name.endswith("-0,2") or name == "lora-all")
} | {name: parse_method_config(options) for name, options in MORE.items()}
low_rank = pytest.mark.parametrize("config", LOW_RANK.values(), ids=LOW_RANK.keys())


# --- our adapters in vanilla peft --------------------------------------------------------


@dataclass(frozen=True)
class Export:
    """A folder that no test may change, and what it was made of."""

    adapter: Adapter
    folder: Path
    expected: Tensor


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[MethodConfig], Export]:
    @cache
    def make(config: MethodConfig) -> Export:
        adapter, expected = trained(config)
        folder = tmp_path_factory.mktemp("exports") / "hf"
        export_hf_peft(tiny(), adapter, folder)
        return Export(adapter, folder, expected)

    return make


@low_rank
def test_vanilla_peft_computes_the_same(
    config: MethodConfig, export: Callable[[MethodConfig], Export]
) -> None:
    made, model = export(config), tiny()
    base = outputs(model, image())
    assert (made.expected - base).norm() > 1e-3 * base.norm()
    theirs = PeftModel.from_pretrained(model.sam, made.folder)
    assert_equal(outputs(model, image()), made.expected)
    with theirs.disable_adapter():
        assert torch.equal(outputs(model, image()), base)
    theirs.merge_and_unload()
    assert_equal(outputs(model, image()), made.expected)


@low_rank
def test_what_was_exported_is_read_back_identical(
    config: MethodConfig, export: Callable[[MethodConfig], Export]
) -> None:
    made = export(config)
    found = import_adapter(made.folder, tiny())
    assert (found.digest, found.config) == (made.adapter.digest, config)
    assert found.base == made.adapter.base
    assert (found.provenance, found.metrics) == (made.adapter.provenance, made.adapter.metrics)
    assert all(torch.equal(found.tensors[n], t) for n, t in made.adapter.tensors.items())
    # Only what is not in the tensors for peft is kept beside them.
    folded = config.method in ("cobot-lora", "fact", "pissa")
    assert (made.folder / OWN).is_file() == folded


@low_rank
def test_without_our_description_it_is_an_equivalent_adapter(
    config: MethodConfig, export: Callable[[MethodConfig], Export], tmp_path: Path
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(export(config).folder, folder)
    anonymous(folder)
    assert restore_adapter(folder) is None
    found = import_adapter(folder, tiny())
    assert_same(found, export(config).expected)
    plain = {"dora": "dora", "frozen-encoder": "frozen-encoder"}.get(config.method, "lora")
    assert found.config.method == plain
    rank = getattr(config, "rank", None)
    assert getattr(found.config, "rank", None) == (2 * rank if config.method == "pissa" else rank)
    for option in ("placement", "matrices", "decoder_lora_rank", "tune_mask_decoder"):
        wanted = getattr(config, option, getattr(found.config, option, None))
        assert str(getattr(found.config, option, None)) == str(wanted)


def test_what_was_never_trained_can_be_imported_and_saved(tmp_path: Path) -> None:
    with inject(tiny(), LoraConfig(rank=2)) as injection:
        adapter = capture(injection)
    export_hf_peft(tiny(), adapter, tmp_path / "hf")
    anonymous(tmp_path / "hf")
    found = import_adapter(tmp_path / "hf", tiny())
    save_adapter(found, tmp_path / "a.safetensors")
    assert load_adapter(tmp_path / "a.safetensors").digest == found.digest


def anonymous(folder: Path) -> None:
    """Let peft's tensors be all that is left, as after training there."""
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / OWN).unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["lora-decoder-0,2", "dora-all-linear", "lora-mask-decoder"])
def test_it_is_what_peft_itself_would_save(
    name: str, export: Callable[[MethodConfig], Export], tmp_path: Path
) -> None:
    folder = export(LOW_RANK[name]).folder
    PeftModel.from_pretrained(tiny().sam, folder).save_pretrained(tmp_path)
    theirs, ours = (load_file(path / WEIGHTS) for path in (tmp_path, folder))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[key], tensor) for key, tensor in ours.items())
    theirs, ours = (json.loads((path / CONFIG).read_text()) for path in (tmp_path, folder))
    assert {k: v for k, v in theirs.items() if k in ours and k != "target_modules"} == {
        k: v for k, v in ours.items() if k != "target_modules"
    }
    assert set(theirs["target_modules"]) == set(ours["target_modules"])


def test_rows_of_no_length_cannot_be_divided_by_it(tmp_path: Path) -> None:
    model = tiny()
    with torch.no_grad():
        model.sam.image_encoder.blocks[1].attn.qkv.weight[20] = 0
    adapter, _ = trained(parse_method_config({"method": "dora", "rank": 2}), model)
    with pytest.raises(ConfigurationError, match=r"a row of image_encoder\.blocks\.1\.attn\.qkv"):
        export_hf_peft(model, adapter, tmp_path / "hf")


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    adapter, _ = trained(LoraConfig(rank=2))
    halves = replace(adapter, tensors={k: v.half() for k, v in adapter.tensors.items()})
    export_hf_peft(tiny(), halves, tmp_path / "hf")
    assert {t.dtype for t in load_file(tmp_path / "hf" / WEIGHTS).values()} == {torch.float32}
    assert restore_adapter(tmp_path / "hf").digest == halves.digest


def test_q_and_v_become_one_layer_of_twice_the_rank(tmp_path: Path) -> None:
    adapter, _ = trained(LoraConfig(rank=3, alpha=0.5, placement="1-2"))
    export_hf_peft(tiny(), adapter, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / CONFIG).read_text())
    layers = [f"{BLOCK}{block}.attn.qkv" for block in (1, 2)]
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (6, 3, layers)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert config["modules_to_save"] == ["mask_decoder", "prompt_encoder"]
    tensors = load_file(tmp_path / "hf" / WEIGHTS)
    down, up = (tensors[f"base_model.model.{layers[0]}.lora_{half}.weight"] for half in "AB")
    own = {
        name: adapter.tensors[f"encoder.blocks.1.attn.qkv.slots.{name}"]
        for name in ("q.A", "q.B", "v.A", "v.B")
    }
    assert torch.equal(down, torch.cat([own["q.A"], own["v.A"]]))
    zeros = torch.zeros(16, 3)
    rows = (own["q.B"], zeros), (zeros, zeros), (zeros, own["v.B"])
    assert torch.equal(up, torch.cat([torch.cat(row, dim=1) for row in rows]))
    with safe_open(tmp_path / "hf" / WEIGHTS, "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_layers_of_other_ranks_are_told_by_name(tmp_path: Path) -> None:
    options = {"rank": 2, "alpha": 3, "matrices": "q,lin1,k,v", "decoder_lora_rank": 4}
    folder, _ = exported(LoraConfig(**options, placement="1,3"), tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (6, 18)
    encoder = {f"{BLOCK}{block}.mlp.lin1": (2, 6) for block in (1, 3)}
    for layer, (rank, alpha) in encoder.items():
        assert config["rank_pattern"].pop(layer) == rank
        assert config["alpha_pattern"].pop(layer) == alpha
    assert all(re.fullmatch(r"mask_decoder.*\.[qv]_proj", k) for k in config["rank_pattern"])
    assert set(config["rank_pattern"].values()) == set(config["alpha_pattern"].values()) == {4}
    assert config["modules_to_save"] == ["prompt_encoder"]


@pytest.mark.parametrize(
    ("name", "method"), [("builtin", "lora"), ("vit_t", "frozen-encoder")], ids=["builtin", "vit_t"]
)
def test_other_architectures(
    name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its tensors do not depend on the frame, the time does.
    monkeypatch.setitem(ARCHITECTURES, name, replace(ARCHITECTURES[name], image_size=128))
    model = build_random(name)
    x = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), inject(model, parse_method_config({"method": method})) as injection:
        perturb(injection.trainable_parameters(), 0.02)
        adapter, expected = capture(injection), outputs(model, x)
        injection.remove()
        export_hf_peft(model, adapter, tmp_path / "hf")
        PeftModel.from_pretrained(model.sam, tmp_path / "hf")
        assert_equal(outputs(model, x), expected)


def test_qlora_is_written_without_a_gpu_and_is_exact_over_the_same_four_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    config = parse_method_config({"method": "qlora", "rank": 4, "placement": "2-3"})
    with monkeypatch.context() as patch:
        patch.setattr(QLoraConfig, "obstacle", staticmethod(lambda device: ""))
        adapter, expected = trained(config)
        model = tiny()
        untrained = capture(inject(model, config))
        dequantised = merge(tiny(), untrained)
    export_hf_peft(tiny(), adapter, tmp_path / "hf")
    assert restore_adapter(tmp_path / "hf").digest == adapter.digest
    plain = tiny()
    plain.sam.load_state_dict(dequantised)
    PeftModel.from_pretrained(plain.sam, tmp_path / "hf")
    assert_equal(outputs(plain, image()), expected)


REFUSED = {
    "ssf": "merge it into a plain checkpoint (export-model)",
    "late-finetuning": "merge it into a plain checkpoint (export-model)",
    "adaptformer": "use its adapter file",
    "cobot-adaptformer": "use its adapter file",
}


@pytest.mark.parametrize(
    "name", [n for n, o in METHOD_OPTIONS.items() if not METHODS[o["method"]].low_rank]
)
def test_what_is_no_low_rank_update_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    config = parse_method_config(METHOD_OPTIONS[name])
    adapter, _ = trained(config)
    with pytest.raises(ConfigurationError, match="is no low-rank update") as caught:
        export_hf_peft(tiny(), adapter, tmp_path / "hf")
    mergeable = METHODS[config.method].mergeable
    wanted = "merge it into a plain checkpoint" if mergeable else "use its adapter file"
    assert REFUSED.get(config.method, wanted) in str(caught.value)
    assert "train one of lora, cobot-lora" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_base_is_refused(tmp_path: Path) -> None:
    adapter, _ = trained(LoraConfig(rank=2))
    with pytest.raises(AdapterMismatchError, match="was trained on random-tiny"):
        export_hf_peft(build_tiny(seed=1), adapter, tmp_path / "hf")
    export_hf_peft(tiny(), adapter, tmp_path / "hf")
    with pytest.raises(AdapterMismatchError, match="was trained on random-tiny"):
        import_adapter(tmp_path / "hf", build_tiny(seed=1))


@pytest.mark.parametrize("foreign", ["notes.txt", CONFIG, WEIGHTS])
def test_no_other_folder_is_replaced(foreign: str, tmp_path: Path) -> None:
    adapter, _ = trained(LoraConfig(rank=2))
    folder = tmp_path / "hf"
    folder.mkdir()
    export_hf_peft(tiny(), adapter, folder)  # an empty one
    export_hf_peft(tiny(), adapter, folder)  # an older export
    if foreign == WEIGHTS:
        save_adapter(adapter, folder / WEIGHTS)
    elif foreign == CONFIG:
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / CONFIG).write_text("{}")
    else:
        (folder / foreign).write_text("precious")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ExportError, match="holds other files than an export of napari-peftsam"):
        export_hf_peft(tiny(), adapter, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


# --- what changed since the export -------------------------------------------------------


def test_what_peft_trained_on_is_read_as_it_is_now(tmp_path: Path) -> None:
    folder, before = exported(LoraConfig(rank=2, matrices="q,v,lin1"), tmp_path)
    model = tiny()
    theirs = PeftModel.from_pretrained(model.sam, folder, is_trainable=True)
    perturb({n: p for n, p in theirs.named_parameters() if p.requires_grad}, 0.03)
    theirs.eval()
    expected = outputs(model, image())
    theirs.save_pretrained(folder)
    found = import_adapter(folder, tiny())
    assert (found.config.rank, str(found.config.matrices)) == (4, "q,k,v,lin1")
    assert_same(found, expected)
    assert (expected - before).norm() > 1e-2 * before.norm()


def test_an_edited_factor_counts(tmp_path: Path) -> None:
    folder, _ = exported(LoraConfig(rank=2), tmp_path)
    config = json.loads((folder / CONFIG).read_text()) | {"lora_alpha": 10}
    (folder / CONFIG).write_text(json.dumps(config))
    assert import_adapter(folder, tiny()).config.alpha == 2.5


def test_a_half_copied_folder_is_the_equivalent_lora(tmp_path: Path) -> None:
    folder, expected = exported(CASES["cobot-all"], tmp_path)
    (folder / OWN).unlink()
    found = import_adapter(folder, tiny())
    assert found.config.method == "lora"
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:900]),
            "is damaged or not a safetensors file",
            id="truncated",
        ),
        pytest.param(
            lambda f: (f / OWN).write_bytes(b""), "is damaged or not a safetensors", id="empty"
        ),
        pytest.param(
            lambda f: save_file({k: v + 1 for k, v in load_file(f / OWN).items()}, f / OWN),
            "do not match its checksum",
            id="other tensors",
        ),
        pytest.param(lambda f: (f / CONFIG).write_text("{"), "not valid JSON", id="no JSON"),
        pytest.param(lambda f: (f / CONFIG).write_text("3"), "hold a JSON object", id="a number"),
        pytest.param(
            lambda f: redescribed(f, "{"), "description inside .* is damaged", id="description"
        ),
        pytest.param(
            lambda f: redescribed(f, '{"tensors": []}'), "description inside .* is dam", id="part"
        ),
    ],
)
def test_damage_is_told(spoil: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    folder, _ = exported(CASES["cobot-all"], tmp_path)
    spoil(folder)
    with pytest.raises(AdapterMismatchError, match=message) as caught:
        import_adapter(folder, tiny())
    assert "\n" not in str(caught.value)


def redescribed(folder: Path, text: str) -> None:
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata() | {"napari_peftsam_export": text}
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, metadata=metadata)


# --- neither -----------------------------------------------------------------------------


def test_what_cannot_be_imported_at_all(tmp_path: Path) -> None:
    adapter, _ = trained(LoraConfig(rank=2))
    save_adapter(adapter, tmp_path / "own.safetensors")
    (tmp_path / "empty").mkdir()
    for source, error, message in [
        ("nowhere", InputFileError, "no such file or folder"),
        ("empty", InputFileError, r"has no adapter_config\.json: choose a folder that HF peft"),
        ("own.safetensors", ConfigurationError, "is an adapter file of napari-peftsam already"),
    ]:
        with pytest.raises(error, match=message):
            import_adapter(tmp_path / source, tiny())


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (ExpectedAdapter(rank=3), r"hf has rank 2, but 3 was given"),
        (ExpectedAdapter(alpha=2), "hf has alpha 1, but 2 was given"),
        (
            ExpectedAdapter(placement=Placement("last")),
            r"hf adapts late-50% blocks, but the placement last",
        ),
    ],
    ids=["rank", "alpha", "placement"],
)
def test_an_adapter_must_be_as_expected(
    expected: ExpectedAdapter, message: str, tmp_path: Path
) -> None:
    folder, _ = exported(LoraConfig(rank=2, placement="late-50%"), tmp_path)
    fitting = ExpectedAdapter(rank=2, alpha=1, placement=Placement.parse("2,3"))
    assert str(import_adapter(folder, tiny(), fitting).config.placement) == "late-50%"
    for attempt in (
        lambda: import_adapter(folder, tiny(), expected),
        lambda: restore_adapter(folder, expected),
    ):
        with pytest.raises(ConfigurationError, match=message):
            attempt()


def test_unplaced_methods_are_in_the_table() -> None:
    assert {"frozen-encoder", "decoder-lora"} <= LOW_RANK.keys() & set(UNPLACED)
