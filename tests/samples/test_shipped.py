"""The sample images in the package."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from napari_peftsam import samples
from napari_peftsam.errors import InputFileError
from napari_peftsam.samples import (
    ShippedSample,
    SyntheticName,
    shipped_samples,
    shipped_synthetic,
)

DATA = Path(samples.__file__).parent / "data"
README = (DATA / "README.md").read_text("utf-8")


@pytest.mark.parametrize("sample", shipped_samples(), ids=lambda s: s.name)
def test_a_sample_fits_its_labels_and_its_description(sample: ShippedSample) -> None:
    pixels, labels = sample.read()
    assert (pixels.shape, pixels.dtype) == ((256, 320, 3), np.uint8)
    assert labels.shape == (256, 320)
    row = next(line for line in README.splitlines() if sample.name in line)
    assert row.startswith(f"| {sample.split} |")
    assert row.endswith(f"| {len(np.unique(labels)) - 1} |")


def test_no_slide_is_in_both_parts() -> None:
    rows = [line.split("|") for line in README.splitlines() if "dsb_histo_0" in line]
    slides = {part: {r[4] for r in rows if r[1].strip() == part} for part in ("train", "held_out")}
    assert len(slides["train"]) == 5
    assert len(slides["held_out"]) == 3
    assert not slides["train"] & slides["held_out"]


def test_they_are_small_and_free() -> None:
    files = [p for s in shipped_samples() for p in (s.image_path, s.label_path)]
    assert sum(p.stat().st_size for p in files) < 1_500_000
    assert "CC0 1.0" in README


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    sample = ShippedSample("a", "train", tmp_path / "a.png", tmp_path / "a.png")
    with pytest.raises(InputFileError, match="install the package again"):
        sample.read()


def test_a_package_without_them_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(samples, "_FOLDER", tmp_path)
    with pytest.raises(InputFileError, match="no sample images"):
        shipped_samples()


@pytest.mark.parametrize("name", get_args(SyntheticName))
def test_a_synthetic_sample_is_small_and_described(name: SyntheticName) -> None:
    pixels = shipped_synthetic(name)
    assert (pixels.shape, pixels.dtype) == ((256, 256), np.uint8)
    assert (DATA / "synthetic" / f"{name}.png").stat().st_size < 40_000
    assert f"synthetic/{name}.png" in README
