"""An exported model over HTTP: predictions, health and metrics, with limits on time and memory.

No request names a file of the server, and no name in a request becomes the name of a file. There is
no authentication: bind the server to loopback, or put it behind a proxy that authenticates.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
from anyio import CapacityLimiter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tutelage import pages
from tutelage._version import __version__
from tutelage.data.decode import UnreadableImage, decode, read_size
from tutelage.deploy.answers import Prediction, answer
from tutelage.deploy.find import exported_file
from tutelage.deploy.runtime import OnnxModel
from tutelage.deploy.uploads import Limits, images_of
from tutelage.system import web
from tutelage.system.errors import TutelageError
from tutelage.system.process import cores
from tutelage.system.words import counted

CHUNK_IMAGES = 32  # decoded at once; fewer if their pixels come to CHUNK_PIXELS
CHUNK_PIXELS = 8_000_000
TEXT = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus's exposition format
STATIC = {"page.css": "text/css"} | dict.fromkeys(
    ("ask.js", "pictures.js", "cards.js", "copy.js"), "text/javascript"
)
# "blob:" is where a browser keeps a picture that it shows while it is asked about.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(model: OnnxModel, name: str, limits: Limits, *, log: bool = False) -> Starlette:
    """The application for a model opened with one thread, under the name that the answers give it.

    ``limits.threads`` requests use the model at once. With ``log``, each has a line on stderr.
    """
    service = _Service(model, name, limits)
    return Starlette(
        routes=[
            Route("/", _ask),
            Route("/docs", service.docs),
            Route("/static/{name}", _static),
            Route("/health", service.health),
            Route("/metrics", service.metrics),
            Route("/predict", service.predict, methods=["POST"]),
        ],
        middleware=[Middleware(AccessLog)] if log else [],
        exception_handlers={HTTPException: _refusal},
    )


def serve(
    model: Path,
    *,
    host: str,
    port: int,
    threads: int | None,
    max_mb: float,
    max_images: int,
    timeout: float,
    quiet: bool,
    open_file: Callable[[Path], OnnxModel] | None = None,
) -> None:
    """Serve until Ctrl-C; ``tutelage.api.serve`` has the arguments.

    ``open_file`` opens the model in another way than as an ``OnnxModel`` with one thread.
    """
    threads = cores() if threads is None else threads
    for name, value in (("threads", threads), ("max-images", max_images)):
        if value < 1:
            raise TutelageError(f"--{name} is {value}; it must be at least 1")
    if not (max_mb > 0 and timeout > 0):
        raise TutelageError(f"--max-mb {max_mb:g} and --timeout {timeout:g} must be more than 0")
    path = exported_file(model)
    opened = OnnxModel(path, threads=1) if open_file is None else open_file(path)
    listening = web.bound_socket(host, port)
    limits = Limits(
        request_bytes=round(max_mb * 1e6),
        images=max_images,
        seconds=timeout,
        threads=threads,
        total_bytes=round(max(256.0, 2 * max_mb) * 1e6),
    )
    app = make_app(opened, path.name, limits, log=not quiet)
    where = f"[{host}]" if ":" in host else host
    print(f"serving {path} on http://{where}:{listening.getsockname()[1]}/", flush=True)
    web.run_app(app, listening)


class _Service:
    def __init__(self, model: OnnxModel, name: str, limits: Limits) -> None:
        self._model = model
        self._name = name
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.threads)
        self._held = 0  # bytes of bodies in memory; only the event loop's thread changes it
        self._registry = CollectorRegistry()
        kept: Any = {"registry": self._registry}
        self._requests = Counter(
            "tutelage_requests", "predict requests by status", ["status"], **kept
        )
        self._images = Counter("tutelage_images", "images by outcome", ["outcome"], **kept)
        self._labels = Counter("tutelage_predictions", "predictions by class", ["label"], **kept)
        self._seconds = Histogram("tutelage_request_seconds", "from head to answer", **kept)
        self._busy = Gauge("tutelage_requests_in_flight", "requests not yet answered", **kept)

    async def docs(self, request: Request) -> Response:
        """How to ask, with this server's address as the client calls it."""
        address = str(request.base_url).rstrip("/")
        return _html("docs", about=self._about(), limits=self._limits, address=address)

    async def health(self, request: Request) -> Response:
        return JSONResponse(self._about())

    def _about(self) -> dict[str, Any]:
        threshold = self._model.decision_threshold
        return {
            "status": "ok",
            "model": self._name,
            "classes": list(self._model.classes),
            "parameters": int(self._model.metadata.get("tutelage.parameters", 0)),
            "rejects": self._model.unknown_threshold is not None,
            "decision_threshold": None if threshold is None else dict([threshold]),
            "max_bytes": self._limits.request_bytes,
            "version": __version__,
        }

    async def metrics(self, request: Request) -> Response:
        """Counters for Prometheus; the counts by class show when the images drift."""
        return Response(generate_latest(self._registry), media_type=TEXT)

    async def predict(self, request: Request) -> Response:
        began = time.monotonic()
        status = 500
        with self._busy.track_inprogress():
            try:
                async with asyncio.timeout(self._limits.seconds):
                    response = await self._predict(request, began + self._limits.seconds)
                status = response.status_code
                return response
            except TimeoutError:
                status = 504
                raise HTTPException(
                    504, f"no answer within {self._limits.seconds:g} s; send fewer images at once"
                ) from None
            except ClientDisconnect:
                status = 499  # as nginx counts such requests; nobody reads the answer
                return Response(status_code=status)
            except HTTPException as error:
                status = error.status_code
                raise
            except TutelageError as error:  # the model is damaged
                raise HTTPException(500, str(error)) from error
            finally:
                self._requests.labels(str(status)).inc()
                self._seconds.observe(time.monotonic() - began)

    async def _predict(self, request: Request, deadline: float) -> Response:
        text = request.query_params.get("reject", "false").lower()
        if text not in ("true", "false", "1", "0"):
            raise HTTPException(400, f"reject is {text!r}, expected true or false")
        reject = text in ("true", "1")
        if reject and self._model.unknown_threshold is None:
            raise HTTPException(400, "this model has no threshold to reject by: leave out reject")
        with ExitStack() as held:
            hold = held.enter_context(self._holding())
            named = await images_of(request, self._limits, hold)
            request.state.images = len(named)
            began = time.monotonic()
            await self._slots.acquire()
            held.callback(self._slots.release)
            own = CapacityLimiter(1)  # the request has a slot already
            thread = anyio.to_thread.run_sync(self._rows, named, reject, deadline, limiter=own)
            work = asyncio.create_task(thread)
            work.add_done_callback(partial(_ended, held.pop_all()))
        # A thread cannot be stopped. So a timeout ends this wait alone, not the work, which keeps
        # its slot and its bytes until it ends.
        await asyncio.wait([work])
        rows = work.result()
        took = 1000 * (time.monotonic() - began)
        readable = [row for row in rows if "error" not in row]
        self._images.labels("answered").inc(len(readable))
        self._images.labels("unreadable").inc(len(rows) - len(readable))
        for row in readable:
            self._labels.labels(row["label"]).inc()
        return JSONResponse(
            {"model": self._name, "predictions": rows},
            status_code=200 if readable else 422,
            headers={"Server-Timing": f"predict;dur={took:.1f}"},  # milliseconds, of all images
        )

    @contextmanager
    def _holding(self) -> Iterator[Any]:
        """Count the bytes of one body against the total, until its answer is made."""
        mine = 0

        def hold(count: int) -> None:
            nonlocal mine
            if self._held + count > self._limits.total_bytes:
                raise HTTPException(
                    503, "too many images are waiting; try again", headers={"Retry-After": "1"}
                )
            self._held += count
            mine += count

        try:
            yield hold
        finally:
            self._held -= mine

    def _rows(
        self, named: Sequence[tuple[str, bytes]], reject: bool, deadline: float
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for chunk in _chunks(named, self._limits.pixels):
            if time.monotonic() > deadline:
                raise TimeoutError  # an answer that lacks images would look like a whole one
            good = [(name, pixels) for name, pixels in chunk if not isinstance(pixels, str)]
            names, pixels = [name for name, _ in good], [image for _, image in good]
            found = iter(answer(self._model, names, pixels, reject=reject))
            rows += [
                {"image": name, "error": what} if isinstance(what, str) else _row(next(found))
                for name, what in chunk
            ]
        return rows


def _ended(used: ExitStack, work: asyncio.Task[Any]) -> None:
    used.close()
    if not work.cancelled():
        work.exception()  # after a timeout nobody else asks, and asyncio would complain


def _row(prediction: Prediction) -> dict[str, Any]:
    return {name: value for name, value in vars(prediction).items() if value is not None}


def _chunks(
    named: Sequence[tuple[str, bytes]], most_pixels: int
) -> Iterator[list[tuple[str, Any]]]:
    """(name, pixels or the reason why it has none) of the images, a few at a time."""
    chunk: list[tuple[str, Any]] = []
    for name, content in named:
        chunk.append((name, _decoded(content, most_pixels)))
        held = sum(0 if isinstance(what, str) else what.size // 3 for _, what in chunk)
        if len(chunk) == CHUNK_IMAGES or held >= CHUNK_PIXELS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _decoded(content: bytes, most_pixels: int) -> np.ndarray | str:
    try:
        width, height = read_size(content)
        if width * height > most_pixels:
            return f"has {width} x {height} pixels, more than {most_pixels:,}: scale it down"
        return decode(content)
    except UnreadableImage as error:
        return str(error)


async def _ask(request: Request) -> Response:
    return _html("ask")


def _html(name: str, **context: Any) -> Response:
    page = pages.render(f"serve/{name}.html.j2", **context)
    return Response(page, media_type="text/html", headers=HEADERS)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    return Response(pages.read(f"serve/{name}"), media_type=STATIC[name], headers=HEADERS)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # The rest of the body will not be read, so the connection ends with the answer.
    headers = {**(error.headers or {}), "Connection": "close"}
    words = error.detail
    if error.status_code == 404:
        words = f"there is nothing at {request.url.path}; /docs says what there is"
    elif error.status_code == 405:
        words = f"{request.url.path} takes {headers['Allow']}, not {request.method}; see /docs"
    return JSONResponse({"error": words}, status_code=error.status_code, headers=headers)


class AccessLog:
    """ASGI middleware that prints a line on stderr for each request.

    Time, client, method, path, status, milliseconds and number of images are in it, and no image,
    no name of a file, no answer. ``request.state.images`` says how many images there were.
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
            took = 1000 * (time.monotonic() - began)
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            client = scope["client"][0] if scope.get("client") else "-"
            path = scope["raw_path"].decode("ascii", "backslashreplace")  # as it was sent
            line = f"{now} {client} {scope['method']} {path} {status} {took:.1f} ms"
            images = scope.get("state", {}).get("images")
            said = "" if images is None else f" {counted(images, 'image')}"
            print(line + said, file=sys.stderr, flush=True)
