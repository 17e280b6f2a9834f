"""What a user installs: wheel, sdist and editable checkout all carry a working manifest."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from hatchling.builders.wheel import WheelBuilder
from npe2 import PluginManifest

import napari_peftsam

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MANIFEST = "napari_peftsam/napari.yaml"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and from it a wheel, as for a release; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return folder


@pytest.fixture(scope="module", params=["from sdist", "from checkout"])
def wheel(
    request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[zipfile.ZipFile]:
    if request.param == "from sdist":
        (path,) = built.glob("*.whl")
    else:
        path = build_wheel(ROOT, tmp_path_factory.mktemp("wheel"), "standard")
    with zipfile.ZipFile(path) as archive:
        yield archive


def build_wheel(root: Path, folder: Path, version: str) -> Path:
    (path,) = WheelBuilder(str(root)).build(directory=str(folder), versions=[version])
    return Path(path)


def package_files() -> set[str]:
    files = (p for p in (ROOT / "napari_peftsam").rglob("*") if p.is_file())
    return {p.relative_to(ROOT).as_posix() for p in files if p.suffix != ".pyc"}


def test_the_version_is_the_one_of_the_project() -> None:
    assert napari_peftsam.__version__ == PROJECT["version"]


def test_a_wheel_holds_the_package_and_the_manifest_once(wheel: zipfile.ZipFile) -> None:
    names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert sorted(names) == sorted(package_files() | {MANIFEST})
    assert wheel.read(MANIFEST) == (ROOT / "napari.yaml").read_bytes()


def test_a_wheel_declares_its_entry_points_and_licence(wheel: zipfile.ZipFile) -> None:
    info = f"napari_peftsam-{PROJECT['version']}.dist-info"
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "napari-peftsam = napari_peftsam:napari.yaml" in entry_points
    assert "napari-peftsam = napari_peftsam.cli:main" in entry_points
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_the_sdist_holds_sources_only(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {PurePosixPath(*PurePosixPath(n).parts[1:]) for n in archive.getnames()}
    files = {str(name) for name in names}
    required = {"pyproject.toml", "hatch_build.py", "napari.yaml", "README.md", "LICENSE"}
    assert required <= files
    assert "tests/test_packaging.py" in files
    assert MANIFEST not in files
    assert not {name.parts[0] for name in names if name.parts} & {".venv", "dist", "demo-output"}


@pytest.mark.parametrize("links_allowed", [True, False], ids=["link", "copy"])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_an_editable_install_puts_the_manifest_beside_the_sources(
    links_allowed: bool, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "napari_peftsam").mkdir(parents=True)
    for name in ("pyproject.toml", "hatch_build.py", "napari.yaml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    if not links_allowed:
        monkeypatch.setattr(Path, "symlink_to", _refuse)
    for _ in range(1 + again):
        editable = build_wheel(checkout, tmp_path / "out", "editable")

    manifest = checkout / MANIFEST
    assert manifest.is_symlink() == links_allowed
    assert manifest.read_bytes() == (ROOT / "napari.yaml").read_bytes()
    # What is in site-packages is not imported: only a pointer to the checkout belongs there.
    with zipfile.ZipFile(editable) as archive:
        assert archive.read("_napari_peftsam.pth").decode() == str(checkout)
        assert MANIFEST not in archive.namelist()


def _refuse(*_: object, **__: object) -> None:
    raise OSError("symbolic links are not allowed here")


def test_the_installed_manifest_has_the_name_of_the_distribution() -> None:
    assert PluginManifest.from_distribution("napari-peftsam").name == PROJECT["name"]


def test_everything_the_manifest_names_can_be_imported() -> None:
    PluginManifest.from_distribution("napari-peftsam").validate_imports()


# What must not be loaded by importing a module: a command or a dock has to open at once.
HEAVY = {
    "napari_peftsam": {"numpy", "torch", "napari", "qtpy"},
    "napari_peftsam.types": {"torch", "napari", "qtpy"},
    "napari_peftsam.files": {"torch", "napari", "qtpy"},
    "napari_peftsam.samples": {"torch", "napari", "qtpy"},
    "napari_peftsam.document": {"torch", "zarr", "napari", "qtpy"},
    "napari_peftsam.export": {"torch", "napari", "qtpy"},
    "napari_peftsam.models": {"timm", "napari", "qtpy"},
    "napari_peftsam.widgets": {"torch"},
    "napari_peftsam.cli": {"torch", "napari", "qtpy"},
}


@pytest.mark.parametrize(("module", "heavy"), HEAVY.items(), ids=HEAVY)
def test_importing_stays_light(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = run(sys.executable, "-c", code).split()
    assert not heavy & set(loaded)
