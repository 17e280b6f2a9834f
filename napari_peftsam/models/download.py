"""Download of a model's files: resumed, verified, placed in one step.

Why not pooch: it verifies and places files as well, but begins anew after every
interruption (up to 2.5 GB here), reports its progress only to a progress bar of its own, and
can be stopped only by an exception out of that bar. ``requests``, on which it rests, is
used directly.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPResponse
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
import xxhash
from filelock import FileLock, Timeout
from requests.adapters import HTTPAdapter

from napari_peftsam import __version__
from napari_peftsam.errors import DownloadError
from napari_peftsam.folders import MODELS_VARIABLE, create_folder, is_own
from napari_peftsam.models.entry import ModelEntry, Part, is_trusted, public

__all__ = ["DownloadProgress", "download"]

_BLOCK = 1 << 20
_RECEIVED_BLOCK = 64 * 1024  # small, since what a broken connection leaves of a block is lost
_SECONDS_BETWEEN_EVENTS = 0.1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_MOST_REDIRECTS = 5
_HEAD_SECONDS = 10.0
_DIGITS = 18  # of a length, which are more than any file has
_MOST_BYTES = 10 * 10**9  # of a file of unknown size
_LARGER = 1.25  # than the megabytes of an entry, which are rounded
_KEPT = "what came is kept, download it again to go on"
_LOST = "download it again; without a digest it starts over"
_STATUS = {
    401: "the server asks for a password",
    403: "the server does not give it to everybody",
    404: "it is not there, or not any more",
    410: "it is not there any more",
    429: "the server is asked too often just now: try again later",
}


@dataclass(frozen=True)
class DownloadProgress:
    """Bytes received of a total, which is None if the server does not announce it.

    `verified` counts the bytes whose digest was computed; None before everything is received.
    """

    received: int
    total: int | None
    verified: int | None = None

    @property
    def fraction(self) -> float:
        """Share received, in [0, 1]; 0 while the total is unknown."""
        return min(self.received / self.total, 1.0) if self.total else 0.0


def download(
    entry: ModelEntry, *, part: Part = "encoder", timeout: float = 30.0
) -> Generator[DownloadProgress, None, None]:
    """Download a part of a model to `ModelEntry.target`; yield nothing if it is there.

    If the download fails or is closed, its bytes stay beside the target. The next one
    continues there if the entry has a digest, which proves the whole, else it starts over.
    The file gets its name only when it is complete and has the digest.

    Parameters
    ----------
    timeout
        Seconds without a byte after which the connection counts as stalled.

    Yields
    ------
    DownloadProgress
        At most ten times a second.

    Raises
    ------
    ConfigurationError
        If the part is not one that is downloaded.
    DownloadError
        If it cannot be downloaded (no network, not there, stalled, cut short), does not have the
        right digest, cannot be written, or another process is downloading it.
    """
    url, xxh128 = entry.remote(part)
    target = entry.target(part)
    with _disk_errors(target), _only_one(target):
        if target.is_file():  # perhaps only since another process has released the lock
            return
        unfinished = entry.unfinished(part)
        if unfinished.is_symlink():
            unfinished.unlink()
        most = _MOST_BYTES
        if part == "encoder" and entry.megabytes:
            most = round(1e6 * (_LARGER * entry.megabytes + 1))
        yield from _receive(url, xxh128, unfinished, (timeout, most))
        yield from _verify(url, xxh128, unfinished)
        unfinished.replace(target)


def file_digest(path: Path) -> str:
    """Return the xxh128 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh128).hexdigest()


class _Pace:
    """Limit of the events per second; the first is due at once."""

    def __init__(self) -> None:
        self._next = -math.inf

    def due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + _SECONDS_BETWEEN_EVENTS
        return True


@contextmanager
def _only_one(target: Path) -> Iterator[None]:
    """Keep other processes from the same file; the system releases it if this one dies."""
    if target.is_file():  # nothing will be written, and the folder may be read-only
        yield
        return
    create_folder(target.parent)
    # A generator may be closed in another thread than it was started in.
    lock = FileLock(target.with_name(f"{target.name}.lock"), thread_local=False)
    try:
        with lock.acquire(blocking=False):
            yield
    except Timeout:
        raise DownloadError(
            f"{target.name} is being downloaded by another program: wait for it"
        ) from None


