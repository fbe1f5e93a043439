"""Which columns of a table are used."""

import pytest

from tutelage.config import TableConfig
from tutelage.data.header import IMAGE, LABEL, Columns, check_labels, find_columns, splits_in
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize("image", IMAGE)
@pytest.mark.parametrize("label", LABEL)
def test_known_names_are_found_however_they_are_written(image, label):
    for change in (str, str.upper, str.title, " {} ".format):
        names = ["x", change(image), change(label)]
        assert find_columns("t", names, TableConfig()) == Columns(names[1], names[2])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["file", "Image", "label", "class"], ("Image", "label")),
        (["id", "file_name", "class"], ("file_name", "class")),
        (["id", "class", "set", "split"], ("id", "class", ("split", "set"))),
        (["file-paths", "Labels"], ("file-paths", "Labels")),
        (["id", "class", "Data Set"], ("id", "class", ("Data Set",))),
    ],
)
def test_some_names_count_before_others(names, found):
    assert find_columns("t", names, TableConfig()) == Columns(*found)


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (["x", "label"], {}, "t lacks the column image; found: x, label.*--image-column can name"),
        (["x"], {}, "lacks the column image; found: x.*--image-column can"),
        (["file", "path", "label"], {}, "several columns .* --image-column .*: file, path; keep"),
        (["image", "class", "target"], {}, "as in --label-column 'class'"),
        (["image", "label", "label"], {}, "several columns .*: label, label; keep one"),
        (["image", "x"], {"label_column": "y"}, r"no column y \(--label-column\); found: image, x"),
    ],
)
def test_what_is_not_clear_is_refused(names, asked, message):
    with pytest.raises(TutelageError, match=message):
        find_columns("t", names, TableConfig(**asked))


def test_answers_of_predict_are_called_so():
    names = ["image", "label", "confidence", "p_ant", "p_bee"]
    (note,) = find_columns("t", names, TableConfig()).warnings
    assert note.startswith("t looks like answers of tutelage predict, so its labels are a model's")
    assert find_columns("t", names[:3], TableConfig()).warnings == ()


def test_a_column_called_set_counts_where_it_holds_splits():
    assert splits_in("t", {"Set": ["Train", "", "valid"]}) == ["Train", "", "valid"]
    assert splits_in("t", {"Set": ["", "A", "B"]}) == []
    assert splits_in("t", {"split": ["train", "A"]}) == ["train", "A"]  # and is refused later
    assert splits_in("t", {}) == []


def test_the_first_column_that_holds_splits_counts():
    columns = {"set": ["A", "B"], "subset": ["train", "test"], "dataset": ["test", "train"]}
    assert splits_in("t", {"split x": ["", ""], **columns}) == ["train", "test"]
    assert splits_in("t", columns) == ["train", "test"]


def test_a_column_called_set_that_holds_splits_and_something_else_is_refused():
    expected = (
        "t: column Subset holds the splits 'train', 'val' and also 'A', 'eval'; use train, val, "
        "test or unlabeled, or leave it empty for train, or give the column another name if it "
        "holds no splits"
    )
    with pytest.raises(TutelageError) as caught:
        splits_in("t", {"Subset": ["val", "train", "", "eval", "A", "train"]})
    assert str(caught.value) == expected


def test_few_labels_or_grades_are_classes():
    check_labels("t", "grade", ["1.5", "2", "2.5"] * 9)
    check_labels("t", "label", ["a", "b"])
    check_labels("t", "label", [*(f"c{number}" for number in range(12)), ""])
    check_labels("t", "version", [f"v{number}.5" for number in range(12)] * 9)


def test_without_a_column_of_labels_the_images_are_unlabelled_and_that_is_said():
    found = find_columns("t", ["image", "art"], TableConfig())
    assert (found.image, found.label, found.splits) == ("image", None, ())
    (said,) = found.warnings
    assert "t has no column label, so its images are unlabelled; found: image, art" in said


@pytest.mark.parametrize("label", ["NA", "n/a", "NaN", "null", "-1", "?"])
def test_a_label_that_may_mean_none_is_refused(label):
    with pytest.raises(TutelageError, match=r"holds '.*' in 2 rows; if that means no label, leave"):
        check_labels("t", "label", ["a", label, label])
