from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from answering import write_model
from PIL import Image
from predicted import predictions_in

from tutelage.data.decode import UnreadableImage
from tutelage.data.open import read_catalog
from tutelage.deploy import answers
from tutelage.deploy.answers import (
    SUFFIXES,
    Prediction,
    check_suffix,
    formula_cells,
    write_predictions,
)
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
    with pytest.MonkeyPatch.context() as patch:  # one image starts no thread
        patch.setattr(answers, "ThreadPoolExecutor", lambda *_: pytest.fail("a pool"))
        assert list(answers.each_image(work, ["a"])) == ["a"]
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
    expected = "expected CLASS=P, such as a=0.3, with a probability from 0 to 1 .*classes: a, b$"
    for text in ("rust=0.3", "a=1.5", "a=nan", "a="):
        with pytest.raises(TutelageError, match=f"--threshold {text}: {expected}"):
            answers.read_threshold(text, ["a", "b"])
    with pytest.raises(TutelageError, match=r"classes: c0, c1, .*, c19, \.\.\.$"):
        answers.read_threshold("0.3", [f"c{k}" for k in range(30)])


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


ROWS = [
    Prediction('a,b "c".png', "bee", 0.75, {"ant": 0.25, "bee": 0.75}),
    Prediction("größe.png", "ant", 1.0, {"ant": 1.0, "bee": 0.0}),
]


def plain(row: Prediction) -> dict:
    """The columns of a prediction that nobody asked rejections of."""
    return {name: value for name, value in vars(row).items() if name != "rejected"}


def read(path: Path) -> list[dict]:
    if path.suffix == ".csv":
        return predictions_in(path)
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(path).to_pylist()
    return [{**row, "probabilities": dict(row["probabilities"])} for row in rows]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"predictions{suffix}"
    check_suffix(path)
    for rows in ([], ROWS):
        write_predictions(rows, path)
        assert read(path) == [plain(row) for row in rows]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(TutelageError, match="exists; choose another name"):
        check_suffix(path)

    asked = [
        dataclasses.replace(ROWS[0], label="unknown", rejected=True),
        dataclasses.replace(ROWS[1], rejected=False),
    ]
    write_predictions(asked, path)
    found = read(path)
    said = ["true", "false"] if suffix == ".csv" else [True, False]
    assert [(row["label"], row["rejected"]) for row in found] == list(
        zip(("unknown", "ant"), said, strict=True)
    )
    names = ["image", "label", "confidence", "probabilities", "rejected"]
    assert set(found[0]) == set(names)
    if suffix != ".csv":
        assert list(found[0]) == names


def test_csv_has_a_mark_a_column_for_each_class_and_unix_lines(tmp_path: Path) -> None:
    write_predictions(ROWS, tmp_path / "p.csv")
    lines = (tmp_path / "p.csv").read_bytes().split(b"\n")
    assert lines[0] == b"\xef\xbb\xbfimage,label,confidence,p_ant,p_bee"
    assert lines[2] == "größe.png,ant,1,1,0".encode()
    assert b"\r" not in b"".join(lines)


def test_a_csv_has_six_digits_and_the_others_all(tmp_path: Path) -> None:
    share = float(np.float32(1 / 3))
    rows = [Prediction("a.png", "ant", share, {"ant": share, "bee": 2.5e-9})]
    for suffix in SUFFIXES:
        write_predictions(rows, tmp_path / f"p{suffix}")
    assert (tmp_path / "p.csv").read_text().splitlines()[1] == "a.png,ant,0.333333,0.333333,2.5e-09"
    assert read(tmp_path / "p.jsonl") == read(tmp_path / "p.parquet") == [plain(rows[0])]


def test_a_csv_of_predictions_is_a_manifest(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "größe.png")
    write_predictions(ROWS[1:], tmp_path / "p.csv")
    catalog = read_catalog(tmp_path / "p.csv")
    assert (catalog.names, catalog.classes) == (("größe.png",), ("ant",))


@pytest.mark.parametrize("name", ["p.txt", "p", "p.json"])
def test_an_unknown_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match=r"must be one of \.csv, \.jsonl, \.parquet"):
        check_suffix(tmp_path / name)


def test_cells_that_a_spreadsheet_would_run_are_counted_and_written_as_they_are(
    tmp_path: Path,
) -> None:
    shares = {"-1": 1.0, "ant": 0.0}
    rows = [Prediction("a=b.jpg", "ant", 1.0, shares)]
    for first in ("=", "+", "-", "@", "\t", "\r"):
        rows.append(Prediction(f"{first}cmd|' /C calc'!A0.jpg", "-1", 1.0, shares))
        assert formula_cells(rows) == 2 * len(rows) - 2
    write_predictions(rows, tmp_path / "p.csv")
    assert [row["image"] for row in read(tmp_path / "p.csv")] == [row.image for row in rows]
