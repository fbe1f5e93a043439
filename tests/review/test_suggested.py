"""What ``tutelage suggest`` chose, opened to be labelled on the page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reviewing import decide, items_of, opened
from starlette.testclient import TestClient

from tutelage.data.decisions import FILE, Decision, Decisions, read_decisions
from tutelage.review.items import Suggested, is_suggested, open_suggested, read_suggested
from tutelage.system.errors import TutelageError


@pytest.fixture
def page(suggested: Path) -> Iterator[TestClient]:
    with Decisions(suggested / FILE) as decisions:
        yield opened(open_suggested(suggested), decisions)


# --- the folder


def test_what_was_chosen_is_read_back(suggested: Path) -> None:
    assert is_suggested(suggested)
    chosen = read_suggested(suggested)
    assert chosen.images == ("03.jpg", "01.jpg", "08.png")
    assert chosen.classes == ("ant", "bee")
    assert chosen.to_rows()[1] == {"image": "01.jpg", "rank": 2, "why": "the second"}


def test_a_run_is_no_suggestion(reviewed: Path, tmp_path: Path) -> None:
    assert not is_suggested(reviewed)
    assert not is_suggested(tmp_path)
    assert read_suggested(tmp_path) == Suggested()


def test_the_images_keep_their_order_and_the_next_command_is_said(
    suggested: Path, photos: Path
) -> None:
    items = open_suggested(suggested)
    assert [items.name(i) for i in items.view("suggested", None, {})] == [
        "03.jpg",
        "01.jpg",
        "08.png",
    ]
    data = photos / "unlabeled"
    assert items.next_run == f"tutelage run {data} --decisions {suggested}"


def test_decisions_that_it_was_made_with_still_hold(suggested: Path) -> None:
    content = json.loads((suggested / "config.json").read_text())
    content["request"]["settings"] = {"data": {"decisions": "earlier"}, "table": {}}
    (suggested / "config.json").write_text(json.dumps(content))
    assert open_suggested(suggested).next_run.endswith(f"--decisions earlier,{suggested}")


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"suggested": [{"image": 1, "why": "x"}], "classes": []}',
     '{"suggested": [{"image": "a"}], "classes": []}', '{"suggested": []}'],
)  # fmt: skip
def test_damaged_files_are_named(suggested: Path, content: str) -> None:
    (suggested / "suggest.json").write_text(content)
    with pytest.raises(TutelageError, match=r"suggest\.json"):
        open_suggested(suggested)


def test_a_command_that_was_cut_off_and_images_that_are_gone(suggested: Path) -> None:
    content = json.loads((suggested / "suggest.json").read_text())
    content["suggested"][0]["image"] = "gone.jpg"
    (suggested / "suggest.json").write_text(json.dumps(content))
    with pytest.raises(
        TutelageError, match=r"1 image of .* is no longer in .* \(first: gone\.jpg\)"
    ):
        open_suggested(suggested)
    (suggested / "suggest.json").unlink()
    with pytest.raises(TutelageError, match="was cut off; repeat its command"):
        open_suggested(suggested)


# --- the page


def test_what_there_is_to_label(page: TestClient) -> None:
    state = page.get("/api/state").json()
    assert state["labelling"] is True
    assert state["images"] == 3
    assert (state["labelled"], state["decided"]) == (0, 0)
    assert state["classes"] == ["ant", "bee"]
    assert [(view["name"], view["count"]) for view in state["views"]] == [
        ("suggested", 3),
        ("decided", 0),
    ]
    (first, *_) = items_of(page, "suggested")
    assert (first["image"], first["why"]) == ("03.jpg", "the first")
    assert first["label"] is first["given"] is first["confidence"] is first["decision"] is None
    assert page.get("/images/0/small").headers["content-type"] == "image/jpeg"
    assert page.get("/api/view", params={"view": "sure"}).status_code == 400


def test_labels_are_saved_as_classes_that_a_person_made(page: TestClient, suggested: Path) -> None:
    answer = decide(page, action="relabel", ids=[1], label="bee").json()
    assert answer["items"][0]["decision"] == {"action": "relabel", "label": "bee"}
    assert (answer["labelled"], answer["decided"]) == (1, 1)
    decide(page, action="reject", ids=[0])
    state = page.get("/api/state").json()
    assert (state["labelled"], state["decided"]) == (1, 2)
    assert read_decisions(suggested) == {
        "01.jpg": Decision("01.jpg", "relabel", "bee", new=True),
        "03.jpg": Decision("03.jpg", "reject", None),
    }
    bees = items_of(page, "suggested", **{"class": "bee"})
    assert [item["image"] for item in bees] == ["01.jpg"]


def test_there_is_no_label_to_accept(page: TestClient, suggested: Path) -> None:
    answer = decide(page, action="accept", ids=[0])
    assert answer.status_code == 400
    assert "no label to accept" in answer.json()["error"]
    assert read_decisions(suggested) == {}


def test_a_typed_class_keeps_its_key_until_the_end(page: TestClient, suggested: Path) -> None:
    assert decide(page, action="relabel", ids=[0], label="wasp").status_code == 400, "a slip"
    answer = decide(page, action="relabel", ids=[0], label="wasp", new=True).json()
    assert answer["classes"] == ["ant", "bee", "wasp"]
    decide(page, action="relabel", ids=[1], label="fly", new=True)
    decide(page, action="undo")
    assert decide(page, action="undo").json()["classes"] == ["ant", "bee", "wasp", "fly"]
    assert decide(page, action="relabel", ids=[2], label="wasp").status_code == 200, (
        "it is known now"
    )


def test_typed_classes_are_known_again_after_a_restart(suggested: Path) -> None:
    with Decisions(suggested / FILE) as decisions:
        decisions.decide(Decision("03.jpg", "relabel", "wasp", new=True))
        decisions.decide(Decision("01.jpg", "relabel", "mistyped", new=True))
        decisions.undo()
        page = opened(open_suggested(suggested), decisions)
        assert page.get("/api/state").json()["classes"] == ["ant", "bee", "wasp"]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("Bee", "the classes 'Bee' and 'bee' differ only in case"),
        ("BEE ", "without spaces around"),
        ("", "1 to 100 characters"),
        ("b" * 101, "1 to 100 characters"),
        ("a\nb", "control character"),
        ("\ud800", "control character"),
        (3, "label must be one of the classes"),
        (None, "label must be one of the classes"),
    ],
)
def test_names_that_cannot_become_a_class_are_refused(
    page: TestClient, suggested: Path, label: Any, said: str
) -> None:
    answer = decide(page, action="relabel", ids=[0], label=label, new=True)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
    assert read_decisions(suggested) == {}
