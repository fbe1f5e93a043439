"""A page of a review without a browser: opened, and deciding as the page does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from tutelage.data.decisions import Decisions
from tutelage.review.app import make_app
from tutelage.review.items import Items

PORT, TOKEN = 4321, "the-token"
OWN = f"http://127.0.0.1:{PORT}"


def opened(items: Items, decisions: Decisions) -> TestClient:
    """A browser that opened the printed address."""
    app = make_app(items, decisions, title="run", port=PORT, token=TOKEN)
    page = TestClient(app, base_url=OWN)
    assert page.get("/", params={"token": TOKEN}).status_code == 200
    return page


def decide(page: TestClient, **body: Any) -> Any:
    """The answer to a decision of a page that knows what is decided now."""
    ids = ",".join(str(item) for item in body.get("ids", []))
    known = page.get("/api/items", params={"ids": ids}).json().get("items", [])
    said = {
        "file": page.get("/api/state").json()["file"],
        "before": [item["decision"] for item in known],
    }
    content = json.dumps(said | body)  # httpx's own refuses half a character, which a page may send
    headers = {"Origin": OWN, "Content-Type": "application/json"}
    return page.post("/api/decisions", content=content, headers=headers)


def items_of(page: TestClient, view: str, **query: str) -> list[Any]:
    """What the page shows of a view, as far as one answer goes."""
    found = page.get("/api/view", params={"view": view, **query}).json()["items"][:60]
    ids = ",".join(str(item) for item in found)
    items: list[Any] = page.get("/api/items", params={"ids": ids}).json()["items"]
    return items


def write_choice(folder: Path, data: Path, chosen: dict[str, str]) -> Path:
    """A folder of ``tutelage suggest``, with the images that it chose and why."""
    folder.mkdir()
    settings = {"data": {"decisions": None}, "table": {}}
    request = {"command": "suggest", "data": str(data), "settings": settings}
    (folder / "config.json").write_text(json.dumps({"request": request}))
    rows = [{"image": name, "why": why} for name, why in chosen.items()]
    content = {"classes": ["ant", "bee"], "suggested": rows}
    (folder / "suggest.json").write_text(json.dumps(content))
    return folder
