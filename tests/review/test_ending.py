"""What is said when a page is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tutelage import cli
from tutelage.data.decisions import FILE, PAGE, Decision, Decisions
from tutelage.review.items import after_labelling, after_review, open_run, open_suggested
from tutelage.system import web

ANT, BEE = Decision("03.jpg", "relabel", "ant", new=True), Decision("01.jpg", "accept", "bee")
USELESS = Decision("08.png", "reject", None)


def decisions_of(*decisions: Decision) -> dict[str, Decision]:
    return {decision.image: decision for decision in decisions}


def test_after_labelling_the_counts_and_the_next_commands_are_said(suggested: Path) -> None:
    items = open_suggested(suggested)
    label, train = f"label them: tutelage review {suggested}", f"then train: {items.next_run}"
    assert after_review(suggested, items, {}) == [label, train]
    assert after_review(suggested, items, decisions_of(ANT)) == [
        "1 of 3 labelled: ant 1",
        label,
        "note: training needs labels of at least 2 classes",
        train,
    ]
    all_of_them = decisions_of(ANT, BEE, USELESS)
    assert after_review(suggested, items, all_of_them) == ["2 of 3 labelled: ant 1, bee 1", train]


def test_classes_of_the_data_count_among_the_two_that_training_needs() -> None:
    said = after_labelling(decisions_of(ANT), 1, ["bee"], "review", "run")
    assert said == ["1 of 1 labelled: ant 1", "then train: run"]


def test_after_a_review_the_decisions_and_the_next_commands_are_said(reviewed: Path) -> None:
    items, page = open_run(reviewed), f"tutelage review {reviewed}"
    assert after_review(reviewed, items, {}) == [f"nothing is decided yet: {page}"]
    next_ones = [f"go on: {page}", f"then train: {items.next_run}"]
    assert after_review(reviewed, items, decisions_of(ANT)) == ["1 image decided", *next_ones]
    assert after_review(reviewed, items, decisions_of(ANT, USELESS)) == [
        "2 images decided, 1 of no use",
        *next_ones,
    ]


def test_a_page_that_is_open_already_is_named(
    suggested: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked_again(app: Any, listening: Any) -> None:
        listening.close()
        assert (suggested / PAGE).stat().st_mode & 0o077 == 0  # it holds the token
        assert cli.main(["review", str(suggested), "--no-browser"]) == 2

    monkeypatch.setattr(web, "run_app", asked_again)
    assert cli.main(["review", str(suggested), "--no-browser"]) == 0
    captured = capsys.readouterr()
    address = captured.out.splitlines()[0].removeprefix("review: ")
    assert f"the page of {suggested} is open already: {address}\n" in captured.err
    assert not (suggested / PAGE).exists()


def test_ctrl_c_ends_a_page_as_it_should_end(
    suggested: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Decisions(suggested / FILE) as decisions:
        decisions.decide(ANT)

    def until_interrupted(app: Any, listening: Any) -> None:
        listening.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(web, "run_app", until_interrupted)
    assert cli.main(["review", str(suggested), "--no-browser"]) == 0
    assert "1 of 3 labelled: ant 1\nlabel them: " in capsys.readouterr().out
