"""The images in a request, whatever Content-Type its client gave them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from tutelage.data.decode import UnreadableImage, read_size

ONE = "curl --data-binary @photo.jpg"
SEVERAL = "curl -F images=@one.jpg -F images=@two.png"
BINARY = "application/octet-stream"
FORM = "application/x-www-form-urlencoded"  # what curl's -d and --data-binary call every body
SHOWN_BYTES = 20  # of a body that is no image


@dataclass(frozen=True)
class Limits:
    """What a request may cost at most, and what all requests may cost together."""

    request_bytes: int = 32_000_000
    images: int = 64  # in a request
    pixels: int = 50_000_000  # of an image
    seconds: float = 30.0  # from a request's head to its answer
    threads: int = 1  # requests that are computed at once; the others wait
    total_bytes: int = 256_000_000  # of all bodies; further requests are refused with 503


async def images_of(
    request: Request, limits: Limits, hold: Callable[[int], None]
) -> list[tuple[str, bytes]]:
    """(name, file content) of each image in a request: the body itself, or the files of a form.

    ``hold`` gets the sizes of the parts of the body as they arrive.
    """
    counted = Request(request.scope, _counting(request.receive, limits.request_bytes, hold))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _files_of(counted, limits)
    content = await counted.body()
    if not content:
        raise HTTPException(400, f"the body is empty; send an image, as {ONE} does")
    if not (kind.startswith("image/") or kind == BINARY):
        # In a thread: meanwhile the event loop answers others.
        await anyio.to_thread.run_sync(_check_that_it_begins_like_an_image, content, kind)
    return [("image", content)]


async def _files_of(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    try:
        async with request.form(max_files=limits.images) as form:
            texts = [name for name, item in form.multi_items() if isinstance(item, str)]
            named = [
                (item.filename or "image", await item.read())
                for _, item in form.multi_items()
                if isinstance(item, UploadFile)
            ]
    except HTTPException as error:
        if error.status_code != 400:
            raise
        reason = error.detail.rstrip(".")
        raise HTTPException(
            400,
            f"the form cannot be read ({reason}); send at most {limits.images} images at once, "
            f"as {SEVERAL} does",
        ) from error
    if texts:
        raise HTTPException(
            400,
            f"{texts[0]!r} in the form is text, not a file; with curl, a file's name follows an @ "
            f"({SEVERAL}), and options are part of the address (?reject=true)",
        )
    if not named:
        raise HTTPException(400, f"there is no image in the form; send one, as {SEVERAL} does")
    return named


def _check_that_it_begins_like_an_image(content: bytes, kind: str) -> None:
    try:
        read_size(content)
    except UnreadableImage as error:
        begin = ascii(content[:SHOWN_BYTES].decode("latin-1"))
        mend = f"send the bytes of an image ({ONE}), or several as a form ({SEVERAL})"
        if kind == FORM:
            mend = f"send an image, with curl by --data-binary, since -d changes its bytes: {ONE}"
        raise HTTPException(
            415, f"the body, {kind or 'of no type'}, begins with {begin} and {error}; {mend}"
        ) from error


def _counting(receive: Receive, most: int, hold: Callable[[int], None]) -> Receive:
    """``receive``, but a body of more than ``most`` bytes is refused; ``hold`` gets each size."""
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        size = len(message.get("body", b""))
        received += size
        if received > most:
            raise HTTPException(
                413, f"the body has more than {most:,} bytes; send fewer or smaller images"
            )
        hold(size)
        return message

    return counting
