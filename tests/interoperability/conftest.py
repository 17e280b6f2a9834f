"""A checkpoint of the real size, as the original package writes it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import segment_anything
import torch

from tests.interoperability._cases import randomise_positions


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write a ViT-B with random weights by `segment_anything`; return its path."""
    path = tmp_path_factory.mktemp("segment-anything") / "sam_vit_b.pth"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = segment_anything.sam_model_registry["vit_b"]()
    randomise_positions(sam)
    torch.save(sam.state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Keep nothing: each test writes up to a gigabyte, and pytest keeps its last runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)
