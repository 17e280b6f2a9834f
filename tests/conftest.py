"""What every test may rely on: one thread, and no trace of the user's own files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import pytest

if TYPE_CHECKING:
    from napari_peftsam.models import Architecture, SamModel

# Read when numpy, torch and napari are first imported, hence before any of them.
# Tiny models are faster on one thread, and sums come out the same on every machine.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# An empty path keeps napari's settings in memory.
os.environ["NAPARI_CONFIG"] = ""
# Building the font cache takes seconds: keep the user's although caches are isolated below.
os.environ.setdefault("MPLCONFIGDIR", platformdirs.user_cache_dir("matplotlib"))

_USER_FOLDERS = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")


@pytest.fixture(scope="session", autouse=True)
def _isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep fixtures of wider scope out of the user's folders, too."""
    with pytest.MonkeyPatch.context() as patch:
        _isolate(patch, tmp_path_factory.mktemp("user"))
        yield


@pytest.fixture(scope="session")
def user_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return names for folders; pytest's own numbers cost a look at all the folders before."""
    root = tmp_path_factory.mktemp("users")
    return (root / str(number) for number in count())


@pytest.fixture(autouse=True)
def user_folder(monkeypatch: pytest.MonkeyPatch, user_folders: Iterator[Path]) -> Path:
    """Give each test empty cache, configuration, data and state folders; return their parent."""
    folder = next(user_folders)
    folder.mkdir()
    _isolate(monkeypatch, folder)
    return folder


def _isolate(patch: pytest.MonkeyPatch, folder: Path) -> None:
    for variable in _USER_FOLDERS:
        patch.setenv(variable, str(folder / variable.split("_")[1].lower()))
    for variable in [name for name in os.environ if name.startswith("NAPARI_PEFTSAM_")]:
        patch.delenv(variable)


@pytest.fixture
def tiny_model() -> SamModel:
    """Return a fresh SAM of 4 blocks, width 16 and 64 px with random weights."""
    from napari_peftsam.models import build_tiny

    return build_tiny()


@pytest.fixture
def small_vit_t(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """Let ``vit_t`` have a frame of 128 px; its tensors do not depend on it, the time does."""
    from napari_peftsam.models import ARCHITECTURES

    small = replace(ARCHITECTURES["vit_t"], image_size=128)
    monkeypatch.setitem(ARCHITECTURES, "vit_t", small)
    return small


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``gpu`` where there is no CUDA device."""
    gpu_tests = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_tests:  # torch takes seconds to import
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_tests:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def own_models(user_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that writes the user's ``models.toml``."""
    monkeypatch.setenv("NAPARI_PEFTSAM_CONFIG", str(user_folder))

    def write(text: str) -> Path:
        path = user_folder / "models.toml"
        path.write_text(text)
        return path

    return write
