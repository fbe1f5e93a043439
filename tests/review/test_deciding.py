"""What decisions a page can make, alone and beside another one, and take back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reviewing import decide, items_of, opened
from starlette.testclient import TestClient

from tutelage.data.decisions import FILE, Decision, Decisions, read_decisions
from tutelage.review.items import open_run


@pytest.fixture
def page(reviewed: Path) -> Iterator[TestClient]:
    with Decisions(reviewed / FILE) as decisions:
        yield opened(open_run(reviewed), decisions)


def labels(run: Path) -> dict[str, str | None]:
    return {name: decision.label for name, decision in read_decisions(run).items()}


def test_decisions_are_on_the_disk_before_the_answer(page: TestClient, reviewed: Path) -> None:
    first, second, third = items_of(page, "next")[:3]
    (accepted,) = decide(page, action="accept", ids=[first["id"]]).json()["items"]
    assert accepted["decision"] == {"action": "accept", "label": first["label"]}
    assert labels(reviewed)[first["image"]] == first["label"]
    other = next(c for c in ("disc", "square") if c != second["label"])
    decide(page, action="relabel", ids=[second["id"]], label=other)
    decide(page, action="reject", ids=[third["id"]])
    agreed = decide(page, action="relabel", ids=[third["id"]], label=third["label"]).json()
    (item,) = agreed["items"]
    assert item["decision"]["action"] == "accept", "the same label is no other one"
    assert agreed["decided"] == 3
    assert labels(reviewed)[second["image"]] == other
    decided = [item["id"] for item in items_of(page, "decided")]
    assert decided == [third["id"], second["id"], first["id"]]


def test_several_images_are_one_step(page: TestClient, reviewed: Path) -> None:
    decide(page, action="reject", ids=[0])
    answer = decide(page, action="relabel", ids=[1, 2, 3], label="disc").json()
    assert [item["id"] for item in answer["items"]] == [1, 2, 3]
    assert (answer["decided"], answer["labelled"]) == (4, 3)
    answer = decide(page, action="undo").json()
    assert answer["undone"] == {
        "action": "relabel",
        "label": "disc",
        "new": False,
        "ids": [1, 2, 3],
    }
    assert [item["decision"] for item in answer["items"]] == [None] * 3
    assert list(labels(reviewed).values()) == [None]


def test_each_of_several_keeps_its_own_label(page: TestClient, reviewed: Path) -> None:
    items = items_of(page, "unsure")
    decide(page, action="accept", ids=[item["id"] for item in items])
    assert len({item["label"] for item in items}) > 1
    assert labels(reviewed) == {item["image"]: item["label"] for item in items}


def test_what_was_decided_before_holds_again_when_it_is_taken_back(page: TestClient) -> None:
    decide(page, action="reject", ids=[0])
    decide(page, action="relabel", ids=[0, 1], label="disc")
    first, second = decide(page, action="undo").json()["items"]
    assert first["decision"] == {"action": "reject", "label": None}
    assert second["decision"] is None


def test_undo_goes_on_with_what_an_earlier_start_decided(reviewed: Path) -> None:
    with Decisions(reviewed / FILE) as decisions:
        page = opened(open_run(reviewed), decisions)
        decide(page, action="reject", ids=[0, 1])
    with Decisions(reviewed / FILE) as decisions:
        page = opened(open_run(reviewed), decisions)
        assert decide(page, action="undo").json()["undone"]["ids"] == [1]
        assert decide(page, action="undo").json()["undone"]["ids"] == [0]
        nothing = decide(page, action="undo").json()
        assert (nothing["undone"], nothing["items"], nothing["decided"]) == (None, [], 0)
    assert read_decisions(reviewed) == {}


def test_a_decision_about_an_image_that_is_not_shown_can_be_taken_back(reviewed: Path) -> None:
    with Decisions(reviewed / FILE) as decisions:
        decisions.decide(Decision("gone.png", "reject", None))
        answer = decide(opened(open_run(reviewed), decisions), action="undo").json()
    assert answer["undone"] == {"action": "reject", "label": None, "new": False, "ids": []}
    assert read_decisions(reviewed) == {}


def test_a_class_that_the_data_lacks_can_be_made(page: TestClient, reviewed: Path) -> None:
    answer = decide(page, action="relabel", ids=[0, 1], label="star", new=True).json()
    assert answer["classes"] == ["disc", "square", "triangle", "star"]
    decide(page, action="relabel", ids=[2], label="disc", new=True)
    made = sorted((d.label, d.new) for d in read_decisions(reviewed).values())
    assert made == [("disc", False), ("star", True), ("star", True)]
    decide(page, action="undo")
    assert decide(page, action="undo").json()["undone"]["new"] is True


@pytest.mark.parametrize(
    "body",
    [
        {"action": "accept"},
        {"action": "accept", "ids": []},
        {"action": "accept", "ids": 0},
        {"action": "accept", "ids": [-1]},
        {"action": "accept", "ids": [0, 42]},
        {"action": "accept", "ids": [True]},
        {"action": "accept", "ids": ["0"]},
        {"action": "accept", "ids": [0] * 1001},
        {"action": "relabel", "ids": [0], "label": "cat"},
        {"action": "relabel", "ids": [0], "label": ["disc"]},
        {"action": "love", "ids": [0]},
        {"ids": [0]},
        {"action": "reject", "ids": [0, 1], "before": [None]},
        {"action": "reject", "ids": [0], "before": None},
    ],
)
def test_decisions_that_are_none(page: TestClient, reviewed: Path, body: Any) -> None:
    sent = {"file": str((reviewed / FILE).resolve()), "before": [None] * 2, **body}
    if "before" not in body and isinstance(body.get("ids"), list):
        sent["before"] = [None] * len(body["ids"])
    answer = page.post("/api/decisions", json=sent, headers={"Origin": "http://127.0.0.1:4321"})
    assert answer.status_code == 400
    assert read_decisions(reviewed) == {}


def test_another_window_is_not_overruled_unseen(page: TestClient, reviewed: Path) -> None:
    (now,) = decide(page, action="relabel", ids=[1], label="disc").json()["items"]
    late = decide(page, action="reject", ids=[0, 1], before=[None, None])
    assert late.status_code == 409
    assert "another window decided meanwhile that" in late.json()["error"]
    assert "is disc" in late.json()["error"]
    assert list(labels(reviewed).values()) == ["disc"], "none of the two is decided"
    seen = now["decision"]
    late = decide(page, action="reject", ids=[0], before=[seen])
    assert "is undecided" in late.json()["error"]
    assert decide(page, action="reject", ids=[1], before=[seen]).status_code == 200


def test_what_is_sent_again_is_saved_once(page: TestClient, reviewed: Path) -> None:
    for _ in range(2):  # the first answer got lost
        answer = decide(page, action="relabel", ids=[0, 1], label="disc", before=[None, None])
        assert answer.status_code == 200
    assert len((reviewed / FILE).read_text().splitlines()) == 2
    assert decide(page, action="undo").json()["undone"]["ids"] == [0, 1]
    assert decide(page, action="undo").json()["undone"] is None


def test_a_page_of_another_review_decides_nothing(page: TestClient, reviewed: Path) -> None:
    for action in ("reject", "undo"):
        answer = decide(page, action=action, ids=[0], file="/elsewhere/decisions.jsonl")
        assert answer.status_code == 409
        assert "another review; reload" in answer.json()["error"]
    assert read_decisions(reviewed) == {}


def test_a_full_disk_keeps_what_was_saved_and_the_rest_can_be_sent_again(
    page: TestClient, reviewed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = iter(range(1))

    def full(descriptor: int) -> None:
        if next(room, None) is None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        answer = decide(page, action="reject", ids=[0, 1, 2], before=[None] * 3)
    assert answer.status_code == 500
    assert "could not be saved" in answer.json()["error"]
    assert len(read_decisions(reviewed)) == 1
    assert decide(page, action="reject", ids=[0, 1, 2], before=[None] * 3).status_code == 200
    assert len(read_decisions(reviewed)) == 3


def test_a_thousand_images_are_one_request(page: TestClient, reviewed: Path) -> None:
    seen = {"action": "relabel", "label": "disc" * 25}  # the longest name of a class
    known = {"action": "reject", "ids": [0] * 1000, "before": [seen] * 1000}
    assert decide(page, **known).status_code == 409, "not 413: it was read"
