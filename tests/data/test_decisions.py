"""What a person decided: kept line by line, and labels for a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from catalogs import of_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data.catalog import Catalog
from tutelage.data.decisions import NOT_FOUND, Decision, Decisions, apply_decisions, read_decisions
from tutelage.data.split import make_split
from tutelage.system.errors import TutelageError
from tutelage.system.files import write_parquet


@pytest.fixture
def catalog() -> Catalog:
    """Four labelled and four unlabelled images, and two of test."""
    names = [*"abcdefgh", "t1", "t2"]
    labels = [0, 0, 1, 1, -1, -1, -1, -1, 0, 1]
    return of_arrays(names, labels, ["train"] * 8 + ["test"] * 2, ("ant", "bee"))


def decided(path: Path, *decisions: Decision) -> Path:
    with Decisions(path) as file:
        for decision in decisions:
            file.decide(decision)
    return path


def test_decisions_outlive_the_process_and_undo_is_a_line(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    first, second = Decision("a", "accept", "ant"), Decision("b", "reject", None)
    decided(path, first, second)
    with Decisions(path) as again:
        assert again.standing == {"a": first, "b": second}
        again.decide(Decision("a", "relabel", "bee"))
        assert read_decisions(path)["a"] == Decision("a", "relabel", "bee")
        assert again.undo() == Decision("a", "relabel", "bee")
        assert again.standing["a"] == first
        assert again.undo("a") == first
        assert again.undo("a") is None
    assert read_decisions(tmp_path) == read_decisions(path) == {"b": second}
    assert "new" not in path.read_text(), "only a class that was made is marked"
    times = [json.loads(line)["time"] for line in path.read_text().splitlines()]
    assert len(times) == 5
    assert times == sorted(times)


@settings(deadline=None)  # each decision waits for the disk
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ant", "bee", None, "undo"]))))
def test_what_is_read_back_is_what_held(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str | None]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "decisions.jsonl"
    with Decisions(path) as file:
        for image, label in steps:
            if label == "undo":
                file.undo(image)
            else:
                file.decide(Decision(image, "reject" if label is None else "relabel", label))
        held = file.standing
    assert read_decisions(path) == held


@pytest.mark.parametrize("torn", [True, False])
def test_a_torn_line_is_cut_off_and_one_without_a_line_break_stays(
    torn: bool, tmp_path: Path
) -> None:
    path = decided(
        tmp_path / "decisions.jsonl", Decision("a", "accept", "ant"), Decision("b", "reject", None)
    )
    ended = path.read_bytes()
    if torn:
        path.write_bytes(ended + b'{"time": 1, "image": "x", "act')
    else:
        path.write_bytes(ended.removesuffix(b"\n"))  # as a script joins lines
    assert list(read_decisions(path)) == ["a", "b"]
    with Decisions(path) as file:
        assert list(file.standing) == ["a", "b"]
        assert path.read_bytes() == ended
        file.decide(Decision("c", "accept", "bee"))
    assert list(read_decisions(path)) == ["a", "b", "c"]
    assert path.read_bytes().startswith(ended)


def test_a_last_line_that_is_no_decision_is_named_and_not_cut_off(tmp_path: Path) -> None:
    path = decided(tmp_path / "decisions.jsonl", Decision("a", "accept", "ant"))
    content = path.read_bytes() + b'{"image": "b", "action": "love", "label": null}'
    path.write_bytes(content)
    with pytest.raises(TutelageError, match=r"line 2 of .* is not a decision: .*love"):
        Decisions(path)
    assert path.read_bytes() == content


def test_one_review_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "decisions.jsonl"
    with Decisions(path), pytest.raises(TutelageError, match="another review has"):
        Decisions(path)
    Decisions(path).__exit__()


def test_a_full_disk_loses_nothing_that_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "decisions.jsonl"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Decisions(path) as file:
        file.decide(Decision("a", "accept", "ant"))
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            with pytest.raises(TutelageError, match=r"could not be saved .* No space left"):
                file.decide(Decision("b", "accept", "ant"))
        assert list(file.standing) == ["a"]
        file.decide(Decision("c", "accept", "ant"))
    assert list(read_decisions(path)) == ["a", "c"]


def test_decided_images_are_labelled_in_every_draw(catalog: Catalog, tmp_path: Path) -> None:
    path = decided(
        tmp_path / "decisions.jsonl",
        Decision("a", "relabel", "bee"),
        Decision("e", "accept", "ant"),
        Decision("f", "relabel", "bee"),
        Decision("g", "reject", None),
        Decision("t1", "reject", None),
        Decision("elsewhere", "accept", "ant"),
    )
    changed = apply_decisions(catalog, str(path))
    assert "g" not in changed.names
    assert "t1" in changed.names, "test images are not reviewed"
    assert changed.facts == (
        f"3 labels were given by a person (--decisions {path}), who left out 1 image as of no use",
    )
    assert changed.warnings == (
        f"2 decisions of {path} are about no training image of this data "
        f"(first: elsewhere; {NOT_FOUND})",
    )
    for seed in range(5):
        split = make_split(changed, np.ones(9, bool), labels_per_class=1, limit=None, seed=seed)
        labels = {changed.names[i]: int(split.labels[i]) for i in split.indices("labeled")}
        assert labels.items() >= {"a": 1, "e": 0, "f": 1}.items()
        assert {"b", "c", "d", "h"} - labels.keys(), "a draw keeps one label a class besides"


def moved_to(folder: str, *more: str, splits: str = "train") -> Catalog:
    """Images a to d in a folder, and ``more``, all unlabelled."""
    names = [*(f"{folder}/{name}" for name in "abcd"), *more]
    return of_arrays(names, [-1] * len(names), [splits] * len(names), ("ant", "bee"))


def labels_of(catalog: Catalog) -> dict[str, str]:
    pairs = zip(catalog.names, catalog.labels.tolist(), strict=True)
    return {name: catalog.classes[label] for name, label in pairs if label >= 0}


def test_decisions_are_found_again_where_the_images_were_moved(tmp_path: Path) -> None:
    path = decided(
        tmp_path / "decisions.jsonl",
        Decision("a", "relabel", "ant"),
        Decision("old/b", "relabel", "bee"),
        Decision("old/c", "reject", None),
        Decision("unlabeled/d", "relabel", "ant"),
    )
    changed = apply_decisions(moved_to("unlabeled", "e"), str(path))
    assert labels_of(changed) == {
        "unlabeled/a": "ant",
        "unlabeled/b": "bee",
        "unlabeled/d": "ant",
    }
    assert "unlabeled/c" not in changed.names
    assert changed.warnings == (
        f"3 decisions of {path} are about images that lie in another folder now; they were found "
        "by their file names (first: a is unlabeled/a)",
    )
    earlier = decided(tmp_path / "earlier.jsonl", Decision("x/b", "relabel", "ant"))
    changed = apply_decisions(moved_to("unlabeled"), f"{earlier},{path}")
    assert labels_of(changed)["unlabeled/b"] == "bee", "the later review counts"


def test_a_file_name_that_several_images_have_finds_none(tmp_path: Path) -> None:
    """Now, in the decisions, or among the images that were reviewed: none may be mistaken."""
    file = decided(tmp_path / "decisions.jsonl", Decision("old/a", "relabel", "ant"))
    lost = rf"first: old/a; {NOT_FOUND}"
    with pytest.raises(TutelageError, match=lost):
        apply_decisions(moved_to("new", "other/a"), str(tmp_path))
    for reviewed, found in ([["old/a", "z"], True], [["old/a", "second/a"], False]):
        columns = {"image": reviewed, "role": ["unlabeled"] * 2}
        write_parquet(tmp_path / "split.parquet", columns)
        if found:
            assert labels_of(apply_decisions(moved_to("new"), str(tmp_path))) == {"new/a": "ant"}
            continue
        with pytest.raises(TutelageError, match=lost):
            apply_decisions(moved_to("new"), str(tmp_path))
    decided(file, Decision("two/a", "relabel", "bee"))
    (tmp_path / "split.parquet").unlink()
    with pytest.raises(TutelageError, match=lost):
        apply_decisions(moved_to("new"), str(tmp_path))


def test_decisions_about_held_out_images_are_not_used(tmp_path: Path) -> None:
    path = decided(tmp_path / "decisions.jsonl", Decision("a", "relabel", "ant"))
    with pytest.raises(TutelageError, match=rf"about a training image .*\(first: a; {NOT_FOUND}"):
        apply_decisions(moved_to("test/ant", splits="test"), str(path))


def test_later_reviews_count_more(catalog: Catalog, tmp_path: Path) -> None:
    first = decided(tmp_path / "one.jsonl", Decision("e", "accept", "ant"))
    second = decided(tmp_path / "two.jsonl", Decision("e", "relabel", "bee"))
    changed = apply_decisions(catalog, f"{first},{second}")
    assert changed.labels[changed.names.index("e")] == 1
    assert apply_decisions(catalog, None) is catalog


@pytest.mark.parametrize(
    ("made", "given", "message"),
    [
        (None, "chosn", r"no decisions in .*; did you mean .*chosen\?$"),
        (None, "none", r"no decisions in .*none.*; tutelage suggest and tutelage review make"),
        (None, "", r"no decisions in .*; tutelage suggest and tutelage review make"),
        ([], "chosen", r"nothing is decided in .* yet; tutelage review"),
        ([("x", "ant")], "chosen", r"none of what is decided in .* is about a training image"),
        ([("a", "wasp")], "chosen", "calls a 'wasp', which is none of the classes ant, bee"),
    ],
)
def test_decisions_that_do_not_fit_are_refused(
    made: list[tuple[str, str]] | None,
    given: str,
    message: str,
    catalog: Catalog,
    tmp_path: Path,
) -> None:
    (tmp_path / "chosen").mkdir()
    decisions = [Decision(image, "relabel", label) for image, label in made or ()]
    decided(tmp_path / "chosen" / "decisions.jsonl", *decisions)
    with pytest.raises(TutelageError, match=message):
        apply_decisions(catalog, str(tmp_path / given))


def test_classes_that_a_person_made_become_classes(catalog: Catalog, tmp_path: Path) -> None:
    path = decided(
        tmp_path / "decisions.jsonl",
        Decision("a", "relabel", "Aphid", new=True),
        Decision("e", "relabel", "wasp", new=True),
        Decision("f", "relabel", "wasp", new=True),
        Decision("g", "relabel", "bee"),
    )
    assert read_decisions(path)["a"].new
    assert not read_decisions(path)["g"].new
    changed = apply_decisions(catalog, str(path))
    assert changed.classes == ("Aphid", "ant", "bee", "wasp"), "sorted, as those of folders are"
    labels = [changed.classes[k] if k >= 0 else None for k in changed.labels]
    assert labels[:8] == ["Aphid", "ant", "bee", "bee", "wasp", "wasp", "bee", None]
    assert changed.facts == (
        f"4 labels were given by a person (--decisions {path})",
        "classes that a person made, with their labels: Aphid (1), wasp (2)",
    )
    assert changed.warnings == (
        "a single label of Aphid: nothing can be held out to judge the class by; label more of it",
    )


def test_data_without_a_class_gets_those_of_the_decisions(tmp_path: Path) -> None:
    pool = of_arrays("abcd", [-1] * 4, ["train"] * 4, ())
    path = tmp_path / "decisions.jsonl"

    def split(catalog: Catalog) -> list[int]:
        drawn = make_split(catalog, np.ones(4, bool), labels_per_class=None, limit=None, seed=0)
        return drawn.labels.tolist()

    with pytest.raises(TutelageError, match=r"found: none\. .* tutelage suggest DATA --budget N"):
        split(pool)
    decided(path, Decision("a", "relabel", "10", new=True))
    with pytest.raises(TutelageError, match=r"found: 10\. Label images of another class, too"):
        split(apply_decisions(pool, str(path)))
    decided(path, *(Decision(name, "relabel", "9", new=True) for name in "bc"))
    changed = apply_decisions(pool, str(path))
    assert changed.classes == ("9", "10"), "by value, as those of folders are"
    assert changed.labels.tolist() == split(changed) == [1, 0, 0, -1]


@pytest.mark.parametrize(
    ("first", "second"), [("Bee", "wasp"), ("wasp", "Wasp"), ("wasp", " wasp")]
)
def test_made_classes_that_are_taken_for_others_are_refused(
    catalog: Catalog, tmp_path: Path, first: str, second: str
) -> None:
    made = Decision("e", "relabel", first, new=True), Decision("f", "relabel", second, new=True)
    path = decided(tmp_path / "decisions.jsonl", *made)
    with pytest.raises(TutelageError, match=r"decisions\.jsonl: .*(only in case|without spaces)"):
        apply_decisions(catalog, str(path))


@pytest.mark.parametrize("line", [b"[" * 100_000, b"\xff", b"3", b'{"image": 1}', b"null"])
def test_a_hostile_line_is_named(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "decisions.jsonl").write_bytes(line + b"\n")
    with pytest.raises(TutelageError, match=r"line 1 of .* is not a decision"):
        read_decisions(tmp_path)
