"""The pages of ``tutelage serve`` for people: ``/``, which answers pictures, and ``/docs``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tutelage import pages

STATIC = {"page.css": "text/css"} | dict.fromkeys(
    ("ask.js", "pictures.js", "cards.js", "copy.js"), "text/javascript"
)
# "blob:" is where a browser keeps a picture that it shows while it is asked about.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def routes(describe: Callable[[Request], dict[str, Any]]) -> list[Route]:
    """The routes of the pages; ``describe`` gives the OpenAPI document that /docs shows."""

    async def docs(request: Request) -> Response:
        return _html(pages.render("serve/docs.html.j2", document=describe(request)))

    return [
        Route("/", _ask),
        Route("/docs", docs),
        Route("/static/{name}", _static),
        Route("/favicon.ico", _no_icon),
    ]


async def _ask(request: Request) -> Response:
    return _html(pages.render("serve/ask.html.j2"))


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404)
    return Response(pages.read(f"serve/{name}"), media_type=STATIC[name], headers=HEADERS)


async def _no_icon(request: Request) -> Response:
    return Response(status_code=204)


def _html(page: str) -> Response:
    return Response(page, media_type="text/html", headers=HEADERS)
