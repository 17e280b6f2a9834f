"""What a file may cost: its kind, memory and nesting; and texts that are safe to show."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numcodecs
import pytest
from pydantic import BaseModel, ConfigDict, Field

from napari_peftsam import limits
from napari_peftsam.errors import ConfigurationError, InputFileError, PromptError, printable
from napari_peftsam.folders import (
    MODELS_VARIABLE,
    create_folder,
    embedding_folder,
    expanded,
    model_folder,
)

MB = 10**6

SHOWN = [
    pytest.param("\x1b]0;owned\x07", r"\x1b]0;owned\x07", id="title of the terminal"),
    pytest.param("\x9b31m", r"\x9b31m", id="control sequence of one byte"),
    pytest.param("abc\u202egpj.exe", r"abc\u202egpj.exe", id="other direction"),
    pytest.param("\ud800", r"\ud800", id="half a character"),
    pytest.param("Größe µm 细胞 C:\\a\n\tb", "Größe µm 细胞 C:\\a\n\tb", id="all else stays"),
]


@pytest.mark.parametrize(("text", "shown"), SHOWN)
def test_control_characters_are_escaped_in_every_error(text: str, shown: str) -> None:
    assert printable(text) == str(InputFileError(text)) == shown


def test_a_long_message_keeps_its_beginning_and_its_remedy() -> None:
    shown = printable("x.tif: " + "\n".join("a" * 10_000) + ": save it again", 400)
    assert len(shown) <= 400
    assert shown.startswith("x.tif: ")
    assert shown.endswith(": save it again")
    assert "\n" not in shown


def test_a_folder_of_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, "~nobody-of-this-name/x")
    with pytest.raises(ConfigurationError, match="the home folder is not known: write the whole"):
        model_folder()
    assert expanded("~") == Path.home()


KINDS = [
    pytest.param(lambda path: path.touch(), None, id="a file"),
    pytest.param(lambda path: None, "no such file", id="nothing"),
    pytest.param(lambda path: path.mkdir(), "no regular file", id="a folder"),
    pytest.param(lambda path: path.symlink_to("/dev/zero"), "no regular file", id="a device"),
    pytest.param(os.mkfifo, "no regular file", id="a pipe"),
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes and devices with paths")
@pytest.mark.parametrize(("make", "message"), KINDS)
def test_only_regular_files_are_opened(
    make: Callable[[Path], object], message: str | None, tmp_path: Path
) -> None:
    make(tmp_path / "x")
    if message is None:
        limits.check_file(tmp_path / "x")
    else:
        with pytest.raises(InputFileError, match=message):
            limits.check_file(tmp_path / "x")


CLAIMS = [
    pytest.param(500 * MB, 1, "", True, id="any file may take little"),
    pytest.param(1500 * MB, 6 * MB, "", True, id="sparse labels"),
    pytest.param(600 * MB, MB // 2, "", False, id="a bomb"),
    pytest.param(600 * MB, MB // 2, "700000000", True, id="a bomb that is wanted"),
    pytest.param(3000 * MB, 2900 * MB, "", True, id="more than the budget, but all on the disk"),
    pytest.param(3000 * MB, 300 * MB, "", False, id="more than the budget, compressed"),
    pytest.param(9000 * MB, 9000 * MB, "", False, id="more than is free"),
    pytest.param(9, 1, "8", False, id="more than a limit of one's own"),
    pytest.param(9, 9, "8", False, id="more than a limit of one's own, not compressed"),
]


@pytest.mark.parametrize("variable", ["20GB", "2e10", "-1", "lots"])
def test_a_limit_is_a_number_of_bytes(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(limits.BUDGET_VARIABLE, variable)
    with pytest.raises(ConfigurationError, match="whole number of bytes"):
        limits.check_claim(9, 1, "x.tif")


@pytest.mark.parametrize(("claimed", "stored", "variable", "allowed"), CLAIMS)
def test_a_claim_is_checked_against_the_memory_and_the_disk(
    monkeypatch: pytest.MonkeyPatch, claimed: int, stored: int, variable: str, allowed: bool
) -> None:
    monkeypatch.setattr(limits, "free_main_memory", lambda: 8000 * MB)
    monkeypatch.setenv(limits.BUDGET_VARIABLE, variable)
    if allowed:
        limits.check_claim(claimed, stored, "x.tif")
    else:
        with pytest.raises(InputFileError, match=r"x\.tif: its .* MB would take"):
            limits.check_claim(claimed, stored, "x.tif")


@pytest.mark.skipif(os.name == "nt", reason="Windows fills holes")
def test_holes_of_a_file_are_not_counted(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.write(b"a")
        file.truncate(10**12)
    assert limits.stored_bytes(tmp_path) < MB


@pytest.mark.skipif(os.name == "nt", reason="Windows fills holes")
@pytest.mark.parametrize(("start", "message"), [(b"[", "would take"), (b"", "no text")])
def test_a_text_of_holes_is_not_read(start: bytes, message: str, tmp_path: Path) -> None:
    with (tmp_path / "x.json").open("wb") as file:
        file.write(start)
        file.truncate(600 * MB)
    with pytest.raises(InputFileError, match=message):
        limits.read_json(tmp_path / "x.json")


def test_a_zip_file_is_judged_by_what_its_entries_become(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(10_000))
    assert [each.filename for each in limits.check_zip(tmp_path / "x.zip")] == ["a"]
    monkeypatch.setenv(limits.BUDGET_VARIABLE, "9999")
    with pytest.raises(InputFileError, match="would take"):
        limits.check_zip(tmp_path / "x.zip")


JSON = [
    pytest.param('{"a": [1, {"b": null}]}', "", id="fine"),
    pytest.param("3", "", id="a number"),
    pytest.param("[" * 64 + "]" * 64, "", id="64 lists"),
    pytest.param("[" * 65 + "]" * 65, "nested too deeply", id="65 lists"),
    pytest.param("[" * 10**5 + "]" * 10**5, "nested too deeply", id="100,000 lists"),
    pytest.param('{"a":' * 10**4, "nested too deeply", id="10,000 objects"),
    pytest.param("[1", "not valid JSON", id="cut"),
    pytest.param("9" * 5000, "not valid JSON", id="a long number"),
    pytest.param("[" + "[]," * 10**5 + "[]]", "would take", id="a list of empty lists"),
]


@pytest.mark.parametrize(("text", "message"), JSON)
def test_json_has_limits(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(limits.BUDGET_VARIABLE, "10000000")
    if not message:
        limits.parse_json(text, "x", PromptError)
        return
    with pytest.raises(PromptError, match=message):
        limits.parse_json(text, "x", PromptError)


TOML = [
    pytest.param("[a]\nb = [1, 2]", "", id="fine"),
    pytest.param('a = "https://a.b.c/d.e"', "", id="an address"),
    pytest.param("a = " + "[" * 10**5, "nested too deeply", id="lists"),
    pytest.param(".".join("a" * 10**5) + " = 1", "too deeply nested", id="dotted keys"),
    pytest.param("a = {" + ".".join("a" * 200) + " = 1}", "too deeply nested", id="inline tables"),
    pytest.param("#" * 300_000, "too long", id="long"),
    pytest.param("a =", "not valid TOML", id="cut"),
]


@pytest.mark.parametrize(("text", "message"), TOML)
def test_toml_has_limits(text: str, message: str) -> None:
    if not message:
        limits.parse_toml(text, "x", ConfigurationError)
        return
    with pytest.raises(ConfigurationError, match=message):
        limits.parse_toml(text, "x", ConfigurationError)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(min_length=1)
    size: float = Field(1, ge=0)


SETTINGS: list[object] = [
    pytest.param({"name": "a", "size": 2}, "", id="fine"),
    pytest.param({}, "x: needs a name", id="missing"),
    pytest.param({"name": ""}, "name must be a text that is not empty, got ''", id="empty"),
    pytest.param({"name": "a", "nam": 1}, "unknown key 'nam', the keys are name, size", id="key"),
    pytest.param({"name": "a", "size": -1}, "size must be greater than or equal to 0", id="low"),
    pytest.param({"name": "a", "size": float("nan")}, "size must be a finite", id="no number"),
    pytest.param({"name": "a", "size": ["\x1b"] * 10**6}, "size must be", id="long"),
    pytest.param([1], "must be a table", id="a list"),
]  # type: ignore[list-item]


@pytest.mark.parametrize(("content", "message"), SETTINGS)
def test_configurations_are_strict_and_errors_short(content: object, message: str) -> None:
    if not message:
        assert limits.validated(Settings, content, "x").size == 2
        return
    with pytest.raises(ConfigurationError) as caught:
        limits.validated(Settings, content, "x")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("size", [0, 5, 255, 256, 70_000, 10**6])
def test_the_size_that_zstandard_claims_is_read(size: int) -> None:
    assert limits.zstd_bytes(numcodecs.Zstd(1).encode(bytes(size))) == size
    assert limits.zstd_bytes(b"something else") is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_own_folders_are_for_the_user_alone_and_others_follow_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    umask = os.umask(0o002)
    try:
        create_folder(embedding_folder())
        create_folder(tmp_path / "shared" / "store")
    finally:
        os.umask(umask)
    private = embedding_folder()
    assert {oct(f.stat().st_mode & 0o777) for f in (private, private.parent)} == {"0o700"}
    assert (tmp_path / "shared" / "store").stat().st_mode & 0o777 == 0o775
