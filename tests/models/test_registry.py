"""The table of models, the user's own, and where their files are."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xxhash

from napari_peftsam.errors import CheckpointError, ConfigurationError
from napari_peftsam.folders import embedding_folder, model_folder, use_model_folder
from napari_peftsam.models import (
    ARCHITECTURES,
    REGISTRY,
    ModelEntry,
    available_models,
    build,
    build_tiny,
    find_model,
    model_names,
)

META = "https://dl.fbaipublicfiles.com/segment_anything"
ZOO = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"
GWDG = "https://owncloud.gwdg.de/index.php/s"
MICRO_SAM = ("vit_b_lm", "vit_l_lm", "vit_b_em_organelles", "vit_l_em_organelles")
Write = Callable[[str], Path]

# --- the table -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "architecture", "license_name", "url", "decoder"),
    [
        ("vit_b", "vit_b", "Apache-2.0", f"{META}/sam_vit_b_01ec64.pth", ""),
        ("vit_l", "vit_l", "Apache-2.0", f"{META}/sam_vit_l_0b3195.pth", ""),
        ("vit_h", "vit_h", "Apache-2.0", f"{META}/sam_vit_h_4b8939.pth", ""),
        ("vit_t", "vit_t", "Apache-2.0", f"{GWDG}/TuDzuwVDHd1ZDnQ/download", ""),
        ("vit_b_lm", "vit_b", "CC-BY-4.0", f"{ZOO}/diplomatic-bug/1.2/files/vit_b.pt", "vit_b"),
        ("vit_l_lm", "vit_l", "CC-BY-4.0", f"{ZOO}/idealistic-rat/1.2/files/vit_l.pt", "vit_l"),
        (
            "vit_b_em_organelles", "vit_b", "CC-BY-4.0",
            f"{ZOO}/noisy-ox/1.2/files/vit_b.pt", "vit_b",
        ),
        (
            "vit_l_em_organelles", "vit_l", "CC-BY-4.0",
            f"{ZOO}/humorous-crab/1.2/files/vit_l.pt", "vit_l",
        ),
    ],
)  # fmt: skip
def test_where_the_models_come_from(
    name: str, architecture: str, license_name: str, url: str, decoder: str
) -> None:
    entry = REGISTRY[name]
    assert (entry.architecture, entry.license, entry.url) == (architecture, license_name, url)
    folder = url.rpartition("/")[0]
    assert entry.decoder_url == (f"{folder}/{decoder}_decoder.pt" if decoder else "")


def test_the_table() -> None:
    assert list(REGISTRY) == ["builtin", "vit_b", "vit_l", "vit_h", "vit_t", *MICRO_SAM]
    assert model_names() == tuple(REGISTRY)
    for entry in REGISTRY.values():
        assert entry.architecture in ARCHITECTURES
        assert entry.title
        assert re.fullmatch(r"[^.]+[^.]*\.", entry.purpose), entry.purpose
        assert entry.megabytes > 0
    downloaded = [e for e in REGISTRY.values() if e.name != "builtin"]
    digests = [d for e in downloaded for d in (e.xxh128, e.decoder_xxh128) if d]
    assert len(set(digests)) == len(digests) == len(downloaded) + len(MICRO_SAM)
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in digests)
    assert all(e.citation and e.source.startswith("https://") for e in downloaded)


# --- where files are -----------------------------------------------------------------


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_model_is_available_once_it_is_in_the_folder(user_folder: Path) -> None:
    entry = REGISTRY["vit_b_lm"]
    assert not entry.available
    assert (entry.path, entry.decoder_path) == (None, None)
    assert touch(entry.target()).is_relative_to(user_folder / "cache")
    assert entry.available
    assert (entry.path, entry.decoder_path) == (entry.target(), None)
    assert touch(entry.target("decoder")) == entry.decoder_path != entry.path


def test_the_folder_can_be_chosen(
    tmp_path: Path, user_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_folder().is_relative_to(user_folder)
    assert model_folder().parent == embedding_folder().parent
    monkeypatch.setenv("NAPARI_PEFTSAM_MODELS", str(tmp_path / "variable"))
    assert REGISTRY["vit_b"].target().parent == tmp_path / "variable"
    use_model_folder(tmp_path / "preference")
    assert REGISTRY["vit_b"].target().parent == tmp_path / "preference"
    touch(REGISTRY["vit_b"].target())
    found = find_model("vit_b")
    assert found is not None
    assert found.available
    assert [e.name for e in available_models() if e.available] == ["builtin", "vit_b"]


def test_another_version_of_a_file_is_another_file() -> None:
    def target(url: str, xxh128: str = "") -> Path:
        return ModelEntry("cells", "", "", 0, "", "", url=url, xxh128=xxh128).target()

    one, other = "https://a.org/1/m.pt", "https://a.org/2/m.pt"
    assert target(one) != target(other)
    assert target(one, "a" * 32) != target(one, "b" * 32)
    assert target(one, "a" * 32) == target(other, "a" * 32)  # a mirror
    assert {target(one).suffix, target("https://a.org/x").suffix} == {".pt", ".pth"}
    assert target("https://a.org/m.safetensors?download=1").suffix == ".safetensors"


@pytest.mark.parametrize("name", ["vit_b", "vit_l_lm"])
def test_a_model_that_is_not_here_says_how_to_get_it(name: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"not on this computer: .* `napari-peftsam download {name}`"
    ):
        build(name)


# --- the user's own ------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "nuclei.pth"
    torch.save(build_tiny().sam.state_dict(), path)
    return path


def test_own_models_follow_the_table_and_load_by_name(own_models: Write, checkpoint: Path) -> None:
    own_models(
        f'[[model]]\nname = "nuclei"\npath = "{checkpoint.as_posix()}"\ntitle = "Our nuclei"\n'
        '[[model]]\nname = "cells-2"\nurl = "https://a.org/cells.pt"\nmegabytes = 374.6\n'
        f'xxh128 = "{"A" * 32}"\npurpose = "Cells."\nlicense = "CC0-1.0"\ncitation = "We."\n'
    )
    *table, nuclei, cells = available_models()
    assert [e.name for e in table] == list(REGISTRY)
    assert (nuclei.name, nuclei.title, nuclei.path) == ("nuclei", "Our nuclei", checkpoint)
    assert nuclei.megabytes == 1  # the file's
    assert build("nuclei").name == "nuclei"
    assert (cells.title, cells.purpose, cells.license) == ("cells-2", "Cells.", "CC0-1.0")
    assert (cells.megabytes, cells.xxh128, cells.available) == (375, "a" * 32, False)
    with pytest.raises(ConfigurationError, match="napari-peftsam download cells-2"):
        build("cells-2")


def test_paths_are_relative_to_the_file_or_to_home(
    own_models: Write, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    monkeypatch.setenv("USERPROFILE", str(checkpoint.parent))
    file = own_models(
        '[[model]]\nname = "a"\npath = "sub/a.pth"\n'
        '[[model]]\nname = "b"\npath = "~/nuclei.pth"\n'
        '[[model]]\nname = "c"\npath = "~nobody-of-this-name/c.pth"\n'
    )
    a, b, c = available_models()[-3:]
    assert a.file == file.parent / "sub" / "a.pth"
    assert b.path == checkpoint
    assert (a.available, b.available, c.available) == (False, True, False)
    with pytest.raises(ConfigurationError, match=r"'a' is not on this computer: .*a\.pth is mis"):
        build("a")


@pytest.mark.parametrize("right", [True, False])
def test_the_digest_of_an_own_file_is_verified(
    right: bool, own_models: Write, checkpoint: Path
) -> None:
    digest = xxhash.xxh128_hexdigest(checkpoint.read_bytes() if right else b"other")
    path = checkpoint.as_posix()
    own_models(f'[[model]]\nname = "nuclei"\npath = "{path}"\nxxh128 = "{digest}"\n')
    if right:
        assert build("nuclei").name == "nuclei"
    else:
        with pytest.raises(CheckpointError, match=f"digest {digest} given for 'nuclei'"):
            build("nuclei")


def entry(text: str) -> str:
    return f'[[model]]\nname = "fine"\npath = "a.pth"\n[[model]]\n{text}\n'


SECOND = "models.toml, model 2"
BAD = {
    "no TOML": ("[[model", "is not valid TOML"),
    "other table": ("[models]", "must hold .*model.* tables and nothing else"),
    "one table": ('[model]\nname = "a"', "must hold .*model.* tables"),
    "a text": ('model = "a"', "must hold .*model.* tables"),
    "a list of texts": ('model = ["a"]', "models.toml, model 1: must be a"),
    "empty": (entry(""), f"{SECOND}: needs a name"),
    "no name": (entry('path = "a.pth"'), f"{SECOND}: needs a name"),
    "name is a number": (entry('name = 3\npath = "a"'), rf"{SECOND} \(3\): name must be a text"),
    "name with a dot": (entry('name = "a.pth"\npath = "a"'), r"\('a\.pth'\): needs a name"),
    "name with a slash": (entry('name = "../a"\npath = "a"'), "needs a name of letters"),
    "no place": (entry('name = "a"'), rf"{SECOND} \('a'\): needs either a path or a url"),
    "two places": (entry('name = "a"\npath = "a"\nurl = "https://a.org/a"'), "either a path or"),
    "empty path": (entry('name = "a"\npath = ""'), "path must be a text that is not empty"),
    "no address": (entry('name = "a"\nurl = "a.org/a.pt"'), "must begin with https://"),
    "no host": (entry('name = "a"\nurl = "https:///a.pt"'), "must begin with https://"),
    "broken address": (entry('name = "a"\nurl = "https://[::1/a"'), "must begin with https://"),
    "other protocol": (entry('name = "a"\nurl = "file:///a.pt"'), "must begin with https://"),
    "short digest": (entry('name = "a"\npath = "a"\nxxh128 = "abc"'), "32 hexadecimal digits"),
    "title is a list": (entry('name = "a"\npath = "a"\ntitle = ["a"]'), "title must be a text"),
    "size is a text": (entry('name = "a"\npath = "a"\nmegabytes = "3"'), "megabytes must be"),
    "size is true": (entry('name = "a"\npath = "a"\nmegabytes = true'), "megabytes must be"),
    "negative size": (entry('name = "a"\npath = "a"\nmegabytes = -3'), "megabytes must be"),
    "no size at all": (entry('name = "a"\npath = "a"\nmegabytes = nan'), "megabytes must be"),
    "infinite size": (entry('name = "a"\npath = "a"\nmegabytes = inf'), "megabytes must be"),
    "unknown key": (entry('name = "a"\npath = "a"\nxxh = "a"'), "unknown key 'xxh', the keys are"),
    "name of the table": (entry('name = "vit_b"\npath = "a"'), "comes with the program"),
    "nearly the same": (entry('name = "VIT_B"\npath = "a"'), "comes with the program"),
    "twice": (entry('name = "fine"\npath = "b"'), rf"{SECOND} \('fine'\): .* is listed before"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_a_wrong_file_names_itself_and_the_entry(
    text: str, message: str, own_models: Write
) -> None:
    file = own_models(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        available_models()
    assert str(caught.value).startswith(str(file))


def test_a_wrong_file_is_not_in_the_way_of_other_models(
    own_models: Write, checkpoint: Path
) -> None:
    own_models("[[model")
    assert build("builtin").name == "builtin"
    assert build(checkpoint).name == "nuclei"
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        build("cells")


def test_a_file_that_is_no_text(own_models: Write) -> None:
    own_models("").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        available_models()


def test_a_file_that_cannot_be_read(own_models: Write) -> None:
    file = own_models("")
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        available_models()


def test_a_file_with_a_byte_order_mark(own_models: Write) -> None:
    own_models("").write_text('[[model]]\nname = "a"\npath = "a"\n', encoding="utf-8-sig")
    assert model_names()[-1] == "a"
