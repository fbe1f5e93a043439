"""What a MODEL stands for, and what is said where it stands for none."""

import json
import os
from pathlib import Path

import pytest
from answering import write_model

from tutelage.deploy.find import (
    FoundModel,
    exported_file,
    exported_files,
    find_model,
    open_folder,
    open_model,
    reference_file,
)
from tutelage.system.errors import MissingExtra, TutelageError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the exported models and the descriptions of its model folders."""
    folder = tmp_path / "run"
    for name in ("student", "teacher"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"request": {}}))
    write_model(folder / "student.onnx")
    write_model(folder / "teacher" / "model.onnx")
    return folder


def test_a_run_stands_for_its_student_or_else_its_teacher_and_a_file_for_itself(
    run: Path,
) -> None:
    for student, file in (("student", "student.onnx"), ("teacher", "teacher/model.onnx")):
        assert find_model(str(run)) == FoundModel(run, run / file, run / student)
        assert find_model(run / file) == FoundModel(run / file, run / file, None)
        (run / file).rename(run / "short")
        assert find_model(run / "short").exported == run / "short"


@pytest.mark.parametrize(
    ("given", "exported"), [("student", "student.onnx"), ("teacher", "teacher/model.onnx")]
)
def test_a_model_folder_is_known_with_its_exported_file(
    given: str, exported: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_model(run / given)
    assert (found.folder, found.exported) == (run / given, run / exported)
    assert open_model(found).path == run / exported  # no torch is needed
    monkeypatch.chdir(run / given)
    assert exported_file(".").samefile(run / exported)
    os.unlink(run / exported)
    assert find_model(run / given).exported is None


def test_without_an_exported_file_the_mend_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "teacher" / "model.onnx").unlink()
    teacher = run / "teacher"
    with pytest.raises(TutelageError, match=f"write one with tutelage export {teacher}$"):
        exported_file(teacher)

    def missing(module: str, extra: str) -> None:
        raise MissingExtra(f"this needs {module}; install [{extra}]")

    monkeypatch.setattr("tutelage.deploy.find.need", missing)
    with pytest.raises(
        MissingExtra, match=r"teacher has no exported \.onnx file: this needs torch"
    ):
        open_folder(teacher)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent", "there is no model .*absent: expected a run folder"),
        ("emty", r"there is no model .*; did you mean .*empty\?$"),
        ("photo.jpg", r"photo\.jpg is no model: expected a run folder"),
        ("model.json", "is part of a model folder; give the folder, "),
        ("empty", r"empty is a folder without a model \(in it: nothing\); expected a run folder"),
        ("photos", r"\(in it: a\\nb, c, d, e, f, \.\.\.\); expected a run folder"),
        ("begun", "the run .*begun is unfinished; repeat its command to continue it"),
        ("timm", "timm is an export for timm; give the model that it was made from"),
        ("torn", r"torn is a folder without a model \(in it: config\.json\); expected"),
    ],
)
def test_what_is_no_model_is_said_in_one_line(name: str, said: str, tmp_path: Path) -> None:
    for file in ("photo.jpg", "model.json"):
        (tmp_path / file).write_text("{}")
    for folder in ("empty", "photos", "begun", "timm", "torn"):
        (tmp_path / folder).mkdir()
    for file in ("a\nb", "c", "d", "e", "f", "g"):
        (tmp_path / "photos" / file).touch()
    for folder, content in (("begun", {"request": {}}), ("timm", {"architecture": "x"})):
        (tmp_path / folder / "config.json").write_text(json.dumps(content))
    (tmp_path / "torn" / "config.json").write_text("{")
    with pytest.raises(TutelageError, match=said) as error:
        find_model(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_run_stands_for_all_its_exported_models_where_several_may_be_meant(run: Path) -> None:
    student, teacher = run / "student.onnx", run / "teacher" / "model.onnx"
    assert exported_files([run, student]) == [teacher, student, student]
    int8 = write_model(run / "student" / "model.int8.onnx")
    assert exported_files([run]) == [teacher, student, int8]
    assert exported_files([run / "student"]) == [student, int8]
    assert exported_files([run / "teacher"]) == [teacher]
    student.unlink()
    assert exported_files([run])[0] == teacher
    with pytest.raises(TutelageError, match="there is no model"):
        exported_files([run / "none.onnx"])


def test_where_the_reference_of_watch_lies(tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    (run / "student").mkdir(parents=True)
    model.mkdir()
    inside = run / "student" / "reference.npz"
    student = run / "student.onnx"
    assert reference_file(FoundModel(run, student, run / "student")) == inside
    assert reference_file(FoundModel(student, student, None)) == inside
    copied = model / "student.onnx"
    assert reference_file(FoundModel(copied, copied, None)) == model / "reference.npz"
    own = model / "student.reference.npz"
    own.write_bytes(b"")
    assert reference_file(FoundModel(copied, copied, None)) == own
    whole = FoundModel(model, model / "model.onnx", model)
    assert reference_file(whole) == model / "reference.npz"
