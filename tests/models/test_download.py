"""A model's file arrives whole and right, or an error says why; nothing is got twice."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import xxhash
from filelock import FileLock

from napari_peftsam.errors import ConfigurationError, DownloadError
from napari_peftsam.models import (
    REGISTRY,
    DownloadProgress,
    ModelEntry,
    download,
)
from tests.models._server import Behaviour, Server, serve
from tests.models.conftest import CONTENT

LONG_ENOUGH = 100_000  # bytes: more than a block, less than the file
OTHER = bytes(reversed(CONTENT))


def entry_for(url: str, content: bytes | None = CONTENT) -> ModelEntry:
    digest = "" if content is None else xxhash.xxh128_hexdigest(content)
    return ModelEntry("cells", "Cells", "tiny", 1, "", "", url=url, xxh128=digest)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where models are kept; it is made by the first download."""
    monkeypatch.setenv("NAPARI_PEFTSAM_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def entry(server: Server) -> ModelEntry:
    return entry_for(server.url)


@pytest.fixture
def unverified(server: Server) -> ModelEntry:
    return entry_for(server.url, None)


def fetch(entry: ModelEntry, timeout: float = 30) -> Path:
    for _ in download(entry, timeout=timeout):
        pass
    return entry.target()


def part_of(entry: ModelEntry) -> Path:
    return entry.target().with_name(f"{entry.target().name}.part")


def interrupt(entry: ModelEntry, server: Server) -> int:
    """Leave a part file, and the server in good health; return the part's size."""
    server.does.cut = LONG_ENOUGH
    with pytest.raises(DownloadError, match="the connection broke"):
        fetch(entry)
    server.does.cut = None
    server.does.requests.clear()
    return part_of(entry).stat().st_size


class _Clock:
    """Stands for `time` in the module: so many seconds pass whenever somebody looks."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


def passing(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package has a function of the module's name.
    module = sys.modules["napari_peftsam.models.download"]
    monkeypatch.setattr(module, "time", _Clock(seconds))


# --- all is well ---------------------------------------------------------------------


def test_the_events_tell_the_progress_and_then_the_file(
    entry: ModelEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    passing(1, monkeypatch)
    progress = list(download(entry))
    assert entry.target().read_bytes() == CONTENT
    received = [event.received for event in progress]
    assert len(received) > 2
    assert received == sorted(received)
    assert (received[0], received[-1]) == (0, len(CONTENT))
    assert progress[-2] == DownloadProgress(len(CONTENT), len(CONTENT))
    assert progress[-1] == DownloadProgress(len(CONTENT), len(CONTENT), len(CONTENT))


SIZE = len(CONTENT)
BLOCK = 64 * 1024


@pytest.mark.parametrize(
    ("seconds", "received", "verified"),
    [
        pytest.param(0, [0, BLOCK, SIZE], [BLOCK], id="at once"),
        pytest.param(
            0.06, [0, BLOCK, 3 * BLOCK, SIZE], [BLOCK, 3 * BLOCK], id="two blocks per period"
        ),
        pytest.param(
            1, [0, *range(BLOCK, SIZE + 1, BLOCK)], [*range(BLOCK, SIZE + 1, BLOCK)], id="slow"
        ),
    ],
)
def test_a_fast_download_tells_some_of_its_progress(
    seconds: float,
    received: list[int],
    verified: list[int],
    entry: ModelEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["napari_peftsam.models.download"], "_BLOCK", BLOCK)
    passing(seconds, monkeypatch)
    events = list(download(entry))
    assert [e.received for e in events if e.verified is None] == received
    assert [e.verified for e in events if e.verified is not None] == verified


@pytest.mark.parametrize(
    ("received", "total", "fraction"), [(0, 10, 0), (5, 10, 0.5), (10, 10, 1), (5, None, 0)]
)
def test_the_fraction_is_what_is_here(received: int, total: int | None, fraction: float) -> None:
    assert DownloadProgress(received, total).fraction == fraction


def test_only_the_file_and_its_lock_remain(entry: ModelEntry, folder: Path) -> None:
    path = fetch(entry)
    assert {p.name for p in folder.iterdir()} <= {path.name, f"{path.name}.lock"}


def test_what_is_here_is_not_asked_for(entry: ModelEntry, server: Server) -> None:
    fetch(entry)
    server.does.requests.clear()
    assert list(download(entry)) == []
    assert server.does.requests == []


def test_a_server_that_announces_no_length(entry: ModelEntry, server: Server) -> None:
    server.does.announce = False
    first, *_ = download(entry)
    assert first == DownloadProgress(0, None)
    assert entry.target().read_bytes() == CONTENT


def test_the_decoder_is_a_file_of_its_own(server: Server) -> None:
    digest = xxhash.xxh128_hexdigest(CONTENT)
    entry = ModelEntry(
        "cells", "", "", 0, "", "", url="http://127.0.0.1:9/no", decoder_url=server.url,
        decoder_xxh128=digest,
    )  # fmt: skip
    assert entry.decoder_path is None
    assert list(download(entry, part="decoder"))
    assert entry.decoder_path == entry.target("decoder")
    assert entry.decoder_path.read_bytes() == CONTENT
    assert not entry.available


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [("builtin", "encoder", "is not downloaded"), ("vit_b", "decoder", "no decoder")],
)
def test_what_cannot_be_downloaded(name: str, part: str, message: str, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        next(download(REGISTRY[name], part=part))  # type: ignore[arg-type]
    assert not folder.exists()


# --- going on ------------------------------------------------------------------------


def test_a_broken_transfer_goes_on_where_it_ended(entry: ModelEntry, server: Server) -> None:
    size = interrupt(entry, server)
    assert 0 < size <= LONG_ENOUGH
    first, *_ = download(entry)
    assert first == DownloadProgress(size, len(CONTENT))
    assert server.does.asked_from == [size]
    assert entry.target().read_bytes() == CONTENT


def test_a_closed_download_goes_on_where_it_ended(entry: ModelEntry, server: Server) -> None:
    events = download(entry)
    for event in events:
        if event.received:
            break
    events.close()
    size = part_of(entry).stat().st_size
    assert 0 < size < len(CONTENT)
    assert fetch(entry).read_bytes() == CONTENT
    assert server.does.asked_from == [0, size]


def test_a_download_closed_while_it_is_verified_is_verified_the_next_time(
    entry: ModelEntry, server: Server
) -> None:
    events = download(entry)
    verifying = next(e for e in events if e.verified)
    assert (verifying.fraction, verifying.verified) == (1, len(CONTENT))
    events.close()
    assert not entry.target().exists()
    assert part_of(entry).read_bytes() == CONTENT
    assert fetch(entry).read_bytes() == CONTENT
    assert server.does.asked_from == [0]


def test_without_a_digest_it_starts_over(unverified: ModelEntry, server: Server) -> None:
    server.does.cut = LONG_ENOUGH
    with pytest.raises(DownloadError, match="broke; download it again; without a digest it starts"):
        fetch(unverified)
    server.does.cut = None
    server.does.requests.clear()
    server.does.content = OTHER
    assert fetch(unverified).read_bytes() == OTHER
    assert server.does.asked_from == [0]


def test_a_file_that_was_replaced_meanwhile_is_refused_and_starts_over(
    entry: ModelEntry, server: Server
) -> None:
    interrupt(entry, server)
    server.does.content = OTHER
    with pytest.raises(DownloadError, match="has the digest"):
        fetch(entry)
    server.does.content = CONTENT
    server.does.requests.clear()
    assert fetch(entry).read_bytes() == CONTENT
    assert server.does.asked_from == [0]


def with_ranges(how: str) -> Callable[[Behaviour], None]:
    def change(does: Behaviour) -> None:
        does.ranges = how

    return change


@pytest.mark.parametrize(
    ("change", "requests"),
    [
        pytest.param(with_ranges("ignored"), 1, id="the server knows no ranges"),
        pytest.param(with_ranges("refused"), 2, id="the server refuses the range"),
        pytest.param(with_ranges("shifted"), 2, id="the server sends another range"),
    ],
)
def test_a_server_that_cannot_continue_sends_the_whole(
    change: Callable[[Behaviour], None], requests: int, entry: ModelEntry, server: Server,
) -> None:  # fmt: skip
    interrupt(entry, server)
    change(server.does)
    assert fetch(entry).read_bytes() == CONTENT
    assert len(server.does.requests) == requests


def test_a_part_from_another_address_is_continued(entry: ModelEntry, server: Server) -> None:
    size = interrupt(entry, server)
    moved = entry_for(server.url.replace("files", "moved"))
    assert part_of(moved) == part_of(entry)  # the digest proves the whole
    assert fetch(moved).read_bytes() == CONTENT
    assert server.does.asked_from == [size]


def test_a_part_longer_than_the_file_is_not_used(entry: ModelEntry, server: Server) -> None:
    interrupt(entry, server)
    part_of(entry).write_bytes(CONTENT + b"more")
    assert fetch(entry).read_bytes() == CONTENT
    assert server.does.asked_from == [len(CONTENT + b"more"), 0]  # there is nothing to continue


def test_a_whole_part_only_needs_to_be_verified(entry: ModelEntry, server: Server) -> None:
    interrupt(entry, server)
    part_of(entry).write_bytes(CONTENT)
    assert fetch(entry).read_bytes() == CONTENT
    assert server.does.requests == []


# --- what can go wrong ---------------------------------------------------------------


@pytest.mark.parametrize("resuming", [False, True], ids=["from the start", "resumed"])
def test_a_wrong_digest_removes_the_file(
    resuming: bool, entry: ModelEntry, folder: Path, server: Server
) -> None:
    if resuming:  # the replacement looks like the file it replaced
        interrupt(entry, server)
    server.does.content = OTHER
    with pytest.raises(DownloadError, match="download it again") as caught:
        fetch(entry)
    assert entry.xxh128 in str(caught.value)
    assert list(folder.glob("*.pt")) == list(folder.glob("*.part*")) == []
    server.does.content = CONTENT
    assert fetch(entry).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "password"),
        (403, "everybody"),
        (404, "not there"),
        (410, "not there any more"),
        (418, "does not give it"),
        (429, "too often"),
        (500, "try again later"),
        (503, "try again later"),
    ],
)
@pytest.mark.parametrize("resuming", [False, True], ids=["from the start", "resumed"])
def test_a_server_that_does_not_give_the_file(
    status: int, message: str, resuming: bool, entry: ModelEntry, server: Server
) -> None:
    size = interrupt(entry, server) if resuming else 0
    server.does.status = status
    with pytest.raises(DownloadError, match=f"{message}.*status {status}"):
        fetch(entry)
    if resuming:  # it may be back tomorrow
        assert part_of(entry).stat().st_size == size
    assert not entry.target().exists()


@pytest.mark.parametrize("announce", [True, False], ids=["known length", "chunked"])
def test_a_transfer_cut_short(announce: bool, entry: ModelEntry, server: Server) -> None:
    server.does.announce, server.does.cut = announce, LONG_ENOUGH
    with pytest.raises(DownloadError, match="broke; what came is kept, download it again to go on"):
        fetch(entry)
    assert 0 < part_of(entry).stat().st_size <= LONG_ENOUGH


def test_a_stalled_transfer_keeps_what_came(entry: ModelEntry, server: Server) -> None:
    server.does.stall = LONG_ENOUGH
    part = part_of(entry)
    for attempt in range(8):  # on a busy machine even the beginning may take longer
        with pytest.raises(DownloadError) as raised:
            fetch(entry, timeout=0.2 * 2**attempt)
        if part.exists() and part.stat().st_size:
            break
    assert "nothing came for too long; what came is kept" in str(raised.value)
    server.does.stall = None
    assert 0 < part_of(entry).stat().st_size <= LONG_ENOUGH
    assert fetch(entry).read_bytes() == CONTENT


def test_a_server_that_says_nothing_at_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        entry = entry_for(f"http://127.0.0.1:{silent.getsockname()[1]}/model.pt")
        with pytest.raises(DownloadError, match=r"127\.0\.0\.1 does not answer"):
            fetch(entry, timeout=0.2)


HEADS = {
    "a redirect that never ends": (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/x\r\n\r\n", b"x" * 65536,
        "127.0.0.1 cannot be reached",
    ),
    "'go on' again and again": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "does not answer"),
    "a head that never ends": (b"HTTP/1.1 200 OK\r\n", b"x", "does not answer"),
    "an address that is none": (
        b"HTTP/1.1 302 Found\r\nLocation: http://[x/\r\n\r\n", b"", "address is not valid",
    ),
    "a length of many digits": (
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"", "more than",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("first", "again", "message"), HEADS.values(), ids=HEADS.keys())
def test_a_hostile_server(first: bytes, again: bytes, message: str, folder: Path) -> None:
    def talk() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(first)
            while not over.wait(0.05 if len(again) < 2 else 0):
                connection.sendall(again)

    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=talk, daemon=True)
        server.start()
        patience = 2 if "not answer" in message else 60  # s; a busy machine answers late
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/model.pt"
        with pytest.raises(DownloadError, match=message):
            fetch(entry_for(address), timeout=patience)
        over.set()
        server.join()


def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    entry = entry_for(f"http://127.0.0.1:{port}/model.pt")
    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 cannot be reached; check the network"):
        fetch(entry)
    assert not entry.target().exists()


def test_an_address_of_another_kind() -> None:
    with pytest.raises(DownloadError, match=r"cannot download ftp://127\.0\.0\.1/model\.pt: "):
        fetch(entry_for("ftp://127.0.0.1/model.pt"))


def test_too_little_space_is_noticed_at_the_beginning(
    entry: ModelEntry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder.parent)._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"the disk is full.*0 MB free.*free some space"):
        fetch(entry)


@pytest.mark.skipif(os.name == "nt", reason="needs limits of Unix")
def test_a_disk_that_gets_full_under_way(entry: ModelEntry, folder: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DownloadError, match=r"the disk is full.*free some space"):
            fetch(entry)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not entry.target().exists()


def test_a_link_in_the_place_of_an_unfinished_download_is_not_followed(
    entry: ModelEntry, folder: Path, tmp_path: Path
) -> None:
    folder.mkdir()
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    part_of(entry).symlink_to(mine)
    fetch(entry)
    assert mine.read_text() == "mine"
    assert entry.target().is_file()
    assert not entry.target().is_symlink()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(entry: ModelEntry, folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(DownloadError, match=r"cannot write.*another folder.*NAPARI_PEFTSAM_MODELS"):
        fetch(entry)
    folder.chmod(0o700)


def test_a_folder_that_cannot_be_made(entry: ModelEntry, folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(DownloadError, match="cannot write to"):
        fetch(entry)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_shared_folder_that_has_the_file_needs_no_writing(
    entry: ModelEntry, folder: Path
) -> None:
    fetch(entry)
    folder.chmod(0o500)
    assert list(download(entry)) == []
    folder.chmod(0o700)


# --- two at once ---------------------------------------------------------------------


def started(events: Iterator[DownloadProgress]) -> Iterator[DownloadProgress]:
    next(events)
    return events


def test_two_downloads_of_one_file_do_not_mix(entry: ModelEntry) -> None:
    first = started(download(entry))
    with pytest.raises(DownloadError, match="being downloaded by another program"):
        fetch(entry)
    assert list(first)
    assert entry.target().read_bytes() == CONTENT


def test_a_program_that_died_does_not_lock_the_file(entry: ModelEntry, folder: Path) -> None:
    folder.mkdir()
    lock = f"{entry.target()}.lock"
    dies = f"import filelock, os; filelock.FileLock({lock!r}).acquire(); os._exit(1)"
    assert subprocess.run([sys.executable, "-c", dies], check=False).returncode == 1
    assert fetch(entry).read_bytes() == CONTENT


def test_what_another_program_has_just_got_is_taken(
    entry: ModelEntry, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = FileLock.acquire

    def late(lock: FileLock, *arguments: object, **options: object) -> object:
        entry.target().write_bytes(CONTENT)
        return acquire(lock, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(FileLock, "acquire", late)
    assert list(download(entry)) == []
    assert entry.target().read_bytes() == CONTENT
    assert server.does.requests == []


def test_models_are_fetched_at_the_same_time() -> None:
    with serve(CONTENT) as one, serve(OTHER) as two:
        entries = entry_for(one.url), entry_for(two.url, OTHER)
        for events in [started(download(entry)) for entry in entries]:
            assert list(events)
    assert [entry.target().read_bytes() for entry in entries] == [CONTENT, OTHER]


REFUSED = [
    pytest.param({"url": "http://a.org/m.pt"}, "use https, or give its xxh128", id="no digest"),
    pytest.param({"url": "ftp://a.org/m.pt", "xxh128": "0" * 32}, "use https", id="no web"),
    pytest.param(
        {"url": "http://me:secret@127.0.0.1:9/m.pt?token=secret"}, "127.0.0.1:9/m.pt", id="password"
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_addresses_are_refused_and_shown_without_passwords(
    changes: dict[str, str], message: str, folder: Path
) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(ModelEntry("cells", "", "", 0, "", "", **changes))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("announce", [True, False], ids=["announced", "not announced"])
def test_a_file_that_is_larger_than_its_entry_says_ends(
    announce: bool, server: Server, folder: Path
) -> None:
    server.does.content, server.does.announce = bytes(4 * 10**6), announce
    with pytest.raises(DownloadError, match="more than 2 MB"):
        fetch(entry_for(server.url, None))
    assert not list(folder.glob("*.pt"))


def test_no_password_of_a_netrc_file_is_sent(
    entry: ModelEntry, server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fetch(entry)
    assert not any("Authorization" in headers for headers in server.does.requests)
