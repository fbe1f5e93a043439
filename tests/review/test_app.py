"""Who may see the page, and what decisions it takes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tutelage.data.decisions import FILE, Decisions, read_decisions
from tutelage.review.app import make_app
from tutelage.review.items import open_run

PORT, TOKEN = 4321, "the-token"
OWN = "http://127.0.0.1:4321"


@pytest.fixture
def app(reviewed: Path) -> Iterator[Any]:
    with Decisions(reviewed / FILE) as decisions:
        yield make_app(open_run(reviewed), decisions, title="run", port=PORT, token=TOKEN)


@pytest.fixture
def page(app: Any) -> TestClient:
    """A browser that opened the printed address."""
    client = TestClient(app, base_url=OWN)
    assert client.get("/", params={"token": TOKEN}).status_code == 200
    return client


def decide(page: TestClient, **body: Any) -> Any:
    return page.post("/api/decisions", json=body, headers={"Origin": OWN})


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
    body = {"action": "accept", "id": 0}
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
    [
        "/static/../app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/app.py",
        "/images/../../etc/passwd/small",
        "/images/-1/small",
        "/images/99999/small",
        "/images/0/huge",
        "/images/0x1/small",
    ],
)
def test_no_request_names_a_file(page: TestClient, path: str) -> None:
    assert page.get(path).status_code == 404


def test_what_there_is_to_review(page: TestClient) -> None:
    state = page.get("/api/state").json()
    counts = {view["name"]: view["count"] for view in state["views"]}
    assert 20 < counts.pop("next") <= 30  # none that looks like one before it
    assert counts == {"suspicious": 12, "unsure": 30, "sure": 30, "decided": 0}
    assert state["classes"] == ["disc", "square", "triangle"]
    assert "0 of 12 labels" in state["sentences"][0]
    unsure = page.get("/api/items", params={"view": "unsure"}).json()
    sure = page.get("/api/items", params={"view": "sure"}).json()
    confidence = [item["confidence"] for item in unsure["items"]]
    assert confidence == sorted(confidence)
    assert sure["items"][0]["id"] == unsure["items"][-1]["id"]
    doubtful = page.get("/api/items", params={"view": "suspicious"}).json()["items"]
    assert all(item["given"] for item in doubtful)
    suspicions = [item["suspicion"] for item in doubtful]
    assert suspicions == sorted(suspicions, reverse=True)
    discs = page.get("/api/items", params={"view": "sure", "class": "disc", "first": 2}).json()
    assert len(discs["items"]) == discs["count"] - 2
    assert {item["label"] for item in discs["items"]} == {"disc"}


@pytest.mark.parametrize(
    "query", [{"view": "none"}, {"view": "sure", "class": "cat"}, {"view": "sure", "first": "-1"}]
)
def test_wrong_questions(page: TestClient, query: dict[str, str]) -> None:
    assert page.get("/api/items", params=query).status_code == 400


def test_pictures(page: TestClient) -> None:
    small = page.get("/images/3/small")
    assert small.headers["content-type"] == "image/jpeg"
    assert small.content.startswith(b"\xff\xd8")


def test_decisions_are_on_the_disk_before_the_answer(page: TestClient, reviewed: Path) -> None:
    items = page.get("/api/items", params={"view": "next"}).json()["items"]
    first, second, third = items[:3]
    accepted = decide(page, action="accept", id=first["id"]).json()
    assert accepted["item"]["decision"] == {"action": "accept", "label": first["label"]}
    assert read_decisions(reviewed)[first["image"]].label == first["label"]
    other = next(c for c in ("disc", "square") if c != second["label"])
    decide(page, action="relabel", id=second["id"], label=other)
    decide(page, action="reject", id=third["id"])
    agreed = decide(page, action="relabel", id=third["id"], label=third["label"]).json()
    assert agreed["item"]["decision"]["action"] == "accept", "the same label is no other one"
    assert agreed["decided"] == 3
    held = read_decisions(reviewed)
    assert held[second["image"]].label == other
    decided = page.get("/api/items", params={"view": "decided"}).json()["items"]
    assert [item["id"] for item in decided] == [third["id"], second["id"], first["id"]]


def test_undo(page: TestClient, reviewed: Path) -> None:
    for item in (0, 1):
        decide(page, action="reject", id=item)
    assert decide(page, action="undo", id=0).json()["item"]["decision"] is None
    assert decide(page, action="undo").json()["item"]["id"] == 1
    nothing = decide(page, action="undo").json()
    assert (nothing["item"], nothing["decided"]) == (None, 0)
    assert read_decisions(reviewed) == {}


def test_a_class_that_the_data_lacks_can_be_made(page: TestClient, reviewed: Path) -> None:
    answer = decide(page, action="relabel", id=0, label="star", new=True).json()
    assert answer["classes"] == ["disc", "square", "triangle", "star"]
    decide(page, action="relabel", id=1, label="disc", new=True)
    decisions = read_decisions(reviewed)
    assert sorted((d.label, d.new) for d in decisions.values()) == [("disc", False), ("star", True)]


@pytest.mark.parametrize(
    "body",
    [
        {"action": "accept"},
        {"action": "accept", "id": -1},
        {"action": "accept", "id": 42},
        {"action": "accept", "id": True},
        {"action": "accept", "id": "0"},
        {"action": "relabel", "id": 0, "label": "cat"},
        {"action": "relabel", "id": 0, "label": ["disc"]},
        {"action": "love", "id": 0},
        [],
    ],
)
def test_decisions_that_are_none(page: TestClient, reviewed: Path, body: Any) -> None:
    answer = page.post("/api/decisions", json=body, headers={"Origin": OWN})
    assert answer.status_code == 400
    assert read_decisions(reviewed) == {}


def test_bodies_that_are_none(page: TestClient) -> None:
    def send(content: bytes, kind: str = "application/json") -> int:
        headers = {"Origin": OWN, "Content-Type": kind}
        return page.post("/api/decisions", content=content, headers=headers).status_code

    assert send(b"{") == 400
    assert send(b'{"action": "accept", "id": 0}', "text/plain") == 415
    assert send(b" " * 20_000) == 413


def test_a_decision_that_cannot_be_saved_is_an_error(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    answer = decide(page, action="accept", id=0)
    assert answer.status_code == 500
    assert "could not be saved" in answer.json()["error"]
