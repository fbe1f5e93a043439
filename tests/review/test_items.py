"""What a run, or a choice of images, leaves to review, and what is said when its page is left."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage import cli
from tutelage.data.decisions import FILE, PAGE, Decision, Decisions
from tutelage.review.items import (
    Suggested,
    after_labelling,
    after_review,
    is_suggested,
    next_run,
    open_run,
    open_suggested,
    read_suggested,
)
from tutelage.system import web
from tutelage.system.errors import TutelageError

ANT, BEE = Decision("03.jpg", "relabel", "ant", new=True), Decision("01.jpg", "accept", "bee")
USELESS = Decision("08.png", "reject", None)


def change(path: Path, changed: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    changed(content)
    path.write_text(json.dumps(content))


def decisions_of(*decisions: Decision) -> dict[str, Decision]:
    return {decision.image: decision for decision in decisions}


def test_a_run_has_its_images_but_those_of_test_and_the_next_command(
    reviewed: Path, photos: Path
) -> None:
    items = open_run(reviewed)
    assert items.next_run == f"tutelage run {photos} --decisions {reviewed} --minutes 30"
    assert len(items) == 42
    assert not [name for i in range(len(items)) if (name := items.name(i)).startswith("test/")]
    assert not is_suggested(reviewed)


def test_the_next_command_reads_the_data_as_this_one_did_with_earlier_decisions(
    reviewed: Path, suggested: Path, photos: Path
) -> None:
    def settings(content: Any) -> None:
        content["request"]["settings"]["table"]["image_root"] = "all photos"
        content["request"]["settings"]["data"]["decisions"] = "earlier"

    change(reviewed / "config.json", settings)
    read = f"tutelage run {photos} --image-root 'all photos' --decisions earlier,"
    assert next_run(reviewed) == f"{read}{reviewed} --minutes 30"
    change(suggested / "config.json", settings)
    assert next_run(suggested).endswith(f"--decisions earlier,{suggested}")


def test_what_was_chosen_is_read_back_in_its_order(
    suggested: Path, photos: Path, tmp_path: Path
) -> None:
    assert is_suggested(suggested)
    assert not is_suggested(tmp_path)
    assert read_suggested(tmp_path) == Suggested()
    chosen, items = read_suggested(suggested), open_suggested(suggested)
    assert chosen.images == ("03.jpg", "01.jpg", "08.png")
    assert chosen.classes == items.classes == ("ant", "bee")
    assert chosen.to_rows()[1] == {"image": "01.jpg", "rank": 2, "why": "the second"}
    assert [items.name(i) for i in items.view("suggested", None, {})] == [*chosen.images]
    assert items.next_run == f"tutelage run {photos / 'unlabeled'} --decisions {suggested}"


def test_folders_without_a_review(reviewed: Path, suggested: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="is no run folder"):
        open_run(tmp_path / "none")
    with pytest.raises(TutelageError, match=rf"; did you mean {reviewed}\?$"):
        open_run(reviewed.with_name(f"{reviewed.name}s"))
    for name in "1", "2":
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").touch()
    inside = f"give one of those in it: {tmp_path / 'runs/1'}, {tmp_path / 'runs/2'}"
    with pytest.raises(TutelageError, match=rf"is no run folder; {inside}$"):
        open_run(tmp_path / "runs")
    (reviewed / "review.json").unlink()
    with pytest.raises(TutelageError, match=r"has nothing to review: the run is unfinished"):
        open_run(reviewed)
    (suggested / "suggest.json").unlink()
    with pytest.raises(TutelageError, match="was cut off; repeat its command"):
        open_suggested(suggested)


def test_data_that_is_no_longer_there(reviewed: Path, photos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "data"
    shutil.copytree(photos, moved)
    gone = next((moved / "unlabeled").iterdir())
    gone.unlink()
    change(reviewed / "config.json", lambda content: content["request"].update(data=str(moved)))
    with pytest.raises(TutelageError, match=rf"1 image .* \(first: unlabeled/{gone.name}\)"):
        open_run(reviewed)


@pytest.mark.parametrize(
    ("name", "content"),
    [("review.json", "[]"), ("review.json", "{}"), ("review.json", "{"), ("review.parquet", "PAR1"),
     ("config.json", "[]"), ("config.json", '{"request": {}}')],
)  # fmt: skip
def test_damaged_files_of_a_run_are_named(reviewed: Path, name: str, content: str) -> None:
    (reviewed / name).write_text(content)
    with pytest.raises(TutelageError, match=name.partition(".")[0]):
        open_run(reviewed)


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"suggested": [{"image": 1, "why": "x"}], "classes": []}',
     '{"suggested": [{"image": "a"}], "classes": []}', '{"suggested": []}'],
)  # fmt: skip
def test_a_damaged_choice_is_named(suggested: Path, content: str) -> None:
    (suggested / "suggest.json").write_text(content)
    with pytest.raises(TutelageError, match=r"suggest\.json"):
        open_suggested(suggested)


def test_after_labelling_the_counts_and_the_next_commands_are_said(suggested: Path) -> None:
    items = open_suggested(suggested)
    label, train = f"label them: tutelage review {suggested}", f"then train: {items.next_run}"
    few = "note: training needs labels of at least 2 classes"
    for decided, said in (
        ((), [label, train]),
        ((ANT,), ["1 of 3 labelled: ant 1", label, few, train]),
        ((ANT, BEE, USELESS), ["2 of 3 labelled: ant 1, bee 1", train]),
    ):
        assert after_review(suggested, items, decisions_of(*decided)) == said
    said = after_labelling(decisions_of(ANT), 1, ["bee"], "review", "run")
    assert said == ["1 of 1 labelled: ant 1", "then train: run"], "the data has a second class"


def test_after_a_review_the_decisions_and_the_next_commands_are_said(reviewed: Path) -> None:
    items, page = open_run(reviewed), f"tutelage review {reviewed}"
    next_ones = [f"go on: {page}", f"then train: {items.next_run}"]
    for decided, said in (
        ((), [f"nothing is decided yet: {page}"]),
        ((ANT,), ["1 image decided", *next_ones]),
        ((ANT, USELESS), ["2 images decided, 1 of no use", *next_ones]),
    ):
        assert after_review(reviewed, items, decisions_of(*decided)) == said


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
