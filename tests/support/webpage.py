"""A folder that ``export --web`` wrote, behind a plain web server and open in a browser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from listening import running

LOADED = "#about:has-text('The model knows')"


class Shown(NamedTuple):
    """What the card of a picture says."""

    title: str  # the class, "unknown" or "No answer"
    words: list[str]  # its sentences
    shares: dict[str, float]  # class -> probability, by the lengths of the bars


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder behind what ``python -m http.server`` starts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=folder))
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}/"


def open_page(context: Any, address: str) -> Any:
    """The page, ready to answer; ``page.asked`` has its requests, ``page.faults`` its errors."""
    page = context.new_page()
    page.asked, page.faults = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: page.faults.append(said.text))
    page.goto(address)
    page.wait_for_selector(LOADED)
    return page


def answers(page: Any, files: Sequence[Path]) -> list[Shown]:
    """What the page says about pictures that are chosen together, in their order."""
    from playwright.sync_api import expect

    page.set_input_files("#files", list(files))
    cards = page.locator("#answers > li")
    expect(cards.locator("h2")).to_have_count(cards.count(), timeout=120_000)
    return [shown(cards.nth(k)) for k in range(len(files))]


def shown(card: Any) -> Shown:
    """What a card says."""
    title, words, rows = card.evaluate("""card => [
        card.querySelector("h2").textContent,
        [...card.querySelectorAll(".answer > p")].map((p) => p.textContent),
        [...card.querySelectorAll("tr")].map((row) => [
            row.cells[0].textContent, parseFloat(row.querySelector(".bar > div").style.width) / 100,
        ]),
    ]""")
    return Shown(title, words, dict(rows))
