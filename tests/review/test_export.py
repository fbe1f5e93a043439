"""A run's images go to another tool and come back with the same names, labels and splits."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from catalogs import by_name, parquet
from PIL import Image

from tutelage import api
from tutelage.config import TableConfig
from tutelage.data.decisions import Decision, Decisions, apply_decisions
from tutelage.data.formats.label_studio import FILE, NAME
from tutelage.data.open import read_catalog
from tutelage.review.export import export
from tutelage.review.items import open_run
from tutelage.system.errors import TutelageError

ACCEPTED, MADE, REJECTED = "unlabeled/01.jpg", "unlabeled/03.jpg", "unlabeled/08.png"
NEW_CLASS = 'odd & <"x">'


@pytest.fixture
def decided(reviewed):
    """The run with a label, a new class and an image of no use that a person decided."""
    with Decisions(reviewed / "decisions.jsonl") as decisions:
        decisions.decide(Decision(ACCEPTED, "accept", "square"))
        decisions.decide(Decision(MADE, "relabel", NEW_CLASS, new=True))
        decisions.decide(Decision(REJECTED, "reject", None))
    return reviewed


def wanted(photos, run):
    return by_name(apply_decisions(read_catalog(photos), str(run)))


def written(run, format, out=None):
    api.review(run, export=format, out=out)


def tasks_of(run):
    return json.loads((run / "label-studio.json").read_text())


def as_label_studio_returns(tasks, *, everything=True):
    """Tasks as Label Studio 1.23.2 exports what it imported, seen by experiment."""
    for number, task in enumerate(tasks, start=1):
        if not everything and not task.get("annotations"):
            continue
        annotations = [
            {
                "id": number,
                "completed_by": 1,
                "was_cancelled": False,
                "ground_truth": True,
                "lead_time": None,
                "prediction": {},
                "result_count": len(annotation["result"]),
                "task": number,
                "project": 2,
                **annotation,
            }
            for annotation in task.get("annotations", [])
        ]
        yield {
            "id": number,
            "annotations": annotations,
            "file_upload": "b5a0ae3e-label-studio.json",
            "drafts": [],
            "predictions": [number] if "predictions" in task else [],
            "data": task["data"],
            "meta": {},
            "inner_id": number,
            "total_annotations": len(annotations),
            "project": 2,
        }


def returned(path, content):
    path.write_text(json.dumps(content).replace("/", "\\/"))  # Label Studio escapes them
    return path


def test_label_studio_brings_everything_back(decided, photos, tmp_path):
    written(decided, "label-studio")
    back = returned(tmp_path / "back.json", [*as_label_studio_returns(tasks_of(decided))])
    assert by_name(read_catalog(back)) == wanted(photos, decided)


def test_label_studio_may_export_the_annotated_tasks_alone(decided, photos, tmp_path):
    written(decided, "label-studio")
    tasks = [*as_label_studio_returns(tasks_of(decided), everything=False)]
    assert len(tasks) == 45
    back = returned(tmp_path / "back.json", tasks)
    catalog = read_catalog(back, TableConfig(image_root=str(photos)))
    assert by_name(catalog) == wanted(photos, decided)


def test_a_correction_in_label_studio_wins(decided, photos, tmp_path):
    written(decided, "label-studio")
    tasks = [*as_label_studio_returns(tasks_of(decided))]
    corrected = next(t for t in tasks if t["data"][NAME] == "train/disc/disc0.png")
    corrected["annotations"][0]["result"][0]["value"]["choices"] = ["triangle"]
    back = returned(tmp_path / "back.json", tasks)
    assert by_name(read_catalog(back))["train/disc/disc0.png"] == ("triangle", "train")


def test_label_studio_gets_answers_as_predictions_and_a_labelling_interface(decided, capsys):
    written(decided, "label-studio")
    tasks = {task["data"][NAME]: task for task in tasks_of(decided)}
    items = open_run(decided)
    (prediction,) = tasks["unlabeled/02.png"]["predictions"]
    item = items.by_name["unlabeled/02.png"]
    assert prediction["result"][0]["value"] == {"choices": [items.labels[item]]}
    assert prediction["score"] == round(float(items.confidence[item]), 4)
    assert prediction["model_version"] == "tutelage run"
    assert "annotations" not in tasks["unlabeled/02.png"]
    tested = tasks["test/disc/disc0.png"]
    assert "predictions" not in tested
    assert tested["data"]["split"] == "test"
    assert tasks[REJECTED]["annotations"] == [{"result": [], "was_cancelled": True}]
    interface = ElementTree.parse(decided / "label-studio-labels.xml")
    assert [choice.get("value") for choice in interface.iter("Choice")] == [
        "disc", NEW_CLASS, "square", "triangle"]  # fmt: skip
    assert interface.find("Image").get("value") == "$image"
    said = capsys.readouterr().out
    assert "60 images, 44 labels, 42 answers of the model" in said


def test_label_studio_is_told_where_the_images_lie(decided, photos, capsys):
    written(decided, "label-studio")
    said = capsys.readouterr().out
    served = re.search(r"DOCUMENT_ROOT=(\S+) ", said)[1]
    assert f"Local files, {photos};" in said
    assert Path(served) == photos.parent  # it must lie above the folder of the storage
    for task in tasks_of(decided):
        path = unquote(task["data"]["image"].removeprefix("/data/local-files/?d="))
        assert (Path(served) / path).samefile(task["data"][FILE])


def test_images_to_label_next_come_first(decided):
    written(decided, "label-studio")
    items = open_run(decided)
    names = [task["data"][NAME] for task in tasks_of(decided)]
    first = [items.name(item) for item in items.view("next", None, {})]
    assert len(first) > 5
    assert names[: len(first)] == first


def as_cvat_returns(text):
    """What CVAT makes of an import: its own numbers, sizes, sources and meta, and no splits."""
    root = ElementTree.fromstring(text)
    for number, image in enumerate(sorted(root.iter("image"), key=lambda found: found.get("name"))):
        image.attrib |= {"id": str(number), "width": "32", "height": "32"}
        for tag in image.iter("tag"):
            tag.set("source", "file")
    for label in root.iter("label"):
        ElementTree.SubElement(label, "color").text = "#aa22bb"
    return ElementTree.tostring(root)


def test_cvat_brings_everything_back(decided, photos, tmp_path):
    written(decided, "cvat")
    back = tmp_path / "annotations.xml"
    back.write_bytes(as_cvat_returns((decided / "cvat.xml").read_text()))
    catalog = read_catalog(back, TableConfig(image_root=str(photos)))
    assert by_name(catalog) == wanted(photos, decided)


def test_a_person_s_tag_in_cvat_wins_over_the_answer(decided, photos, tmp_path):
    written(decided, "cvat")
    root = ElementTree.parse(decided / "cvat.xml").getroot()
    image = next(found for found in root.iter("image") if found.get("name") == "unlabeled/02.png")
    assert [tag.get("label").endswith(" (predicted)") for tag in image] == [True]
    ElementTree.SubElement(image, "tag", label="triangle")
    back = tmp_path / "back.xml"
    back.write_bytes(ElementTree.tostring(root))
    catalog = read_catalog(back, TableConfig(image_root=str(photos)))
    assert by_name(catalog)["unlabeled/02.png"] == ("triangle", "train")


def test_cvat_gets_every_label_of_a_tag_and_no_number_of_a_frame(decided):
    written(decided, "cvat")
    constructor = json.loads((decided / "cvat-labels.json").read_text())
    known = {label["name"] for label in constructor}
    root = ElementTree.parse(decided / "cvat.xml").getroot()
    assert {tag.get("label") for tag in root.iter("tag")} <= known
    assert {label.findtext("name") for label in root.iter("label")} == known
    # CVAT takes the id for a frame's number where no name fits, and would tag another image.
    assert min(int(image.get("id")) for image in root.iter("image")) > 10**6


def test_csv_brings_everything_back(decided, photos):
    written(decided, "csv")
    catalog = read_catalog(decided / "labels.csv", TableConfig(image_root=str(photos)))
    assert by_name(catalog) == wanted(photos, decided)
    with (decided / "labels.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["image"] == "unlabeled/02.png")
    items = open_run(decided)
    item = items.by_name["unlabeled/02.png"]
    assert row["label"] == ""
    assert row["predicted"] == items.labels[item]
    assert float(row["confidence"]) == round(float(items.confidence[item]), 4)


@pytest.mark.parametrize("format", ["label-studio", "cvat", "csv"])
def test_images_in_a_parquet_file_get_files(reviewed, photos, tmp_path, format, capsys):
    source = read_catalog(photos)
    columns = {
        "image": [source.source.read(i) for i in range(len(source))],
        "file": list(source.names),
        "label": [[*source.classes, None][label] for label in source.labels],
        "split": source.splits.tolist(),
    }
    packed = read_catalog(parquet(tmp_path / "all.parquet", columns))
    items = replace(open_run(reviewed), catalog=packed)
    out = tmp_path / f"out.{'xml' if format == 'cvat' else 'json' if 'l' in format else 'csv'}"
    export(reviewed, items, format, out)
    root = tmp_path / "out-images"
    assert f"{root}" in capsys.readouterr().out
    got = by_name(read_catalog(out, TableConfig(image_root=str(root))))
    assert got == by_name(source)


def test_names_that_are_no_file_names_are_made_such(reviewed, tmp_path):
    image = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    columns = {"image": [content, content, b"none"], "label": ["a", "b", "a"]}
    packed = read_catalog(
        parquet(tmp_path / "all.parquet", columns | {"file": ["../x", "a:b", "c"]})
    )
    items = open_run(reviewed)
    few = replace(
        items, catalog=packed, labels=[], confidence=np.zeros(0), ranks=np.zeros(0, np.intp)
    )
    export(reviewed, few, "csv", tmp_path / "o.csv")
    made = sorted(path.name for path in (tmp_path / "o-images").iterdir())
    assert made == ["000000-x.png", "000001-a-b.png", "c.img"]


def test_nothing_is_overwritten(reviewed):
    written(reviewed, "label-studio")
    before = (reviewed / "label-studio.json").read_bytes()
    with pytest.raises(TutelageError, match=r"label-studio.json exists; choose another name, or"):
        written(reviewed, "label-studio")
    assert (reviewed / "label-studio.json").read_bytes() == before
    written(reviewed, "label-studio", out=reviewed / "second.json")
    assert (reviewed / "second-labels.xml").is_file()


def test_out_without_a_format_is_refused(reviewed):
    with pytest.raises(TutelageError, match="--out is the file of an export; say which with --exp"):
        api.review(reviewed, out="x.json")


def test_images_to_label_first_go_out_before_the_first_run(suggested):
    written(suggested, "label-studio")
    tasks = tasks_of(suggested)
    assert [task["data"][NAME] for task in tasks[:3]] == ["03.jpg", "01.jpg", "08.png"]
    assert not any("predictions" in task or "annotations" in task for task in tasks)
    facts = json.loads((suggested / "suggest.json").read_text()) | {"classes": []}
    (suggested / "suggest.json").write_text(json.dumps(facts))
    with pytest.raises(TutelageError, match="knows no classes to choose from; repeat tutelage sug"):
        written(suggested, "label-studio", out=suggested / "x.json")
    written(suggested, "csv")


def test_missing_images_are_counted(reviewed, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/test/disc/disc0.png").unlink()
    catalog = read_catalog(photos)
    moved = tuple(str(tmp_path / "photos" / name) for name in catalog.names)
    catalog = replace(catalog, source=replace(catalog.source, paths=moved))
    export(reviewed, replace(open_run(reviewed), catalog=catalog), "csv", tmp_path / "o.csv")
    assert "1 image cannot be read: left out" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["label-studio", "cvat", "csv"])
def test_images_that_the_run_could_not_read_are_left_out(reviewed, format, capsys):
    (reviewed / "skipped.csv").write_text(
        'image,reason\ntrain/disc/disc0.png,"the file is damaged, it seems"\n'
    )
    written(reviewed, format, out=reviewed / "out")
    said = capsys.readouterr().out
    assert "59 images, 41 labels, 41 answers" in said
    assert "1 image cannot be read: left out" in said
    text = (reviewed / "out").read_text()
    assert "train/disc/disc0.png" not in text
    assert "train/disc/disc1.jpg" in text


@pytest.mark.parametrize("format", ["label-studio", "cvat", "csv"])
def test_the_commands_that_come_next_can_be_pasted(reviewed, photos, tmp_path, format, capsys):
    place = tmp_path / "My Photos"
    shutil.copytree(photos, place / "all")
    catalog = read_catalog(photos)
    moved = tuple(str(place / "all" / name) for name in catalog.names)
    catalog = replace(catalog, source=replace(catalog.source, paths=moved))
    export(reviewed, replace(open_run(reviewed), catalog=catalog), format, place / "out")
    said = capsys.readouterr().out
    (command,) = re.findall(r"; (tutelage run .*) learns from it", said)
    assert shlex.split(command)[3:] == ["--image-root", str(place / "all")]
    if format == "csv":
        assert shlex.split(command)[2] == str(place / "out")
    if format == "label-studio":
        (start,) = re.findall(r"LABEL_STUDIO.* label-studio start", said)
        assert f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={place}" in shlex.split(start)
