"""The review's server: one page, its items and pictures, and decisions. Loopback only.

Three rules keep the pages of other programs out. The server answers only under its own name, which
rules out DNS rebinding. It answers only to a browser with the token of this start, in a cookie that
no page of another site can send. It takes decisions only from pages of its own origin. No request
names a file.
"""

from __future__ import annotations

import contextlib
import secrets
import webbrowser
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tutelage import pages
from tutelage.data.decisions import FILE, Decision, Decisions, served_at
from tutelage.data.decode import UnreadableImage
from tutelage.data.open import Data, open_data
from tutelage.review.deciding import Deciding
from tutelage.review.items import (
    LABELLING,
    Items,
    after_review,
    is_suggested,
    open_run,
    open_suggested,
)
from tutelage.system import web
from tutelage.system.errors import TutelageError

SIDES = {"small": 256, "large": 1600, "full": 65_535}  # most pixels of a side; a JPEG has no more
BODY_BYTES = 200_000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MODULES = ("page", "chooser", "grid", "keys", "list", "server", "viewer", "words")
STATIC = {"page.css": "text/css", **{f"{name}.js": "text/javascript" for name in MODULES}}


def review(run: Path, *, data: Data | None, port: int, browser: bool) -> None:
    """Serve the page until Ctrl-C, and say what comes next; see ``tutelage.api.review``."""
    items = open_items(run, data)
    decisions = serve_page(run, items, port=port, browser=browser)
    print("\n".join(after_review(run, items, decisions)), flush=True)


def serve_page(run: Path, items: Items, *, port: int, browser: bool) -> dict[str, Decision]:
    """Serve the page until Ctrl-C; what is decided then, by image."""
    if (served := served_at(run)) is not None:
        raise TutelageError(f"the page of {run} is open already: {served}")
    with Decisions(run / FILE) as decisions:
        listening = web.bound_socket("127.0.0.1", port)
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)
        address = f"http://127.0.0.1:{port}/?token={token}"
        app = make_app(items, decisions, title=str(run), port=port, token=token)
        decisions.note_page(address)
        print(f"review: {address}", flush=True)
        print(f"decisions are saved in {decisions.path}; Ctrl-C stops", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # that is how a person leaves the page
            if browser:
                webbrowser.open(address)
            web.run_app(app, listening)
        return decisions.standing


def open_items(run: Path, data: Data | None) -> Items:
    """The images of a finished run, or those that ``tutelage suggest`` chose."""
    opened = open_suggested if is_suggested(run) else open_run
    return opened(run) if data is None else opened(run, *open_data(data))


def make_app(items: Items, decisions: Decisions, *, title: str, port: int, token: str) -> Starlette:
    """The application for one start.

    ``port`` is part of the names that the server answers to; the first request must have ``token``
    in its address.
    """
    review = _Review(items, decisions, title)
    routes = [
        Route("/", review.page),
        Route("/favicon.ico", lambda request: Response(status_code=204)),
        Route("/static/{name}", review.static),
        Route("/api/state", review.state),
        Route("/api/view", review.view),
        Route("/api/items", review.items),
        Route("/api/decisions", review.decide, methods=["POST"]),
        Route("/images/{item:int}/{size}", review.picture),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(_Guard, port=port, token=token)],
        exception_handlers={HTTPException: _failure, TutelageError: _failure},
    )


