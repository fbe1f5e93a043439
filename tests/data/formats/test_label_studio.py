"""What Label Studio exports is read: the forms are those of its version 1.23.2, shortened."""

import json

import pytest
from catalogs import by_name, put

from tutelage.config import TableConfig
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError

UPLOADED = "/data/upload/1/391eaf7e-"


def chosen(*labels, name="choice", kind="choices"):
    value = {kind: [*labels]}
    return {"from_name": name, "to_name": "image", "type": kind, "value": value}


def annotation(*labels, cancelled=False, **more):
    result = [chosen(*labels)] if labels else []
    return {"id": 1, "completed_by": 1, "result": result, "was_cancelled": cancelled, **more}


def task(image, *annotations, **more):
    return {"annotations": [*annotations], "drafts": [], "data": {"image": image}, **more}


def exported(folder, content, name="project-1-at-2026.json"):
    return put(folder / name, json.dumps(content).encode())


def images(folder, *names):
    for name in names or ("a.jpg", "b.jpg"):
        put(folder / name, name.encode())


def below(folder):
    return TableConfig(image_root=str(folder))


HINT = {"model_version": "m", "score": 0.9, "result": [chosen("dog")]}
READ = {
    "a task without an annotation is unlabelled": (
        [task("a", annotation("cat")), task("b", annotation("dog")), task("c", predictions=[HINT])],
        {"a": "cat", "b": "dog", "c": None},
        [],
    ),
    "predictions alone are no labels": (
        [task("a", predictions=[HINT])],
        {"a": None},
        ["nothing in ROOT/x.json is labelled; predictions are not labels"],
    ),
    "annotators who disagree leave an image unlabelled": (
        [
            task("a", annotation("cat", ground_truth=True), annotation("dog")),
            task("b", annotation("cat"), annotation("cat"), annotation()),
        ],
        {"a": None, "b": "cat"},
        [
            "annotators disagree about 1 image (first: a.jpg: cat, dog): taken as unlabelled; "
            "delete the wrong annotations there"
        ],
    ),
    "what was skipped is left out of the pool, too": (
        [
            task("a", annotation("cat"), annotation(cancelled=True)),
            task("b", annotation(cancelled=True)),
            task("c", annotation("dog")),
        ],
        {"a": "cat", "c": "dog", "d": None},
        [
            "1 image skipped or of no use (first: ROOT/b.jpg): left out; label such images in the "
            "tool to learn from them",
            "1 image in ROOT is not listed (first: d.jpg): taken as unlabelled",
        ],
    ),
}


@pytest.mark.parametrize("case", READ)
def test_an_export_is_read(case, tmp_path):
    tasks, labels, warnings = READ[case]
    tasks = [{**of, "data": {"image": f"{UPLOADED}{of['data']['image']}.jpg"}} for of in tasks]
    images(tmp_path, *(f"{name}.jpg" for name in {*labels, *("b" if "skipped" in case else "")}))
    catalog = read_catalog(exported(tmp_path, tasks, "x.json"), below(tmp_path))
    assert by_name(catalog) == {f"{name}.jpg": (of, "train") for name, of in labels.items()}
    said = [text.replace(f"{tmp_path}", "ROOT").replace(UPLOADED, "") for text in catalog.warnings]
    assert said == warnings


@pytest.mark.parametrize(
    ("listed", "file"),
    [
        ("/data/upload/1/391eaf7e-a_1_x.jpg", "cat/a 1 (x).jpg"),
        ("/data/upload/1/8af57e7c-%C3%BC_d.jpg", "ü d.jpg"),
        ("/data/upload/8af57e7c-a.jpg", "8af57e7c-a.jpg"),  # the folder of uploads itself
        ("http://labels:8080/data/upload/1/8af57e7c-a.jpg", "deep/er/a.jpg"),
        ("/data/local-files/?d=photos/cat/a%201.jpg", "cat/a 1.jpg"),
        ("http://labels/data/local-files/?d=a.jpg", "a.jpg"),
        ("s3://bucket/photos/cat/a.jpg", "cat/a.jpg"),
        ("s3://bucket/a%20b.jpg", "a%20b.jpg"),
        ("https://host/photos/a%20b.jpg?key=1", "photos/a b.jpg"),
        ("gs://bucket/a.jpg", "copied/from/a.jpg"),
        ("C:\\photos\\cat\\a.jpg", "cat/a.jpg"),
    ],
)
def test_images_are_found_by_every_name_that_label_studio_gives_them(tmp_path, listed, file):
    images(tmp_path / "in", file, "other/b.jpg")
    path = exported(tmp_path, [task(listed, annotation("cat"))])
    catalog = read_catalog(path, below(tmp_path / "in"))
    assert by_name(catalog)[file] == ("cat", "train")
    assert catalog.source.read(0) == file.encode()


