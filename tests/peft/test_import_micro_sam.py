"""Checkpoints of micro-sam's LoRA training become adapters, or are refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from napari_peftsam.errors import AdapterMismatchError, CheckpointError, PeftSamError
from napari_peftsam.models import build, build_random, build_tiny
from napari_peftsam.peft import Placement, Told, import_adapter
from tests.peft._cases import tiny
from tests.peft._exchange import assert_same
from tests.peft._micro_sam import micro_sam_checkpoint

MATRICES = {"qv": "attention", "q": "q", "qkv12": "all-linear", "12": "lin1,lin2"}


@pytest.mark.parametrize("told", [True, False], ids=["told", "found"])
@pytest.mark.parametrize(
    ("placement", "parts"), [("0,2", "qv"), ("all", "q"), ("late-50%", "qkv12"), ("last", "12")]
)
def test_a_checkpoint_of_micro_sam_becomes_lora(
    placement: str, parts: str, told: bool, tmp_path: Path
) -> None:
    path, chosen = tmp_path / "best.pt", Placement.parse(placement)
    expected = micro_sam_checkpoint(path, chosen.blocks(4), parts)
    known = Told(rank=3, placement=chosen, alpha=1) if told else Told()
    adapter = import_adapter(path, tiny(), known)
    assert_same(adapter, expected)
    shown = placement if told else {"late-50%": "2-3", "last": "3"}.get(placement, placement)
    options = adapter.config.model_dump(mode="json")
    wanted = {"method": "lora", "rank": 3, "alpha": 1.0, "placement": shown,
              "matrices": MATRICES[parts]}  # fmt: skip
    assert {name: options[name] for name in wanted} == wanted
    assert adapter.provenance == {"imported_from": "best.pt"}


def test_its_factor_can_be_told(tmp_path: Path) -> None:
    micro_sam_checkpoint(tmp_path / "best.pt")
    plain, doubled = (
        import_adapter(tmp_path / "best.pt", tiny(), Told(alpha=alpha)) for alpha in (1, 2)
    )
    assert (plain.config.alpha, doubled.config.alpha) == (1, 2)
    assert all(torch.equal(plain.tensors[n], t) for n, t in doubled.tensors.items())


def resaved(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        torch.save(
            {"model_state": change(torch.load(path, weights_only=False)["model_state"])}, path
        )

    return save


WRONG_CHECKPOINTS: dict[str, tuple[Callable[[Path], None], Told, str]] = {
    "another rank": (lambda p: None, Told(rank=4), r"best\.pt has rank 3, but 4 was given"),
    "another placement": (
        lambda p: None, Told(placement=Placement("all")),
        r"best\.pt adapts 0,2 blocks, but the placement all \(0-3\) was given",
    ),
    "another base": (
        resaved(lambda s: {k: v + ("pos_embed" in k) for k, v in s.items()}), Told(),
        r"best\.pt was not trained on random-tiny: its frozen image encoder is another one; choose",
    ),
    "another frozen layer": (
        resaved(lambda s: {k: v + ("0.attn.qkv.qkv_proj.bias" in k) for k, v in s.items()}), Told(),
        r"was not trained on random-tiny",
    ),
    "no LoRA": (
        resaved(lambda s: tiny().sam.state_dict()), Told(), r"has no LoRA layers of micro-sam",
    ),
    "half a pair": (
        resaved(lambda s: {k: v for k, v in s.items() if "0.attn.qkv.w_a_linear_q" not in k}),
        Told(), r"1 unexpected \(image_encoder\.blocks\.0\.attn\.qkv\.w_b_linear_q\.weight\)",
    ),
    "4-bit weights": (
        resaved(lambda s: {k: v.to(torch.uint8) if "qkv_proj.w" in k else v for k, v in s.items()}),
        Told(), r"has LoRA layers that do not fit: .* is no plain matrix",
    ),
    "one matrix in fewer blocks": (
        resaved(lambda s: {k: v for k, v in s.items() if not re.search(r"2.*linear_v", k)}), Told(),
        r"adapts q in the blocks 0,2 and v in 0, but adapters here",
    ),
    "another architecture": (
        lambda p: torch.save(build_random("builtin").sam.state_dict(), p), Told(),
        r"has no LoRA layers of micro-sam",
    ),
    "hidden code": (
        lambda p: torch.save({"model_state": {"a": shutil.copyfile}}, p), Told(),
        r"holds more than tensors and is not loaded",
    ),
    "no checkpoint": (
        lambda p: p.write_bytes(p.read_bytes()[:99]), Told(), r"is not a readable checkpoint",
    ),
    "factor 0": (lambda p: None, Told(alpha=0), r"option 'alpha' is 0, allowed is more than 0"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "told", "message"), WRONG_CHECKPOINTS.values(), ids=WRONG_CHECKPOINTS.keys()
)
def test_checkpoints_that_do_not_fit_are_refused_in_one_line(
    spoil: Callable[[Path], None], told: Told, message: str, tmp_path: Path
) -> None:
    micro_sam_checkpoint(tmp_path / "best.pt")
    spoil(tmp_path / "best.pt")
    with pytest.raises(PeftSamError, match=message) as caught:
        import_adapter(tmp_path / "best.pt", tiny(), told)
    assert "\n" not in str(caught.value)


def test_the_model_to_choose_is_named(tmp_path: Path, own_models: Callable[[str], Path]) -> None:
    micro_sam_checkpoint(tmp_path / "best.pt")
    torch.save(tiny().sam.state_dict(), tmp_path / "base.pth")
    torch.save(build_tiny(seed=1).sam.state_dict(), tmp_path / "other.pth")
    own_models(
        "".join(
            f'[[model]]\nname = "{name}"\npath = "{tmp_path / name}.pth"\n'
            for name in ("other", "base")
        )
    )
    with pytest.raises(AdapterMismatchError, match=r"choose the model base, which has it$"):
        import_adapter(tmp_path / "best.pt", build_tiny(seed=2))
    with pytest.raises(CheckpointError, match="tiny, but builtin is one of builtin: choose"):
        import_adapter(tmp_path / "best.pt", build("builtin"))