class _Guard(BaseHTTPMiddleware):
    """Lets through only requests of a page that this start of the server has served."""

    def __init__(self, app: ASGIApp, *, port: int, token: str) -> None:
        super().__init__(app)
        self._token = token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._cookie = f"tutelage-review-{port}"  # browsers share cookies between ports

    async def dispatch(self, request: Request, answer: RequestResponseEndpoint) -> Response:
        if refusal := self._refuse(request):
            status, words = refusal
            response: Response = PlainTextResponse(f"{words}\n", status)
        else:
            response = await answer(request)
            if self._brings_token(request):
                cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                response.headers["Set-Cookie"] = cookie
        response.headers.update(HEADERS)
        return response

    def _refuse(self, request: Request) -> tuple[int, str] | None:
        host = request.headers.get("host", "")
        if host not in self._hosts:
            return 421, "this server answers on its own loopback address only"
        if request.method not in ("GET", "HEAD", "POST"):
            return 405, "GET, HEAD or POST"
        if request.method == "POST" and request.headers.get("origin") != f"http://{host}":
            return 403, "decisions are taken from this server's own page only"
        known = self._is_token(request.cookies.get(self._cookie, ""))
        if not (known or self._brings_token(request)):
            return 403, "open the address that tutelage review printed: it holds this start's token"
        return None

    def _brings_token(self, request: Request) -> bool:
        """Whether this is the printed address; from here on a cookie has the token."""
        return request.url.path == "/" and self._is_token(request.query_params.get("token", ""))

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(), self._token.encode())


class _Review:
    """The handlers. Starlette runs those that are not ``async`` in threads of its own."""

    def __init__(self, items: Items, decisions: Decisions, title: str) -> None:
        self._items = items
        self._decisions = decisions
        self._deciding = Deciding(items, decisions)
        self._title = title

    async def page(self, request: Request) -> Response:
        return Response(pages.render("review/page.html.j2"), media_type="text/html")

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            raise HTTPException(404, "no such file")
        return Response(pages.read(f"review/{name}"), media_type=STATIC[name])

    def state(self, request: Request) -> Response:
        """Views with their counts, what is said about the images, and what decisions change."""
        standing = self._decisions.standing
        views = [
            {"name": name, "about": about, "count": len(self._items.view(name, None, standing))}
            for name, about in self._items.views.items()
        ]
        return JSONResponse(
            {
                "title": self._title,
                "labelling": self._items.views is LABELLING,
                "images": len(self._items),
                "views": views,
                "sentences": self._items.sentences,
                "next_run": self._items.next_run,
                **self._deciding.progress(),
            }
        )

    def view(self, request: Request) -> Response:
        """The items of a view in its order, and those of them that are decided."""
        name, of_class = request.query_params.get("view", ""), request.query_params.get("class")
        if name not in self._items.views:
            raise HTTPException(400, f"view must be one of {', '.join(self._items.views)}")
        if of_class and of_class not in self._deciding.classes:
            raise HTTPException(400, "no such class")
        standing = self._decisions.standing
        items = self._items.view(name, of_class or None, standing)
        decided = [item for item in items if self._items.name(item) in standing]
        return JSONResponse({"items": items, "decided": decided})

    def items(self, request: Request) -> Response:
        """What the page shows of some items."""
        try:
            ids = [int(text) for text in request.query_params.get("ids", "").split(",")]
        except ValueError as error:
            raise HTTPException(400, "ids must be numbers") from error
        return JSONResponse({"items": self._deciding.described(ids)})

    async def decide(self, request: Request) -> Response:
        """Make a decision, or take one back; it is on the disk before the answer is sent."""
        body = await _json_body(request)
        return JSONResponse(await run_in_threadpool(self._deciding.take, body))

    def picture(self, request: Request) -> Response:
        item, size = request.path_params["item"], request.path_params["size"]
        if not 0 <= item < len(self._items) or size not in SIDES:
            raise HTTPException(404, "no such image")
        try:
            content = self._items.picture(item, SIDES[size])
        except (OSError, UnreadableImage) as error:
            raise HTTPException(404, f"the image cannot be read: {error}") from error
        return Response(content, media_type="image/jpeg")


async def _json_body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "decisions are JSON")
    if int(request.headers.get("content-length", BODY_BYTES + 1)) > BODY_BYTES:
        raise HTTPException(413, f"a decision has at most {BODY_BYTES} bytes")
    try:
        body = await request.json()
    except ValueError as error:
        raise HTTPException(400, f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "expected an object")
    return body


async def _failure(request: Request, error: Exception) -> Response:
    status, words = 500, str(error)
    if isinstance(error, HTTPException):
        status, words = error.status_code, error.detail
    return JSONResponse({"error": words}, status_code=status)
