from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from answering import write_model

from tutelage.data.decode import UnreadableImage
from tutelage.deploy import answers
from tutelage.deploy.runtime import OnnxModel
from tutelage.system.errors import TutelageError


def test_images_are_worked_on_side_by_side_and_come_back_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "cores", lambda: 2)
    monkeypatch.setattr(answers, "IN_FLIGHT", 4)
    both = threading.Barrier(2, timeout=20)
    turn = threading.Event()

    def work(item: int) -> int:
        if item < 2:
            both.wait()  # passes only when two threads are here
            if item == 0:
                assert turn.wait(20)  # the second is done before the first
            turn.set()
        return 10 * item

    assert list(answers.each_image(work, range(9))) == [10 * item for item in range(9)]


def test_what_cannot_be_read_is_in_its_place_and_other_errors_are_raised() -> None:
    def work(item: str) -> str:
        if item == "torn":
            raise UnreadableImage("the file is damaged")
        if item == "gone":
            raise FileNotFoundError(item)
        if item == "bug":
            raise KeyError(item)
        return item

    found = list(answers.each_image(work, ["a", "torn", "b", "gone"]))
    assert found[::2] == ["a", "b"]
    assert [str(error) for error in found[1::2]] == ["the file is damaged", "gone"]
    with pytest.raises(KeyError):
        list(answers.each_image(work, ["a", "bug"]))
    assert list(answers.each_image(work, [])) == []


def test_a_threshold_decides_for_its_class_or_for_the_likeliest_other() -> None:
    probs = np.array([[0.3, 0.6, 0.1], [0.29, 0.11, 0.6], [0.8, 0.1, 0.1], [0.5, 0.2, 0.3]])
    classes = ["a", "b", "c"]
    assert answers.decide(probs, classes, None).tolist() == [1, 2, 0, 0]
    assert answers.decide(probs, classes, ("a", 0.3)).tolist() == [0, 2, 0, 0]
    assert answers.decide(probs, classes, ("a", 0.7)).tolist() == [1, 2, 0, 2]
    assert answers.decide(probs.astype(np.float32), classes, ("a", 0.3)).tolist() == [0, 2, 0, 0]


def test_a_threshold_is_read_from_its_text() -> None:
    assert answers.read_threshold("a=0.3", ["a", "b"]) == ("a", 0.3)
    assert answers.read_threshold("x=y=1", ["x=y", "b"]) == ("x=y", 1.0)
    many = [f"c{k}" for k in range(30)]
    for text, classes, message in (
        ("rust=0.3", ["a", "b"], r"expected CLASS=P, such as a=0\.3, .* classes: a, b$"),
        ("0.3", many, r"classes: c0, c1, .*, c19, \.\.\.$"),
        ("a=1.5", ["a", "b"], r"'1\.5' is no probability; expected a number from 0 to 1"),
        ("a=nan", ["a", "b"], "'nan' is no probability"),
        ("a=", ["a", "b"], "'' is no probability"),
    ):
        with pytest.raises(TutelageError, match=message):
            answers.read_threshold(text, classes)


def test_the_models_own_threshold_counts_unless_another_is_given(tmp_path: Path) -> None:
    opened = OnnxModel(write_model(tmp_path / "m.onnx"))
    picture = np.full((4, 4, 3), (90, 150, 0), dtype=np.uint8)  # "r" 0.35, "g" 0.59

    def said(threshold: tuple[str, float] | None = None) -> tuple[str, float]:
        (row,) = answers.answer(opened, ["x"], [picture], reject=False, threshold=threshold)
        return row.label, round(row.confidence, 2)

    assert said() == ("g", 0.59)
    opened.decision_threshold = ("r", 0.3)
    assert said() == ("r", 0.35)
    assert said(("r", 0.5)) == ("g", 0.59)


def test_a_summary_counts_images_and_classes() -> None:
    def rows(*labels: str) -> list[answers.Prediction]:
        return [answers.Prediction("a.png", label, 1.0, {}) for label in labels]

    assert answers.summary(rows("ant"), 0) == "1 image: ant (1)"
    assert answers.summary(rows("3", "0", "3"), 2) == "5 images, 2 of them skipped: 3 (2), 0 (1)"
    many = rows(*"aabcdefghijkl", *["bee"] * 1000)
    told = answers.summary(many, 0)
    assert told.startswith("1,013 images: bee (1,000), a (2), b (1), ")
    assert told.endswith(", i (1), 3 other classes (3)")


def test_one_image_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ThreadPoolExecutor", lambda *_: pytest.fail("a pool"))
    assert list(answers.each_image(lambda item: item + 1, [3])) == [4]
