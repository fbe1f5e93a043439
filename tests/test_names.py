"""Korean folder, class and file names work from end to end."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("timm")

import silent_checks as checks
from shapes import CLASSES, SETTINGS

from tutelage import api, cli
from tutelage.deploy.runtime import OnnxModel

KOREAN = dict(zip(CLASSES, ("원", "네모", "세모 모양"), strict=True))


@pytest.fixture(scope="module")
def place(photos: Path, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Korean names, a run on it, and a table of its training images."""
    folder = tmp_path_factory.mktemp("한글 폴더")
    for path in sorted(photos.rglob("*.*")):
        words = [KOREAN.get(part, part) for part in path.relative_to(photos).parent.parts]
        target = folder.joinpath("사진", *words, f"사진 {path.stem}번{path.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    with open(folder / "표.csv", "w", encoding="utf-8-sig", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "label"])
        for path in sorted(folder.glob("사진/train/*/*")):
            rows.writerow([path.relative_to(folder), path.parent.name])
    with checks.quick():
        api.run(folder / "사진", folder / "결과", labels_per_class=4, **SETTINGS)
    return folder


def test_a_run_names_the_classes_in_its_model_and_pages(place: Path) -> None:
    run = place / "결과"
    assert set(OnnxModel(run / "student.onnx").classes) == set(KOREAN.values())
    for name in ("report.html", "MODEL_CARD.md"):
        assert "세모 모양" in (run / name).read_text("utf-8")


def test_answers_are_written_with_their_names(place: Path) -> None:
    out = place / "답.csv"
    assert (
        cli.main(["predict", str(place / "결과"), str(place / "사진" / "test"), "--out", str(out)])
        == 0
    )
    with open(out, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert {row["label"] for row in rows} <= set(KOREAN.values())
    assert {f"p_{name}" for name in KOREAN.values()} <= set(rows[0])
    assert all("번." in row["image"] for row in rows)


def test_a_table_as_a_spreadsheet_saves_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(place / "결과"), str(place / "표.csv"), "--split", "train", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 24


def test_images_to_label_first_in_korean_classes(place: Path) -> None:
    chosen = api.suggest(place / "사진" / "unlabeled", place / "고름", budget=4)
    assert all("번." in row["image"] for row in chosen["suggested"])