def test_csv_is_a_table_like_any_other_and_json_min_is_refused(tmp_path):
    images(tmp_path, "a.jpg", "b.jpg")
    text = (
        '"annotation_id","annotator","choice","created_at","id","image","lead_time","updated_at"\n'
        f'1,"1","cat","2026",1,"{UPLOADED}a.jpg","","2026"\n'
        f'"","","","",5,"{UPLOADED}b.jpg","",""\n'
    )
    catalog = read_catalog(put(tmp_path / "project.csv", text.encode()))
    assert by_name(catalog) == {"a.jpg": ("cat", "train"), "b.jpg": (None, "train")}
    with pytest.raises(TutelageError, match=r"task 1 \(in an export as JSON, not JSON-MIN\)"):
        read_catalog(exported(tmp_path, [{"image": "a.jpg", "id": 1, "choice": "cat"}]))


def test_several_questions_are_told_apart_by_the_label_column(tmp_path):
    images(tmp_path, "a.jpg")
    answer = annotation() | {"result": [chosen("cat", name="animal"), chosen("red", name="colour")]}
    path = exported(tmp_path, [task("a.jpg", answer)])
    with pytest.raises(TutelageError, match=r"the questions animal, colour; .*--label-col"):
        read_catalog(path)
    assert read_catalog(path, TableConfig(label_column="colour")).classes == ("red",)
    with pytest.raises(TutelageError, match="questions animal, colour and no size; say"):
        read_catalog(path, TableConfig(label_column="size"))


def test_the_field_of_the_images_may_have_any_name(tmp_path):
    images(tmp_path, "a.jpg")
    one = {"data": {"photo": "a.jpg", "author": "Ann"}, "annotations": [annotation("cat")]}
    path = exported(tmp_path, [one])
    assert read_catalog(path).names == ("a.jpg",)
    one["data"]["before"] = "b.jpg"
    path = exported(tmp_path, [one])
    with pytest.raises(TutelageError, match="no field image; found: photo, author, before; say"):
        read_catalog(path)
    assert read_catalog(path, TableConfig(image_column="photo")).names == ("a.jpg",)
    with pytest.raises(TutelageError, match="has no field picture; found: photo, author, before"):
        read_catalog(path, TableConfig(image_column="picture"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([3], "task 1 is 3; expected an object"),
        ([{"data": []}], r"task 1 .*, data is \[\]; expected an object"),
        ([{"data": {}}], "has no field image; found: nothing; say"),
        ([{"data": {"image": 3}}], "task 1, image is 3; expected a text"),
        ([{"data": {"image": " "}}], "task 1 has no image"),
        ([{"data": {"image": "a.jpg"}, "annotations": {"a": 1}}], "annotations is .*expected a li"),
        ([{"data": {"image": "a.jpg"}, "annotations": ["x"]}], 'annotation is "x"; expected an ob'),
        ([{"data": {"image": "a.jpg"}, "annotations": [{"result": "x"}]}], "result is .x.; expect"),
        ([{"data": {"image": "a.jpg"}, "annotations": [{"result": [1]}]}], "a result is 1; expec"),
        ([task("a.jpg", annotation() | {"result": [chosen(["x"])]})], "a choice of choice is"),
        (
            [task("a.jpg", annotation() | {"result": [{**chosen(), "value": 3}]})],
            "choices of choice is 3; expected a list",
        ),
        ([task("a.jpg", annotation("a\nb"))], "control character"),
        (
            [task(name, annotation("cat", "dog")) for name in ("a.jpg", "b.jpg")],
            r"2 images with several labels \(first: a.jpg: cat, d",
        ),
        (
            [task("a.jpg", {"result": [chosen("cat", kind="rectanglelabels")]})],
            "holds rectanglelabels and no choices; tutelage class",
        ),
        ([], "has no field image; found: nothing; say"),
    ],
)
def test_wrong_shapes_are_said_with_their_place(tmp_path, content, message):
    images(tmp_path)
    with pytest.raises(TutelageError, match=message) as caught:
        read_catalog(exported(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
