"""What decisions a page can make, alone and beside another one, and take back."""

from pathlib import Path
from typing import Any

import pytest
from reviewing import OWN, decide, items_of, opened
from starlette.testclient import TestClient

from tutelage.data.decisions import FILE, Decision, Decisions, read_decisions
from tutelage.review.items import open_run, open_suggested


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
    answer = decide(page, action="relabel", ids=[0, 1, 2], label="disc").json()
    assert [item["id"] for item in answer["items"]] == [0, 1, 2]
    assert (answer["decided"], answer["labelled"]) == (3, 3)
    answer = decide(page, action="undo").json()
    made = {"action": "relabel", "label": "disc", "new": False}
    assert answer["undone"] == {**made, "ids": [0, 1, 2]}
    before = {"action": "reject", "label": None}  # holds again
    assert [item["decision"] for item in answer["items"]] == [before, None, None]
    assert list(labels(reviewed).values()) == [None]


def test_each_of_several_keeps_its_own_label(page: TestClient, reviewed: Path) -> None:
    items = items_of(page, "unsure")
    decide(page, action="accept", ids=[item["id"] for item in items])
    assert len({item["label"] for item in items}) > 1
    assert labels(reviewed) == {item["image"]: item["label"] for item in items}


def test_undo_goes_on_with_what_an_earlier_start_decided(reviewed: Path) -> None:
    with Decisions(reviewed / FILE) as decisions:
        decisions.decide(Decision("gone.png", "reject", None))  # an image that is not shown
        decide(opened(open_run(reviewed), decisions), action="reject", ids=[0, 1])
    with Decisions(reviewed / FILE) as decisions:
        page = opened(open_run(reviewed), decisions)
        undone = [decide(page, action="undo").json()["undone"] for _ in range(3)]
        assert [step["ids"] for step in undone] == [[1], [0], []]
        assert undone[2] == {"action": "reject", "label": None, "new": False, "ids": []}
        nothing = decide(page, action="undo").json()
        assert (nothing["undone"], nothing["items"], nothing["decided"]) == (None, [], 0)
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
    [{"action": "accept"}, {"action": "accept", "ids": []}, {"action": "accept", "ids": 0},
     {"action": "accept", "ids": [-1]}, {"action": "accept", "ids": [0, 42]},
     {"action": "accept", "ids": [True]}, {"action": "accept", "ids": ["0"]},
     {"action": "accept", "ids": [0] * 1001}, {"action": "relabel", "ids": [0], "label": "cat"},
     {"action": "relabel", "ids": [0], "label": ["disc"]}, {"action": "love", "ids": [0]},
     {"ids": [0]}, {"action": "reject", "ids": [0, 1], "before": [None]},
     {"action": "reject", "ids": [0], "before": None}],
)  # fmt: skip
def test_decisions_that_are_none(page: TestClient, reviewed: Path, body: Any) -> None:
    sent = {"file": str((reviewed / FILE).resolve()), "before": [None] * 2, **body}
    if "before" not in body and isinstance(body.get("ids"), list):
        sent["before"] = [None] * len(body["ids"])
    answer = page.post("/api/decisions", json=sent, headers={"Origin": OWN})
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


def test_a_thousand_images_are_one_request(page: TestClient) -> None:
    seen = {"action": "relabel", "label": "disc" * 25}  # the longest name of a class
    known = {"action": "reject", "ids": [0] * 1000, "before": [seen] * 1000}
    assert decide(page, **known).status_code == 409, "not 413: it was read"


# --- images without any label


def test_labels_are_saved_as_classes_that_a_person_made(
    labelling: TestClient, suggested: Path
) -> None:
    refused = decide(labelling, action="accept", ids=[0])
    assert (refused.status_code, read_decisions(suggested)) == (400, {})
    assert "no label to accept" in refused.json()["error"]
    answer = decide(labelling, action="relabel", ids=[1], label="bee").json()
    assert answer["items"][0]["decision"] == {"action": "relabel", "label": "bee"}
    assert (answer["labelled"], answer["decided"]) == (1, 1)
    answer = decide(labelling, action="reject", ids=[0]).json()
    assert (answer["labelled"], answer["decided"]) == (1, 2)
    assert read_decisions(suggested) == {
        "01.jpg": Decision("01.jpg", "relabel", "bee", new=True),
        "03.jpg": Decision("03.jpg", "reject", None),
    }
    bees = items_of(labelling, "suggested", **{"class": "bee"})
    assert [item["image"] for item in bees] == ["01.jpg"]


def test_a_typed_class_keeps_its_key_until_the_end(labelling: TestClient, suggested: Path) -> None:
    slip = decide(labelling, action="relabel", ids=[0], label="wasp")
    assert slip.status_code == 400
    answer = decide(labelling, action="relabel", ids=[0], label="wasp", new=True).json()
    assert answer["classes"] == ["ant", "bee", "wasp"]
    decide(labelling, action="relabel", ids=[1], label="fly", new=True)
    decide(labelling, action="undo")
    assert decide(labelling, action="undo").json()["classes"] == ["ant", "bee", "wasp", "fly"]
    known = decide(labelling, action="relabel", ids=[2], label="wasp")
    assert known.status_code == 200


def test_typed_classes_are_known_again_after_a_restart(suggested: Path) -> None:
    with Decisions(suggested / FILE) as decisions:
        decisions.decide(Decision("03.jpg", "relabel", "wasp", new=True))
        decisions.decide(Decision("01.jpg", "relabel", "mistyped", new=True))
        decisions.undo()
        page = opened(open_suggested(suggested), decisions)
        assert page.get("/api/state").json()["classes"] == ["ant", "bee", "wasp"]


@pytest.mark.parametrize(
    ("label", "said"),
    [("Bee", "the classes 'Bee' and 'bee' differ only in case"), ("BEE ", "without spaces around"),
     ("", "1 to 100 characters"), ("b" * 101, "1 to 100 characters"),
     ("a\nb", "control character"), ("\ud800", "control character"),
     (3, "label must be one of the classes"), (None, "label must be one of the classes")],
)  # fmt: skip
def test_names_that_cannot_become_a_class_are_refused(
    labelling: TestClient, suggested: Path, label: Any, said: str
) -> None:
    answer = decide(labelling, action="relabel", ids=[0], label=label, new=True)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert read_decisions(suggested) == {}