def _receive(
    url: str, xxh128: str, unfinished: Path, limits: tuple[float, int]
) -> Iterator[DownloadProgress]:
    """Fetch the missing bytes of a file and sync them to the disk; limits: seconds, bytes."""
    timeout, most = limits
    here = unfinished.stat().st_size if xxh128 and unfinished.is_file() else 0
    if here and file_digest(unfinished) == xxh128:
        return  # the last download ended while it was verified
    with _connection(url, xxh128, here, timeout) as (response, start):
        total, received, shown, pace = _length(response), start, start, _Pace()
        _check_size(url, total or 0, most)
        _check_space(unfinished.parent, total, received)
        yield DownloadProgress(received, total)
        remedy = _KEPT if xxh128 else _LOST
        file = open(unfinished, "ab" if start else "wb", opener=_no_links)  # noqa: SIM115
        with file, _network_errors(url, remedy):
            for block in response.iter_content(_RECEIVED_BLOCK):
                received += len(block)
                _check_size(url, received, most)
                file.write(block)
                if pace.due():
                    shown = received
                    yield DownloadProgress(received, total)
            if total not in (None, received):
                raise requests.ConnectionError("not as long as announced")
            file.flush()
            os.fsync(file.fileno())
        if shown != received:
            yield DownloadProgress(received, total)


def _no_links(path: str, flags: int) -> int:
    """Open a file for writing, but not where a link in its place leads."""
    mode = 0o600 if is_own(Path(path)) else 0o666
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), mode)


def _untrusted(url: str) -> str:
    return (
        f"cannot download {public(url)}: anybody on the way could exchange it: use https, or give "
        "its xxh128"
    )


def _check_size(url: str, size: int, most: int) -> None:
    if size > most:
        raise DownloadError(
            f"cannot download {public(url)}: it has more than {most / 1e6:,.0f} MB, which its "
            "entry does not let expect: check the entry and its megabytes"
        )


def _check_space(folder: Path, total: int | None, received: int) -> None:
    needed, free = (total or 0) - received, shutil.disk_usage(folder).free
    if free < needed:
        needs, has = (f"{size / 1e6:,.0f} MB" for size in (needed, free))
        raise OSError(errno.ENOSPC, f"{needs} more are needed, {has} free")


def _verify(url: str, xxh128: str, unfinished: Path) -> Iterator[DownloadProgress]:
    """Compare the digest; if this is closed meanwhile, the next download does it."""
    if not xxh128:
        return
    size, verified = unfinished.stat().st_size, 0
    digest, pace = xxhash.xxh128(), _Pace()
    with unfinished.open("rb") as file:
        for block in iter(partial(file.read, _BLOCK), b""):
            digest.update(block)
            verified += len(block)
            if pace.due():
                yield DownloadProgress(size, size, verified)
    if digest.hexdigest() == xxh128:
        return
    unfinished.unlink(missing_ok=True)
    raise DownloadError(
        f"what came from {public(url)} has the digest {digest.hexdigest()}, but {xxh128} is "
        "expected, and was removed: download it again; if that does not help, it was replaced "
        "there by a file that this program does not know"
    )


@contextmanager
def _connection(
    url: str, xxh128: str, start: int, timeout: float
) -> Iterator[tuple[requests.Response, int]]:
    """Ask for a file from byte `start` on; give 0 as start if the server sends the whole."""
    with _Session() as session:
        # Of the environment only what concerns the way: no passwords from a netrc file.
        session.trust_env = False
        session.proxies = requests.utils.get_environ_proxies(url)
        named = (os.environ.get(name) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
        session.verify = next(filter(None, named), True)
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Impatient(min(timeout, _HEAD_SECONDS)))
        response = _get(session, url, xxh128, start, timeout)
        refused = response.status_code in {_PARTIAL, _NOT_SATISFIABLE}
        if start and refused and _range(response)[0] != str(start):
            response.close()
            response = _get(session, url, xxh128, 0, timeout)
        with response:
            if response.status_code == _OK:
                start = 0
            elif response.status_code != _PARTIAL or _range(response)[0] != str(start):
                reason = _status_reason(response)
                raise DownloadError(f"cannot download {public(url)}: {reason}")
            yield response, start


