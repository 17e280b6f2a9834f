"""A web server on this computer that can misbehave in every way a download must survive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server does; a test may change it between two requests.

    Attributes
    ----------
    content
        The file.
    ranges
        ``"right"``; ``"ignored"``: always the whole file; ``"shifted"``: another range than
        asked for; ``"refused"``: status 416.
    status
        The answer's status, 200 for the file.
    cut
        Bytes of the answer's body after which the connection is closed.
    stall
        Bytes after which nothing more comes until the server ends.
    announce
        Whether the length is announced; if not, the transfer is chunked.
    """

    content: bytes = b""
    ranges: str = "right"
    status: int = 200
    cut: int | None = None
    stall: int | None = None
    announce: bool = True
    requests: list[dict[str, str]] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)

    @property
    def asked_from(self) -> list[int]:
        """The first byte that each request asked for."""
        ranges = (r.get("Range", "bytes=0-") for r in self.requests)
        return [int(r.removeprefix("bytes=").removesuffix("-")) for r in ranges]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def do_GET(self) -> None:
        does = self.behaviour
        does.requests.append(dict(self.headers.items()))
        self.close_connection = True
        start = self._start()
        if does.status != 200:
            self._head(does.status, 0)
        elif start >= len(does.content) or (start and does.ranges == "refused"):
            self._head(416, 0)
        elif start:
            shift = start + (does.ranges == "shifted")
            body = does.content[shift:]
            end = len(does.content)
            self._head(206, len(body), f"bytes {shift}-{end - 1}/{end}")
            self._send(body)
        else:
            self._head(200, len(does.content))
            self._send(does.content)

    def _start(self) -> int:
        if "Range" not in self.headers or self.behaviour.ranges == "ignored":
            return 0
        return int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))

    def _head(self, status: int, length: int, content_range: str = "") -> None:
        does = self.behaviour
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        if does.announce:
            self.send_header("Content-Length", str(length))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _send(self, body: bytes) -> None:
        does = self.behaviour
        ends = [end for end in (does.cut, does.stall) if end is not None]
        self._write(body[: min(ends, default=len(body))])
        if does.stall is not None:
            does.stalled.set()
            does.ending.wait()
        elif does.cut is None and not does.announce:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, body: bytes) -> None:
        if not self.behaviour.announce:
            body = f"{len(body):x}\r\n".encode() + body + b"\r\n"
        try:
            self.wfile.write(body)
            self.wfile.flush()
        except ConnectionError:  # the download was closed
            pass

    def log_message(self, *_: object) -> None:
        """Tests read standard error."""


@dataclass(frozen=True)
class Server:
    """Where it is, and what it does."""

    url: str
    does: Behaviour


@contextmanager
def serve(content: bytes) -> Iterator[Server]:
    """Serve one file on the loopback interface."""
    behaviour = Behaviour(content)
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{server.server_port}/files/model.pt", behaviour)
        finally:
            behaviour.ending.set()
            server.shutdown()
            thread.join()
