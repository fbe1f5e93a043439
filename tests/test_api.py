"""The verbs as functions: one model in three forms gives one answer, and refusals name the mend."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm")

import huggingface as hf
from shapes import CLASSES, SETTINGS, contents, read_metrics, write_shapes

from tutelage import api
from tutelage.data.decode import decode
from tutelage.data.open import open_data
from tutelage.deploy.bench import Latency
from tutelage.deploy.graph import TorchModel
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.folder import load_model, save_model
from tutelage.review.items import open_run
from tutelage.system.errors import TutelageError
from tutelage.watch.reference import load_reference

pytestmark = pytest.mark.usefixtures("own_cache")
TRANSFER = {k: v for k, v in SETTINGS.items() if k not in ("student", "rounds")}


# --- predict


@pytest.mark.parametrize("file", ["student.onnx", "teacher/model.onnx"])
def test_an_exported_file_and_its_folder_give_the_same_answers(
    file: str, finished: Path, photos: Path, tmp_path: Path
) -> None:
    images = [photos / "test", photos / "unlabeled"]
    name = file.partition(".")[0].partition("/")[0]
    nothing_exported = shutil.ignore_patterns("*.onnx")
    alone = shutil.copytree(finished / name, tmp_path / "alone", ignore=nothing_exported)
    exported, none = api.predict(finished / file, images)
    folder, nor_here = api.predict(alone, images)
    assert none == nor_here == []
    assert len(exported) == 36
    assert [row.image for row in exported] == [row.image for row in folder]
    assert [row.label for row in exported] == [row.label for row in folder]
    assert len({row.label for row in exported}) > 1
    for a, b in zip(exported, folder, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-3)
        assert a.confidence == max(a.probabilities.values()) == a.probabilities[a.label]
        assert sum(a.probabilities.values()) == pytest.approx(1, abs=1e-5)
    if name == "student":
        assert api.predict(finished, images)[0] == exported


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_a_threshold_rejects_alike_in_file_and_folder(
    name: str, finished: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    shutil.copytree(finished / name, folder)
    model = load_model(folder)
    assert model.spec.unknown_threshold is not None
    paths = sorted((photos / "unlabeled").iterdir())
    energies = np.sort(TorchModel(model).answers([decode(p.read_bytes()) for p in paths])[1])
    half = len(paths) // 2
    middle = float(energies[half - 1 : half + 1].mean())
    model.spec = dataclasses.replace(
        model.spec, unknown_threshold=middle, classes=("unknown", "(unknown)", "square")
    )
    save_model(model, folder)
    for form in ("torch", "onnx"):
        if form == "onnx":
            api.export(folder)
        else:
            (folder / "model.onnx").unlink(missing_ok=True)
        rows, _ = api.predict(folder, paths, reject=True)
        assert sum(bool(row.rejected) for row in rows) == len(paths) - half
        assert all((row.label == "((unknown))") == row.rejected for row in rows)
        plain, _ = api.predict(folder, paths)
        assert {row.rejected for row in plain} == {None}
        assert [row.probabilities for row in plain] == [row.probabilities for row in rows]


def test_predictions_are_in_order_and_those_of_a_batch(finished: Path, photos: Path) -> None:
    paths = sorted((photos / "test" / "square").iterdir())[::-1]
    rows, _ = api.predict(finished, paths)
    assert [row.image for row in rows] == [str(path) for path in paths]
    batch = OnnxModel(finished / "student.onnx").probabilities(
        [decode(path.read_bytes()) for path in paths]
    )
    for row, probs in zip(rows, batch, strict=True):
        assert list(row.probabilities.values()) == pytest.approx(probs.tolist(), abs=1e-5)


def test_unreadable_images_come_back_with_a_reason(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    good = photos / "test" / "disc" / "disc0.png"
    rows, skipped = api.predict(finished, [tmp_path / "torn.jpg", good])
    assert [row.image for row in rows] == [str(good)]
    ((name, reason),) = skipped
    assert name == str(tmp_path / "torn.jpg")
    assert reason
    rows, skipped = api.predict(finished, [tmp_path / "torn.jpg"])
    assert rows == []
    assert len(skipped) == 1


def test_one_path_is_not_read_letter_by_letter(finished: Path, photos: Path) -> None:
    expected, _ = api.predict(finished, [photos / "test"])
    assert api.predict(finished, str(photos / "test")) == (expected, [])
    assert api.predict(str(finished), photos / "test") == (expected, [])
    assert len(api.predict(finished, f"{photos}/**/disc0.*")[0]) == 2


def test_missing_images_and_models_are_said(finished: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match=r"no such image or folder: .*nothing"):
        api.predict(finished, [tmp_path / "nothing.png"])
    with pytest.raises(TutelageError, match="no images in"):
        api.predict(finished, [tmp_path])
    with pytest.raises(TutelageError, match=r"absent\.onnx"):
        api.predict(tmp_path / "absent.onnx", [photos])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"request": {}}')
    with pytest.raises(TutelageError, match="is unfinished; repeat its command to continue it"):
        api.predict(tmp_path / "run", [photos])


# --- evaluate


@pytest.mark.parametrize("form", ["", "student.onnx", "student", "stages/student"])
def test_evaluate_agrees_with_metrics_json(form: str, finished: Path, photos: Path) -> None:
    expected = read_metrics(finished)["final"]["test"]
    figures = api.evaluate(finished / form, photos)
    assert set(figures) == {"split", "threshold", "skipped", "reasons", "notes", *expected}
    assert figures["threshold"] is None
    assert (figures["split"], figures["n"], figures["skipped"]) == ("test", 18, 0)
    assert abs(figures["accuracy"] - expected["accuracy"]) * 18 < 1 + 1e-9
    assert figures["nll"] == pytest.approx(expected["nll"], abs=0.05)


def test_evaluate_counts_by_class_name(finished: Path, photos: Path, tmp_path: Path) -> None:
    rows, _ = api.predict(finished, [photos / "train"])
    right = [row.label == Path(row.image).parent.name for row in rows]
    figures = api.evaluate(finished, photos, split="train")
    assert figures["n"] == 24
    assert figures["accuracy"] == pytest.approx(np.mean(right))
    # A data set of fewer classes numbers them otherwise.
    shutil.copytree(photos / "test" / "triangle", tmp_path / "few" / "test" / "triangle")
    rows, _ = api.predict(finished, [photos / "test" / "triangle"])
    share = np.mean([row.label == "triangle" for row in rows])
    assert api.evaluate(finished, tmp_path / "few")["accuracy"] == pytest.approx(share)


def test_evaluate_takes_the_columns_and_the_root_of_a_table(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    images = sorted((photos / "test").rglob("*.png"))
    rows = [f"{image.relative_to(photos / 'test')},{image.parent.name},x,test" for image in images]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["where,shape,label,split", *rows]))
    columns = {"image_column": "where", "label_column": "shape"}
    figures = api.evaluate(finished, table, image_root=photos / "test", **columns)
    assert figures["accuracy"] == api.evaluate(finished, photos)["accuracy"]


def test_evaluate_judges_all_labelled_images_where_nothing_says_a_split(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    expected = api.evaluate(finished, photos)
    images = sorted((photos / "test").rglob("*.*"))
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["image,label", *(f"{im},{im.parent.name}" for im in images)]))
    for data in (photos / "test", table):
        figures = api.evaluate(finished, data)
        assert (figures["split"], figures["n"]) == ("labelled", 18)
        assert figures["accuracy"] == expected["accuracy"]
        (note,) = figures["notes"]
        assert note.startswith(
            f"{data} says no split, so all of its labelled images are judged; if"
        )


def test_evaluate_refuses_what_it_cannot_count(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(TutelageError, match=r"no labelled val images; .* of test, train$"):
        api.evaluate(finished, photos, split="val")
    shutil.copytree(photos / "train", tmp_path / "train")
    lacking = r"no labelled test images; .* of train; if the model did not .* add --split train$"
    with pytest.raises(TutelageError, match=lacking):
        api.evaluate(finished, tmp_path)
    with pytest.raises(TutelageError, match=r"no labelled test images, nor any other labelled"):
        api.evaluate(finished, photos / "unlabeled")
    shutil.copytree(photos / "test" / "disc", tmp_path / "more" / "test" / "wasp")
    with pytest.raises(TutelageError, match=r"does not know the classes wasp; it knows disc, sq"):
        api.evaluate(finished, tmp_path / "more")
    (tmp_path / "torn" / "test" / "disc").mkdir(parents=True)
    (tmp_path / "torn" / "test" / "disc" / "a.png").write_bytes(b"")
    with pytest.raises(TutelageError, match="none of the 1 'test' images"):
        api.evaluate(finished, tmp_path / "torn")


# --- export


def test_export_overwrites_no_file_and_knows_what_its_file_is_called(
    finished: Path, tmp_path: Path
) -> None:
    for name in ("m.onnx", "n.view.onnx", "answers.csv"):
        (tmp_path / name).write_text("mine")
    for out, words in (
        ("m.onnx", r"m\.onnx exists; choose another name"),
        ("n.onnx", r"n\.view\.onnx exists; choose another name"),
        ("answers.csv", r"must end in \.onnx"),
        ("model", r"must end in \.onnx"),
    ):
        with pytest.raises(TutelageError, match=words):
            api.export(finished, tmp_path / out, view=True)
    with pytest.raises(TutelageError, match=r"must end in \.pt2"):
        api.export(finished, tmp_path / "m.onnx", format="torch")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}


def test_export_to_torch_is_checked_too(finished: Path, tmp_path: Path) -> None:
    result = api.export(finished / "student", tmp_path / "small.pt2", format="torch")
    assert result["path"] == str(tmp_path / "small.pt2")
    assert result["n"] == 42
    assert result["mean_difference"] <= result["max_difference"] < 0.02
    for options, words in (
        ({"int8": True}, "--int8"),
        ({"portable": True}, "leave out .* or --portable"),
        ({"view": True}, "or --view"),
        ({"format": "tf"}, "one of onnx, torch"),
    ):
        with pytest.raises(TutelageError, match=words):
            api.export(finished / "student", tmp_path / "no.pt2", **{"format": "torch", **options})
    assert not (tmp_path / "no.pt2").exists()


def test_other_forms_lie_beside_the_exported_file_with_their_description(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    told = api.export(finished, tmp_path / "m.onnx", portable=True, view=True)
    json.dumps(told)  # for --json and programs
    written = {"m.onnx", "m.onnx.json", "m.portable.onnx", "m.view.onnx", "golden"}
    assert {path.name for path in tmp_path.iterdir()} == written
    assert told["portable"]["top1_agreement"] == told["view"]["top1_agreement"] == 1
    assert told["golden"] == str(tmp_path / "golden")
    assert told["description"] == str(tmp_path / "m.onnx.json")
    described = json.loads((tmp_path / "m.onnx.json").read_text())
    files = {"onnx": "m.onnx", "portable": "m.portable.onnx", "view": "m.view.onnx"}
    assert described.pop("files") == files
    of_run = json.loads((finished / "student.onnx.json").read_text())
    assert of_run.pop("files") == {"onnx": "student.onnx", "portable": None, "view": None}
    assert of_run == described
    rows, _ = api.predict(tmp_path / "m.portable.onnx", [photos / "test"])
    expected, _ = api.predict(finished, [photos / "test"])
    assert [row.label for row in rows] == [row.label for row in expected]
    with pytest.raises(TutelageError, match=r"golden is that of m\.onnx; export n\.onnx into"):
        api.export(finished, tmp_path / "n.onnx", view=True)
    assert not (tmp_path / "n.onnx").exists()


def test_int8_is_calibrated_on_the_images_of_the_run(
    finished: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster = [Latency(9.0, 2.0, 1), Latency(9.0, 1.0, 1)]
    monkeypatch.setattr("tutelage.deploy.quantize.latencies", lambda *_, **__: faster)
    told = api.export(finished / "student", tmp_path / "m.onnx", int8=True, max_loss=1.0)
    json.dumps(told)  # for --json and programs
    int8 = told["int8"]
    assert (int8["kept"], int8["path"]) == ("int8", str(tmp_path / "m.int8.onnx"))
    rounded = OnnxModel(tmp_path / "m.int8.onnx")
    described = json.loads(Path(int8["description"]).read_text())
    assert described["files"] == {"onnx": "m.int8.onnx", "portable": None, "view": None}
    assert described["temperature"] == rounded.temperature
    assert described["unknown_threshold"] == rounded.unknown_threshold
    of_float = json.loads((tmp_path / "m.onnx.json").read_text())
    assert described["unknown_threshold"] != of_float["unknown_threshold"]
    assert described["classes"] == of_float["classes"]
    assert len(load_reference(Path(int8["reference"]), rounded).seen) == 18
    alone = tmp_path / "alone"
    shutil.copytree(finished / "student", alone)
    with pytest.raises(TutelageError, match="lies in no run folder; give some with --images"):
        api.export(alone, tmp_path / "n.onnx", int8=True)
    assert not (tmp_path / "n.onnx").exists()
    again = api.export(alone, tmp_path / "n.onnx", int8=True, images=photos, max_loss=-1.0)
    assert again["int8"]["kept"] == "fp32"
    assert again["int8"]["top1_agreement"] == int8["top1_agreement"]


def test_export_of_a_run_is_that_of_its_student(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    assert api.export(run)["path"] == str(run / "student" / "model.onnx")
    result = api.export(run, tmp_path / "a.onnx")
    assert result["n"] == 42  # the training images of the run that it lies in
    assert result["top1_agreement"] == 1
    assert result["max_difference"] < 1e-3
    own = {"path": str(tmp_path / "a.onnx"), "description": str(tmp_path / "a.onnx.json")}
    assert result == {**api.export(run / "student", tmp_path / "b.onnx"), **own}


def test_export_of_no_model_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match="is a folder without a model"):
        api.export(tmp_path, tmp_path / "x.onnx")
    with pytest.raises(TutelageError, match=r"student\.onnx is exported already; .* give its fold"):
        api.export(finished / "student.onnx", tmp_path / "x.onnx")
    assert contents(tmp_path) == {}


# --- training verbs


@pytest.mark.parametrize("verb", [api.run, api.transfer, api.self_train, api.distill])
def test_unknown_and_impossible_settings_are_named_at_once(
    verb: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(TutelageError) as error:
        verb(photos, tmp_path / "run", sed=1, drop_rate=2.0, mix="paint", limit="many", canvas=1)
    for part in (
        "has no setting 'sed'; did you mean 'seed'?",
        "--drop-rate is 2, expected 0 to 0.9",
        "--mix is 'paint', expected one of none, cutmix, mixup",
        "--limit is 'many', expected a whole number",
        "--canvas is 1, expected 16 to 1024",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_data_set_in_memory_is_the_run_of_its_folder(photos: Path, tmp_path: Path) -> None:
    paths = sorted((photos / "train").rglob("*.*")), sorted((photos / "test").rglob("*.*"))
    tables = {
        split: hf.table(
            [path.read_bytes() for path in found],
            [CLASSES.index(path.parent.name) for path in found],
            names=CLASSES,
        )
        for split, found in zip(("train", "test"), paths, strict=True)
    }
    given = {split: hf.dataset(rows) for split, rows in tables.items()}
    disk = hf.save_to_disk(tables, tmp_path / "disk")
    settings = {**TRANSFER, "labels_per_class": 4}
    run = tmp_path / "memory"
    metrics = api.transfer(given, run, quiet=True, **settings)
    api.transfer(disk, tmp_path / "run", quiet=True, **settings)
    assert read_metrics(run) == read_metrics(tmp_path / "run")
    figures = api.evaluate(run / "teacher", given)
    assert figures["accuracy"] == metrics["final"]["test"]["accuracy"]
    assert figures == api.evaluate(run / "teacher", given["test"])  # a single one is what is asked
    card = (run / "MODEL_CARD.md").read_text()
    assert f"tutelage.transfer(DATA, '{run}', teacher='test_efficientnet'" in card
    assert api.transfer(given, run, quiet=True, **settings) == metrics  # continued
    with pytest.raises(TutelageError, match="holds another run: its data is '42 images in memory"):
        api.transfer(given["train"], run, quiet=True, **settings)
    with pytest.raises(TutelageError, match="cannot be opened from here; give the same data"):
        open_run(run)
    items = open_run(run, *open_data(given))
    assert items.picture(0, 16)
    begins = (
        f"tutelage.transfer(DATA, decisions='{run}', minutes='30')  # DATA: 42 images in memory"
    )
    assert items.next_run.startswith(begins)
    with pytest.raises(TutelageError, match=r"but 24 images in memory, .* were given"):
        open_run(run, *open_data(given["train"]))
    assert api.export(run / "teacher")["images"] == "generated"


@pytest.mark.parametrize(("place", "labels"), [(".", {"labels_per_class": 4}), ("unlabeled", {})])
def test_distill_learns_from_a_given_teacher_and_needs_no_label(
    place: str,
    labels: dict[str, int],
    finished: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tutelage.chain.plan.STEPS", (4,))
    run, teacher = tmp_path / "run", str(finished / "teacher")
    settings = {"canvas": 32, "student": "cut:2", "minutes": 0.7, **labels}
    metrics = api.distill(photos / place, run, quiet=True, teacher=teacher, **settings)
    assert [entry["name"] for entry in metrics["stages"]] == ["student"]
    assert metrics["teacher"] is None
    test = metrics["final"]["test"]
    assert (test and test["n"]) == (18 if labels else None)
    assert {"student.onnx", "report.html"} < {path.name for path in run.iterdir()}
    assert not (run / "teacher").exists()
    assert load_model(run / "student").spec.classes == load_model(teacher).spec.classes
    assert {row.label for row in api.predict(run, [photos / "test"])[0]} <= set(CLASSES)


def test_distill_refuses_what_is_no_teacher(finished: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TutelageError, match=r"'tf_efficientnet_lite2' is no model folder; give"):
        api.distill(photos, tmp_path / "run", quiet=True)
    data = write_shapes(tmp_path / "data", train=2, pool=0, test=0)
    (data / "train" / "disc").rename(data / "train" / "ring")
    with pytest.raises(
        TutelageError, match=r"classes ring, which .* it knows disc, square, triangle"
    ):
        api.distill(data, tmp_path / "run", quiet=True, teacher=str(finished / "teacher"))
    assert not (tmp_path / "run").exists()


def test_a_model_folder_can_be_the_trunk_of_the_next_run(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trunk = finished / "student"
    settings = {**TRANSFER, "weights": None, "teacher": trunk, "labels_per_class": 4}
    metrics = api.transfer(photos, run, quiet=True, **settings)
    assert metrics["final"] == metrics["teacher"]
    assert not (run / "student.onnx").exists()
    student = read_metrics(finished)["final"]
    assert metrics["teacher"]["parameters"] == student["parameters"]
    with pytest.raises(TutelageError, match="which has weights of its own; leave one of them out"):
        api.transfer(photos, tmp_path / "other", quiet=True, **{**settings, "weights": "none"})


@pytest.mark.parametrize("classes", [(), ("disc",)])
def test_data_without_two_classes_leaves_nothing_and_nothing_is_said_to_start(
    classes: tuple[str, ...],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(api, "need_training", lambda: pytest.fail("torch would be imported"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos / "unlabeled", tmp_path / "data" / "unlabeled")
    for name in classes:
        shutil.copytree(photos / "train" / name, tmp_path / "data" / "train" / name)
    with pytest.raises(TutelageError, match="labelled training images of at least 2 classes"):
        api.run("data")
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_misspelt_decisions_are_refused_before_anything_heavy(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "need_training", lambda: pytest.fail("torch would be imported"))
    with pytest.raises(TutelageError, match="no decisions in chosn"):
        api.run(photos, tmp_path / "run", decisions="chosn")
