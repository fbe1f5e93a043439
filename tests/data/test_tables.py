"""Which columns of a table are used, and tables that are text."""

import pytest
from catalogs import put

from tutelage.config import TableConfig
from tutelage.data.tables import (
    IMAGE,
    LABEL,
    Columns,
    check_labels,
    encoding_of,
    find_columns,
    opened,
    splits_in,
)
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


def content(path, wanted):
    with opened(path) as table:
        return table.names, table.columns(wanted), table.warnings


@pytest.mark.parametrize(
    ("text", "names", "columns"),
    [
        ("a.jpg,ant\nb.jpg,bee\n", ["image", "label"], [["a.jpg", "b.jpg"], ["ant", "bee"]]),
        ("ant;a.jpg\nbee;b.jpg\n", ["label", "image"], [["a.jpg", "b.jpg"], ["ant", "bee"]]),
        ("a.jpg,ant,Test\n", ["image", "label", "split"], [["a.jpg"], ["ant"]]),
    ],
)
def test_a_table_without_a_header(text, names, columns, tmp_path):
    path = put(tmp_path / "x.csv", text.encode())
    said = f"{path} has no header; its columns are taken as {', '.join(names)}"
    assert content(path, ["image", "label"]) == (names, columns, [said])


@pytest.mark.parametrize("first", ["a.jpg,ant,red", "a.jpg,b.jpg", "foto,art"])
def test_a_first_row_that_may_mean_anything_is_a_header(first, tmp_path):
    path = put(tmp_path / "x.csv", f"{first}\n1,2,3\n".encode())
    with opened(path) as table:
        assert table.names == first.split(",")


def test_json_lines(tmp_path):
    lines = '{"file_name": "a.png", "label": 0}\n\n{"label": null, "more": [1], "file_name": "b"}\n'
    path = put(tmp_path / "metadata.jsonl", lines.encode())
    assert content(path, ["file_name", "label"]) == (
        ["file_name", "label", "more"],
        [["a.png", "b"], ["0", ""]],
        [],
    )


def test_numbers_in_json_lines_are_labels_as_in_parquet(tmp_path):
    cells = ("1", "1.0", "1.5", "NaN", "true", '" a "')
    lines = "\n".join(f'{{"image": "a", "label": {cell}}}' for cell in cells)
    path = put(tmp_path / "x.jsonl", lines.encode())
    assert content(path, ["label"])[1] == [["1", "1", "1.5", "", "True", "a"]]


@pytest.mark.parametrize(
    ("cell", "kind"), [('["cat"]', "a list"), ("[]", "a list"), ('{"name": "cat"}', "an object")]
)
def test_a_list_or_an_object_in_a_column_that_is_used_is_refused(cell, kind, tmp_path):
    lines = f'{{"image": 1, "label": "a"}}\n{{"image": 2, "label": {cell}}}\n'
    path = put(tmp_path / "x.jsonl", lines.encode())
    assert content(path, ["image"])[1] == [["1", "2"]]
    message = rf"x\.jsonl: column label holds {kind} in data row 2; expected a text or a number"
    with pytest.raises(TutelageError, match=message):
        content(path, ["label"])


@pytest.mark.parametrize("line", ["[1, 2]", "3", "{", "[" * 100_000])
def test_a_line_that_is_no_object_is_refused(line, tmp_path):
    path = put(tmp_path / "x.jsonl", f'{{"label": 1}}\n{line}\n'.encode())
    with (
        pytest.raises(
            TutelageError, match=r"line 2 is not a JSON object .*mend it, or take it out"
        ),
        opened(path),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("ant", "utf-8"),
        ("꿀벌", "utf-8"),
        ("꿀벌", "cp949"),
        ("a.jpg,꿀벌\nb.jpg,뚜왈기", "cp949"),  # and a syllable that only CP949 has
        ("Käfer", "cp1252"),
        ("Äpfel", "cp1252"),  # decodes as CP949, too: a rare syllable
        ("größer", "cp1252"),  # decodes as CP949, too: a Chinese character
        ("naïve café", "cp1252"),
    ],
)
def test_an_encoding_without_a_mark(text, encoding, tmp_path):
    path = put(tmp_path / "x.csv", text.encode(encoding))
    assert encoding_of(path) == encoding
    assert path.read_text(encoding_of(path)) == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_mark_is_believed(encoding, tmp_path):
    path = put(tmp_path / "x.csv", "꿀벌".encode(encoding))
    assert path.read_text(encoding_of(path)) == "꿀벌"


def test_bytes_of_no_encoding_are_refused(tmp_path):
    with pytest.raises(TutelageError, match=r"is not UTF-8 .*save it as CSV UTF-8"):
        encoding_of(put(tmp_path / "x.csv", b"\x81\x8d"))
