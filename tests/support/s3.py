"""An S3 server (moto) in this process, which this process and its children use as if it were AWS.

A ``Door`` stands between it and its clients, and can be told to fail.
"""

from __future__ import annotations

import http.client
import logging
import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch
from urllib.request import Request, urlopen

BUCKET = "pool"
RESET, HALF = "reset", "half"  # of a request, of an answer: the connection breaks in the middle
ANSWERS = {  # a store that refuses: its status and its code
    "slow": (503, "SlowDown", "Please reduce your request rate."),
    "full": (507, "XMinioStorageFull", "Storage backend has reached its minimum free space."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
    "denied": (403, "AccessDenied", "Access Denied"),
}


@dataclass
class Fault:
    """What fails from now on: requests by such a method for such a path, but for the first few.

    ``HALF`` is for methods whose answers have a body.
    """

    how: str  # RESET, HALF or one of ``ANSWERS``
    method: str = "PUT"  # "": any
    path: str = ""  # a regular expression, found anywhere in it
    after: int = 0  # so many go through before
    most: int = 1 << 30  # so many fail
    met: int = 0

    def meets(self, method: str, path: str) -> bool:
        """Whether this request fails."""
        if self.method not in ("", method) or not re.search(self.path, path):
            return False
        self.met += 1
        return self.after < self.met <= self.after + self.most


class Door(ThreadingHTTPServer):
    """Passes requests on to a server, unless its ``fault`` meets them."""

    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind = behind
        self.fault: Fault | None = None
        self.passed: list[tuple[str, str]] = []  # method and path of each that was passed on
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away."""


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def do_GET(self) -> None:
        with self.server.lock:
            fault = self.server.fault
            how = fault.how if fault and fault.meets(self.command, self.path) else ""
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length // 2 if how == RESET else length)
        if how == RESET:
            self._break()
        elif how in ANSWERS:
            status, code, text = ANSWERS[how]
            said = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>"
            self._answer(status, [("Content-Type", "application/xml")], said.encode())
        else:
            connection = http.client.HTTPConnection(*self.server.behind)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            self._answer(answer.status, answer.getheaders(), content, half=how == HALF)
            connection.close()
            self.server.passed.append((self.command, self.path))

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, *, half: bool = False
    ) -> None:
        self.send_response_only(status)
        size = str(len(content))
        for name, value in headers:
            if self.command == "HEAD" and name.lower() == "content-length":
                size = value
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", size)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if half else content)
        if half:
            self._break()

    def _break(self) -> None:
        """End the connection so that the other end sees "connection reset"."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Door]:
    """A server with an empty bucket ``BUCKET``, whose address is in the environment."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    door = Door(server.get_host_and_port())
    threading.Thread(target=door.serve_forever, daemon=True).start()
    try:
        with _using(door.address):
            # Servers of one process share what they hold.
            urlopen(Request(f"{door.address}/moto-api/reset", method="POST")).close()
            bucket().mkdir(BUCKET)
            yield door
    finally:
        for one in (door.shutdown, door.server_close, server.stop):
            one()


@contextmanager
def _using(address: str) -> Iterator[None]:
    """Let s3fs talk to this server, here and in processes that start now."""
    import s3fs

    known = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    s3fs.S3FileSystem.clear_instance_cache()  # it knows the server before this one
    # Else a store that fails is waited for.
    with patch.dict(os.environ, known), patch.object(s3fs.S3FileSystem, "retries", 2):
        yield
    s3fs.S3FileSystem.clear_instance_cache()


def bucket() -> Any:
    """The file system of the server, which sees what is there now."""
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False)
