"""Tables that are text."""

import pytest
from catalogs import put

from tutelage.data.textfile import encoding_of, opened
from tutelage.system.errors import TutelageError


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