def _get(
    session: requests.Session, url: str, xxh128: str, start: int, timeout: float
) -> requests.Response:
    """Follow redirects to the file; `DownloadError` if somebody on the way could exchange it."""
    # A compressed transfer has no ranges of the file itself.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"napari-peftsam/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    for _ in range(_MOST_REDIRECTS + 1):
        if not is_trusted(url, xxh128):
            raise DownloadError(_untrusted(url))
        with _network_errors(url):
            response = session.get(url, headers=headers, stream=True, timeout=timeout)
            if not response.is_redirect:
                return response
            response.close()
            # As requests does: addresses come as bytes of UTF-8.
            url = urljoin(url, response.headers["Location"].encode("latin1").decode())
    raise DownloadError(f"cannot download {public(url)}: one address leads to another; check it")


class _Session(requests.Session):
    """Leaves redirects to the caller: requests itself would read all that one holds."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


class _Impatient(HTTPAdapter):
    """Gives a server some seconds for the head of its answer; requests' timeout is of each byte."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        super().__init__()

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool = super().get_connection_with_tls_context(*args, **options)
        if "response_class" not in vars(pool.ConnectionCls):  # else asked before
            hurried = {"response_class": staticmethod(partial(_Answer, seconds=self._seconds))}
            pool.ConnectionCls = type("Hurried", (pool.ConnectionCls,), hurried)
        return pool


class _Answer(HTTPResponse):
    """An answer whose head comes within some seconds."""

    def __init__(self, sock: socket.socket, *args: Any, seconds: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._hurried = _Hurried(self.fp.detach(), sock, time.monotonic() + seconds)
        self.fp = BufferedReader(self._hurried)

    def begin(self) -> None:
        super().begin()
        self._hurried.calm_down()


class _Hurried(RawIOBase):
    """A stream of a socket whose timeout is the time that is left."""

    def __init__(self, stream: RawIOBase, sock: socket.socket, end: float) -> None:
        self._stream, self._socket, self._end = stream, sock, end
        self._patience = sock.gettimeout()

    def calm_down(self) -> None:
        self._end = math.inf
        self._socket.settimeout(self._patience)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._end < math.inf:
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _range(response: requests.Response) -> tuple[str, str]:
    """Return first byte and whole length as the server wrote them, empty if it did not."""
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return (match[1], match[2]) if match else ("", "")


def _length(response: requests.Response) -> int | None:
    headers = response.headers
    if response.status_code == _PARTIAL:
        length = _range(response)[1]
    else:  # of a compressed transfer it is not the file's
        length = "" if headers.get("Content-Encoding") else headers.get("Content-Length", "")
    return int(length[:_DIGITS]) if length.isascii() and length.isdigit() else None


def _status_reason(response: requests.Response) -> str:
    code = response.status_code
    other = "the server has a problem: try again later"
    reason = _STATUS.get(code, other if code >= 500 else "the server does not give it")
    return f"{reason} (status {code})"


@contextmanager
def _network_errors(url: str, remedy: str = "") -> Iterator[None]:
    """Turn the errors of the network into a `DownloadError` of one line.

    `remedy` says what to do about a transfer that ends under way.
    """
    try:
        yield
    except (requests.RequestException, ValueError) as error:  # the latter for a wrong address
        server = urlsplit(url).hostname or "the server"
        # requests wraps a timeout under way in a plain connection error.
        late = isinstance(error, requests.Timeout) or "timed out" in str(error)
        if isinstance(error, requests.exceptions.SSLError):
            reason = f"{server} cannot prove who it is; check the proxy and the clock"
        elif remedy:
            what = "nothing came for too long" if late else "the connection broke"
            reason = f"{what}; {remedy}"
        elif late:
            reason = f"{server} does not answer; check the network, or try again later"
        elif isinstance(error, requests.ConnectionError):
            reason = f"{server} cannot be reached; check the network and the proxy"
        else:
            is_address = isinstance(error, ValueError)
            # The error's own words hold the address.
            reason = "the address is not valid; check it" if is_address else type(error).__name__
        raise DownloadError(f"cannot download {public(url)}: {reason}") from error


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    """Turn the errors of the disk into a `DownloadError` of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            reason = (
                f"the disk is full ({reason}); free some space, then download it again to go on"
            )
        elif error.errno in _FORBIDDEN:
            remedy = f"choose another folder for models, with {MODELS_VARIABLE} or in napari"
            reason = f"{reason}; {remedy}"
        raise DownloadError(f"cannot write to {target.parent}: {reason}") from error
