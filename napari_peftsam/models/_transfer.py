"""One HTTP transfer that can continue an earlier one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

from napari_peftsam import __version__
from napari_peftsam.errors import DownloadError

__all__ = ["Transfer", "connect"]

_BLOCK = 64 * 1024  # small, since what a broken connection leaves of a block is lost
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416
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
class Transfer:
    """A file under way, from byte `start` on.

    `length` is None if the server does not say; `is_kept` if a later transfer can continue.
    """

    response: requests.Response
    url: str
    start: int
    length: int | None
    is_kept: bool

    def blocks(self) -> Iterator[bytes]:
        """Yield what comes.

        Raises
        ------
        DownloadError
            If it ends early or the connection breaks.
        """
        received = self.start
        with _explained(self.url, _KEPT if self.is_kept else _LOST):
            for block in self.response.iter_content(_BLOCK):
                received += len(block)
                yield block
            if self.length is not None and received != self.length:
                raise requests.ConnectionError("not as long as announced")


@contextmanager
def connect(url: str, start: int, timeout: float, is_kept: bool) -> Iterator[Transfer]:
    """Ask for a file from byte `start` on, or from the first if the server cannot continue.

    Raises
    ------
    DownloadError
        If the server does not give the file.
    """
    with requests.Session() as session:
        response = _get(session, url, start, timeout)
        refused = response.status_code in {_PARTIAL, _NOT_SATISFIABLE}
        if start and refused and _range_start(response) != start:
            response.close()
            response = _get(session, url, 0, timeout)
        with response:
            if response.status_code == _OK:
                start = 0
            elif response.status_code != _PARTIAL or _range_start(response) != start:
                raise DownloadError(f"cannot download {url}: {_reason(response)}")
            yield Transfer(response, url, start, _length(response), is_kept)


def _get(session: requests.Session, url: str, start: int, timeout: float) -> requests.Response:
    # A compressed transfer has no ranges of the file itself.
    headers = {"Accept-Encoding": "identity", "User-Agent": f"napari-peftsam/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with _explained(url):
        return session.get(url, headers=headers, stream=True, timeout=timeout)


def _range_start(response: requests.Response) -> int | None:
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _length(response: requests.Response) -> int | None:
    headers = response.headers
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
def _explained(url: str, remedy: str = "") -> Iterator[None]:
    """Turn the errors of the network into a `DownloadError` of one line.

    `remedy` says what to do about a transfer that ends under way.
    """
    try:
        yield
    except requests.RequestException as error:
        reason = _network_reason(error, remedy, urlsplit(url).hostname or "the server")
        raise DownloadError(f"cannot download {url}: {reason}") from error


def _network_reason(error: requests.RequestException, remedy: str, server: str) -> str:
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
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    return reason
