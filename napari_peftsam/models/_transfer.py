"""One HTTP transfer that can go on where an earlier one ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from napari_peftsam import __version__
from napari_peftsam.errors import DownloadError

__all__ = ["Origin", "PartFile", "Transfer", "connect"]

_BLOCK = 64 * 1024  # small, since what a broken connection leaves of a block is lost
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
_STATUS = {
    401: "the server asks for a password",
    403: "the server does not give it to everybody",
    404: "it is not there, or not any more",
    410: "it is not there any more",
    429: "the server is asked too often just now: try again later",
}


@dataclass(frozen=True)
class Origin:
    """The version of a remote file that some bytes belong to; what is unknown is empty."""

    url: str
    etag: str = ""
    modified: str = ""
    length: int | None = None

    @property
    def validator(self) -> str:
        """What ``If-Range`` takes."""
        return self.etag or self.modified

    def may_be(self, other: Origin) -> bool:
        """Whether nothing that is known of both tells them apart."""
        pairs = (
            (self.url, other.url), (self.etag, other.etag), (self.modified, other.modified),
            (self.length, other.length),
        )  # fmt: skip
        return all(mine == theirs for mine, theirs in pairs if mine and theirs)


@dataclass(frozen=True)
class PartFile:
    """The first bytes of a file, and a note beside them on where they came from."""

    path: Path

    @property
    def note(self) -> Path:
        """The note's file."""
        return self.path.with_name(f"{self.path.name}.json")

    def resume(self, url: str, *, verified: bool) -> tuple[int, Origin]:
        """Return how many bytes can be kept, and their origin.

        None can without a way to tell that the remote file is still the same: its
        validator, or a digest with which the whole is `verified` at the end.
        """
        fresh = 0, Origin(url)
        try:
            origin = Origin(**json.loads(self.note.read_text(encoding="utf-8")))
            size = self.path.stat().st_size
            whole = origin.length is None or size <= origin.length
        except (OSError, ValueError, TypeError):  # missing, or damaged
            return fresh
        trusted = bool(origin.validator) or verified
        return (size, origin) if origin.url == url and whole and trusted else fresh

    def begin(self, origin: Origin) -> None:
        """Forget earlier bytes and note the origin of those to come."""
        self.path.write_bytes(b"")
        self.note.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def discard(self) -> None:
        """Remove the bytes and the note."""
        for path in (self.path, self.note):
            with suppress(OSError):
                path.unlink()


@dataclass(frozen=True)
class Transfer:
    """A file under way, from byte `start` on."""

    response: requests.Response
    start: int
    origin: Origin

    def blocks(self) -> Iterator[bytes]:
        """Yield what comes.

        Raises
        ------
        DownloadError
            If it ends early or the connection breaks.
        """
        received = self.start
        with _explained(self.origin.url, under_way=True):
            for block in self.response.iter_content(_BLOCK):
                received += len(block)
                yield block
            if self.origin.length is not None and received != self.origin.length:
                raise requests.ConnectionError("not as long as announced")


@contextmanager
def connect(url: str, start: int, origin: Origin, timeout: float) -> Iterator[Transfer]:
    """Ask for a file from byte `start` on, or from the first if that is no use.

    The server is told which version the earlier bytes are of (``If-Range``), so that it
    sends another version whole. Its answer is compared all the same: some servers ignore
    the header, others the range.

    Raises
    ------
    DownloadError
        If the server does not give the file.
    """
    with requests.Session() as session:
        response = _get(session, url, start, origin, timeout)
        refused = response.status_code in {_PARTIAL, _NOT_SATISFIABLE}
        if start and refused and not _continues(response, start, origin):
            response.close()
            response = _get(session, url, 0, origin, timeout)
        with response:
            if response.status_code == _PARTIAL and _range_start(response) == start:
                pass
            elif response.status_code == _OK:
                start = 0
            else:
                raise DownloadError(f"cannot download {url}: {_reason(response)}")
            yield Transfer(response, start, _origin(response, url))


def _get(
    session: requests.Session, url: str, start: int, origin: Origin, timeout: float
) -> requests.Response:
    # A compressed transfer has no ranges of the file itself.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"napari-peftsam/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if origin.validator:
            headers["If-Range"] = origin.validator
    with _explained(url):
        return session.get(url, headers=headers, stream=True, timeout=timeout)


def _continues(response: requests.Response, start: int, origin: Origin) -> bool:
    """Whether a partial answer goes on exactly where the earlier bytes end."""
    found = _origin(response, origin.url)
    return _range_start(response) == start and found.may_be(origin)


def _range_start(response: requests.Response) -> int | None:
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _origin(response: requests.Response, url: str) -> Origin:
    headers = response.headers
    etag = headers.get("ETag", "")
    weak = etag.startswith("W/")  # equal in meaning, not byte for byte
    return Origin(
        url, "" if weak else etag, headers.get("Last-Modified", ""), _length(response, headers)
    )


def _length(response: requests.Response, headers: Mapping[str, str]) -> int | None:
    if response.status_code == _PARTIAL:
        match = _RANGE.fullmatch(headers.get("Content-Range", ""))
        length = match[2] if match else ""
    else:  # of a compressed transfer it is not the file's
        length = "" if headers.get("Content-Encoding") else headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _reason(response: requests.Response) -> str:
    code = response.status_code
    if code in _STATUS:
        reason = _STATUS[code]
    elif code >= 500:
        reason = "the server has a problem: try again later"
    else:
        reason = "the server does not give it"
    return f"{reason} (status {code})"


@contextmanager
def _explained(url: str, under_way: bool = False) -> Iterator[None]:
    """Turn the errors of the network into a `DownloadError` of one line."""
    try:
        yield
    except requests.RequestException as error:
        reason = _network_reason(error, under_way, urlsplit(url).hostname or "the server")
        raise DownloadError(f"cannot download {url}: {reason}") from error


def _network_reason(error: requests.RequestException, under_way: bool, server: str) -> str:
    # requests wraps a timeout under way in a plain connection error.
    late = isinstance(error, requests.Timeout) or "timed out" in str(error)
    if isinstance(error, requests.exceptions.SSLError):
        reason = f"{server} cannot prove who it is; check the proxy and the clock"
    elif under_way:
        what = "nothing came for too long" if late else "the connection broke"
        reason = f"{what}; what came is kept, download it again to go on"
    elif late:
        reason = f"{server} does not answer; check the network, or try again later"
    elif isinstance(error, requests.ConnectionError):
        reason = f"{server} cannot be reached; check the network and the proxy"
    else:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    return reason
