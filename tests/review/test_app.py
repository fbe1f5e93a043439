"""Who may see the page, and what it shows."""

import io
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reviewing import OWN, PORT, TOKEN, items_of
from starlette.testclient import TestClient

from tutelage.data.decisions import FILE, Decisions, read_decisions
from tutelage.review.app import MODULES, make_app
from tutelage.review.items import open_run


@pytest.fixture
def app(reviewed: Path) -> Iterator[Any]:
    with Decisions(reviewed / FILE) as decisions:
        yield make_app(open_run(reviewed), decisions, title="run", port=PORT, token=TOKEN)


def test_nothing_is_shown_without_the_token(app: Any) -> None:
    stranger = TestClient(app, base_url=OWN)
    for path in ("/", "/?token=wrong", "/api/state", "/images/0/small", "/static/page.js"):
        answer = stranger.get(path)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
    assert stranger.get("/api/state", params={"token": TOKEN}).status_code == 403, "only at /"
    other_start = TestClient(app, base_url=OWN, cookies={"tutelage-review-1": TOKEN})
    assert other_start.get("/api/state").status_code == 403


def test_the_cookie_is_for_this_page_alone(app: Any) -> None:
    client = TestClient(app, base_url=OWN)
    cookie = client.get("/", params={"token": TOKEN}).headers["set-cookie"]
    assert cookie == f"tutelage-review-{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert client.get("/").status_code == 200
    assert "set-cookie" not in client.get("/").headers


@pytest.mark.parametrize("host", ["evil.example:4321", "127.0.0.1:80", "127.0.0.1", "localhost"])
def test_other_names_are_refused(page: TestClient, host: str) -> None:
    assert page.get("/api/state", headers={"Host": host}).status_code == 421
    assert page.get("/", params={"token": TOKEN}, headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:9999"])
def test_decisions_of_other_pages_are_refused(
    page: TestClient, reviewed: Path, origin: str | None
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    body = {"action": "accept", "ids": [0]}
    assert page.post("/api/decisions", json=body, headers=headers).status_code == 403
    assert read_decisions(reviewed) == {}


def test_every_answer_forbids_what_the_page_does_not_need(page: TestClient) -> None:
    for path in ("/", "/api/state", "/images/0/small", "/nothing", "/static/page.css"):
        headers = page.get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    ["/static/../app.py", "/static/%2e%2e%2fapp.py", "/static/app.py", "/images/-1/small",
     "/images/../../etc/passwd/small", "/images/99999/small", "/images/0/huge",
     "/images/0x1/small"],
)  # fmt: skip
def test_no_request_names_a_file(page: TestClient, path: str) -> None:
    assert page.get(path).status_code == 404


def test_what_there_is_to_review(page: TestClient) -> None:
    state = page.get("/api/state").json()
    counts = {view["name"]: view["count"] for view in state["views"]}
    assert 20 < counts.pop("next") <= 30  # none that looks like one before it
    assert counts == {"suspicious": 12, "unsure": 30, "sure": 30, "decided": 0}
    assert state["classes"] == ["disc", "square", "triangle"]
    assert "None of your 12 labels looks wrong" in state["sentences"][0]
    unsure, sure = items_of(page, "unsure"), items_of(page, "sure")
    confidence = [item["confidence"] for item in unsure]
    assert confidence == sorted(confidence)
    assert sure[0]["id"] == unsure[-1]["id"]
    doubtful = items_of(page, "suspicious")
    assert all(item["given"] for item in doubtful)
    suspicions = [item["suspicion"] for item in doubtful]
    assert suspicions == sorted(suspicions, reverse=True)
    assert {item["label"] for item in items_of(page, "sure", **{"class": "disc"})} == {"disc"}


def test_what_there_is_to_label(labelling: TestClient) -> None:
    state = labelling.get("/api/state").json()
    assert (state["labelling"], state["images"]) == (True, 3)
    assert (state["labelled"], state["decided"]) == (0, 0)
    assert state["classes"] == ["ant", "bee"]
    counts = {view["name"]: view["count"] for view in state["views"]}
    assert counts == {"suggested": 3, "decided": 0}
    (first, *_) = items_of(labelling, "suggested")
    assert (first["image"], first["why"]) == ("03.jpg", "the first")
    assert first["label"] is first["given"] is first["confidence"] is first["decision"] is None
    assert labelling.get("/api/view", params={"view": "sure"}).status_code == 400


@pytest.mark.parametrize(
    ("path", "query"),
    [("view", {"view": "none"}), ("view", {"view": "sure", "class": "cat"}), ("items", {}),
     ("items", {"ids": "-1"}), ("items", {"ids": "42"}), ("items", {"ids": "9" * 5000})],
)  # fmt: skip
def test_wrong_questions(page: TestClient, path: str, query: dict[str, str]) -> None:
    assert page.get(f"/api/{path}", params=query).status_code == 400


def test_a_picture_can_be_had_in_all_its_pixels(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((1000, 3000, 3), np.uint8)
    monkeypatch.setattr("tutelage.review.items.decode", lambda data: pixels)

    def size(name: str) -> tuple[int, int]:
        answer = page.get(f"/images/0/{name}")
        assert answer.headers["content-type"] == "image/jpeg"
        return Image.open(io.BytesIO(answer.content)).size

    assert (size("small"), size("large"), size("full")) == ((256, 85), (1600, 533), (3000, 1000))


def test_every_module_of_the_page_is_served_and_no_other(page: TestClient) -> None:
    for name in MODULES:
        answer = page.get(f"/static/{name}.js")
        assert answer.headers["content-type"].startswith("text/javascript")
        for imported in re.findall(r'from "\./(\w+)\.js"', answer.text):
            assert imported in MODULES
    folder = resources.files("tutelage.pages") / "review"
    assert {f"{name}.js" for name in MODULES} == {
        entry.name for entry in folder.iterdir() if entry.name.endswith(".js")
    }


def test_bodies_that_are_none(page: TestClient) -> None:
    def send(content: bytes, kind: str = "application/json") -> int:
        headers = {"Origin": OWN, "Content-Type": kind}
        return page.post("/api/decisions", content=content, headers=headers).status_code

    assert send(b"{") == 400
    assert send(b'{"action": "undo"}', "text/plain") == 415
    assert send(b" " * 200_001) == 413
