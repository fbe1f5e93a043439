"""A line on stderr for each request. No image, no name of a file, no answer is in it."""

from __future__ import annotations

import sys
import time
from datetime import datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class AccessLog:
    """ASGI middleware: time, client, method, path, status, milliseconds and number of images.

    The application says how many images a request had in ``request.state.images``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and print its line after its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # if the application fails before it answers
        began = time.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            line = _line(scope, status, time.monotonic() - began)
            print(line, file=sys.stderr, flush=True)


def _line(scope: Scope, status: int, seconds: float) -> str:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    client = scope["client"][0] if scope.get("client") else "-"
    path = scope["raw_path"].decode("ascii", "backslashreplace")  # as it was sent: on one line
    line = f"{now} {client} {scope['method']} {path} {status} {1000 * seconds:.1f} ms"
    images = scope.get("state", {}).get("images")
    return line if images is None else f"{line} {images} image{'' if images == 1 else 's'}"
