import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from predicted import predictions_in

from tutelage.data.open import read_catalog
from tutelage.deploy.answers import Prediction
from tutelage.deploy.tables import SUFFIXES, check_suffix, formula_cells, write_predictions
from tutelage.system.errors import TutelageError

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
    write_predictions(ROWS, path)
    assert read(path) == [plain(row) for row in ROWS]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rejections_are_a_column_where_they_were_asked_for(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rejected{suffix}"
    rows = [
        dataclasses.replace(ROWS[0], label="unknown", rejected=True),
        dataclasses.replace(ROWS[1], rejected=False),
    ]
    write_predictions(rows, path)
    found = read(path)
    answers = ["true", "false"] if suffix == ".csv" else [True, False]
    assert [row["rejected"] for row in found] == answers
    assert [row["label"] for row in found] == ["unknown", "ant"]
    names = ["image", "label", "confidence", "probabilities", "rejected"]
    assert set(found[0]) == set(names)
    if suffix != ".csv":
        assert list(found[0]) == names


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_predictions_are_an_empty_table(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"none{suffix}"
    write_predictions([], path)
    assert read(path) == []


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


def test_an_existing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("precious")
    with pytest.raises(TutelageError, match="exists; choose another name"):
        check_suffix(tmp_path / "p.csv")


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_cells_that_a_spreadsheet_would_run_are_counted_and_written_as_they_are(
    first: str, tmp_path: Path
) -> None:
    name = f"{first}cmd|' /C calc'!A0.jpg"
    rows = [
        Prediction(name, "-1", 1.0, {"-1": 1.0, "ant": 0.0}),
        Prediction("a=b.jpg", "ant", 1.0, {"-1": 0.0, "ant": 1.0}),
    ]
    assert formula_cells(rows) == 2
    write_predictions(rows, tmp_path / "p.csv")
    assert read(tmp_path / "p.csv")[0]["image"] == name
