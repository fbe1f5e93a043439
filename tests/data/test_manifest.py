"""A CSV or Parquet manifest is a catalog, or says what is wrong with it."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogs import by_name, parquet, put

from tutelage.data.open import read_catalog
from tutelage.data.sources import FileSource
from tutelage.system.errors import TutelageError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,label\na.jpg," + b"x" * 200_000, "field larger than field limit"),
        (b"image,label\na\0.jpg,ant\n", "data row 1 holds a NUL byte"),
        ("image,label\na.jpg,ant\n".encode("utf-16-be"), "NUL byte.*save the manifest as UTF-8"),
        (b"\xff\xfei\0m", "is not UTF-8 .*save it as CSV UTF-8"),
        (b"image,label\na.jpg,K\x81fer\n", "is not UTF-8 .*save it as CSV UTF-8"),
        (b'image,label\na.jpg,"ant\nb.jpg,bee\n', "line break.*is a quote left open"),
        (b"image,label\na.jpg,x\0y\n", "control character"),
        (b"image,label,label\na.jpg,ant,bee\n", "label, label; keep one"),
        (b"image,label\na.jpg,ant\na.jpg,bee\n", "listed more than once"),
        (b"\0" * 100, "lacks the column"),
        (b",".join(b"c%d" % i for i in range(100_000)), "lacks the column"),
    ],
)
def test_a_hostile_csv_is_refused(content, message, tmp_path):
    put(tmp_path / "a.jpg")
    put(tmp_path / "b.jpg")
    with pytest.raises(TutelageError, match=message) as caught:
        read_catalog(put(tmp_path / "m.csv", content))
    assert len(str(caught.value)) < 1000


def test_what_a_spreadsheet_takes_for_a_formula_is_a_class_name(tmp_path):
    put(tmp_path / "a.jpg")
    content = b"\xef\xbb\xbfimage,label\na.jpg,=cmd|' /C calc'!A0\n"
    assert read_catalog(put(tmp_path / "m.csv", content)).classes == ("=cmd|' /C calc'!A0",)


def test_a_manifest_may_name_any_file(tmp_path):
    far = put(tmp_path / "far/a.jpg", b"far")
    rows = f"image,label\n{far},ant\n../far/a.jpg,bee\n/dev/zero,bee\n"
    catalog = read_catalog(put(tmp_path / "here/m.csv", rows.encode()))
    assert [catalog.source.read(i) for i in range(2)] == [b"far", b"far"]
    with pytest.raises(OSError, match="a device"):
        catalog.source.read(2)


IMAGES = [b"image 0", b"image 1", b"image 2"]
TWO_IMAGES = pa.array([b"x", b"y"], pa.binary())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [["a"], ["b"]]}, "column label holds list"),
        ({"label": pa.array([b"a", b"b"])}, "column label holds binary"),
        ({"label": pa.array([1, 2], pa.timestamp("s"))}, "column label holds timestamp"),
        ({"label": [{"a": 1}, {"a": 2}]}, "column label holds struct"),
        ({"label": ["a\nb", "c"]}, "line break"),
        ({"label": ["a", "b"], "image": [1, 2]}, "column image holds int64"),
        ({"label": ["a", "b"], "image": [[1], [2]]}, "column image holds list"),
        ({"label": ["a", "b"], "image": ["x", None]}, "data row 2 has no image"),
        ({"label": ["a", "b"], "image": [{"bytes": None, "path": 1}] * 2}, "an image is 1; expect"),
        ({"label": ["a", "b"], "split": [["test"], []]}, "unknown split"),
    ],
)
def test_a_parquet_of_wrong_types_is_refused(columns, message, tmp_path):
    with pytest.raises(TutelageError, match=message):
        read_catalog(parquet(tmp_path / "m.parquet", {"image": TWO_IMAGES, **columns}))


def test_dictionary_encoded_columns_are_read(tmp_path):
    labels = pa.array(["a", "b"]).dictionary_encode()
    columns = {"image": TWO_IMAGES.dictionary_encode(), "label": labels}
    path = parquet(tmp_path / "m.parquet", columns)
    catalog = read_catalog(path)
    assert catalog.source.read(1) == b"y"
    assert catalog.classes == ("a", "b")


@pytest.mark.parametrize(
    "meta",
    ["{", "[]", "null", '{"info": []}', '{"info": {"features": {"label": 3}}}', "[" * 100_000,
     '{"info": {"features": {"label": {"names": 3}}}}', b"\xff",
     '{"info": {"features": {"label": {"names": [1, 2]}}}}',
     '{"info": {"features": {"label": {"names": "ab"}}}}'],
)  # fmt: skip
def test_hostile_metadata_is_refused(meta, tmp_path):
    path = parquet(tmp_path / "m.parquet", {"image": TWO_IMAGES, "label": [0, 1]}, meta)
    with pytest.raises(TutelageError, match=r"metadata of Hugging Face|class names of the data"):
        read_catalog(path)


@pytest.mark.parametrize("labels", [["x", "y"], [0.5, 0.0], [0, 7]])
def test_labels_that_are_no_numbers_of_the_class_names_are_refused(labels, tmp_path):
    meta = '{"info": {"features": {"label": {"names": ["a", "b"]}}}}'
    with pytest.raises(TutelageError, match="there are 2 class names"):
        read_catalog(parquet(tmp_path / "m.parquet", {"image": TWO_IMAGES, "label": labels}, meta))


def test_a_footer_that_claims_more_rows_than_bytes_is_refused(tmp_path, monkeypatch):
    path = parquet(tmp_path / "m.parquet", {"image": TWO_IMAGES, "label": ["a", "b"]})
    size = path.stat().st_size
    opened = pq.ParquetFile

    class Lying(opened):
        @property
        def metadata(self):
            return type("Metadata", (), {"num_rows": size + 1})

    monkeypatch.setattr(pq, "ParquetFile", Lying)
    with pytest.raises(TutelageError, match=f"claims {size + 1:,} rows in {size:,} bytes"):
        read_catalog(path)


def manifest(folder, text, encoding="utf-8"):
    for name in ["a.jpg", "b.jpg", "c.jpg"]:
        put(folder / "images" / name, name.encode())
    return put(folder / "data.csv", text.encode(encoding))


ROWS = """image,label,split
images/b.jpg, 1 ,
images/a.jpg,,TRAIN
images/c.jpg,0,test
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_csv_manifest(tmp_path, encoding, delimiter, newline):
    text = ROWS.replace(",", delimiter).replace("\n", newline)
    catalog = read_catalog(manifest(tmp_path, text, encoding))
    assert by_name(catalog) == {
        "images/b.jpg": ("1", "train"),
        "images/a.jpg": (None, "train"),
        "images/c.jpg": ("0", "test"),
    }
    assert catalog.source.read(0) == b"b.jpg"


def test_a_manifest_may_lack_splits_and_name_files_by_absolute_or_windows_path(tmp_path):
    absolute = put(tmp_path / "far" / "x.jpg", b"x")
    text = f'image,label\n"{absolute}",ü\nimages\\a.jpg,o\n\nimages/b.jpg\n'
    catalog = read_catalog(manifest(tmp_path / "here", text))
    assert catalog.classes == ("o", "ü")
    assert set(catalog.splits) == {"train"}
    assert catalog.labels.tolist() == [1, 0, -1]
    assert [catalog.source.read(i) for i in range(3)] == [b"x", b"a.jpg", b"b.jpg"]


def test_a_missing_file_in_a_manifest_stays_listed(tmp_path):
    catalog = read_catalog(manifest(tmp_path, ROWS + "images/gone.jpg,1,\n"))
    assert "images/gone.jpg" in catalog.names
    assert catalog.source.signature(3) == catalog.source.signature(3)
    with pytest.raises(FileNotFoundError):
        catalog.source.read(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lacks the column image; found: "),
        ("image,label\n", "lists no images"),
        ("foto,label\na.jpg,1\n", "lacks the column image; found: foto, label.*--image-column"),
        ("image,label,split\nimages/a.jpg,1,no\n", "unknown split 'no'; use train, val, test or"),
        ("image,label,set\nimages/a.jpg,1,test\nimages/a.jpg,1,x\n", "splits 'test' and also 'x'"),
        ("image,label\nimages/a.jpg,1\nimages/a.jpg,2\n", r"more than once \(first: images/a.jpg"),
        ("image,label\n,1\n", "data row 1 has no image"),
        ("image,label\nimages/a,b.jpg,1\n", "data row 1 has 3 cells, the header 2"),
        ("image,label\nno/a.jpg,1\n", "none of the 1 images is found in .*: no/a.jpg.; give"),
    ],
)
def test_a_manifest_that_contradicts_itself(tmp_path, text, message):
    with pytest.raises(TutelageError, match=message):
        read_catalog(manifest(tmp_path, text))


def test_parquet_names_from_the_file_column_when_unique(tmp_path):
    columns = {"image": IMAGES, "label": ["x", "y", "x"], "split": [None, "val", "test"]}
    unique = parquet(tmp_path / "u.parquet", columns | {"file": ["c", "b", "a"]})
    assert by_name(read_catalog(unique)) == {
        "c": ("x", "train"),
        "b": ("y", "val"),
        "a": ("x", "test"),
    }
    twice = parquet(tmp_path / "t.parquet", columns | {"file": ["c", "c", "a"]})
    assert read_catalog(twice).names == ("t.parquet#0", "t.parquet#1", "t.parquet#2")
    absent = parquet(tmp_path / "n.parquet", columns | {"file": ["c", None, "a"]})
    assert read_catalog(absent).names == ("n.parquet#0", "n.parquet#1", "n.parquet#2")


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        (pa.array([10, 9, None]), ("9", "10"), [1, 0, -1]),
        (pa.array([1.0, float("nan"), 0.0]), ("0", "1"), [1, -1, 0]),
        (pa.array(["b", "", "a"]).dictionary_encode(), ("a", "b"), [1, -1, 0]),
        (pa.array([True, False, None]), ("False", "True"), [1, 0, -1]),
    ],
)
def test_parquet_labels_of_any_type(tmp_path, labels, classes, indices):
    catalog = read_catalog(parquet(tmp_path / "p.parquet", {"image": IMAGES, "label": labels}))
    assert catalog.classes == classes
    assert catalog.labels.tolist() == indices


def test_hugging_face_struct_and_class_names(tmp_path):
    image = [{"bytes": data, "path": "x.jpg"} for data in IMAGES]
    meta = {"info": {"features": {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": image, "label": [0, 1, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(meta)})
    pq.write_table(table, tmp_path / "p.parquet")
    catalog = read_catalog(tmp_path / "p.parquet")
    assert [v[0] for v in by_name(catalog).values()] == ["zebra", "ant", None]
    assert [catalog.source.read(i) for i in range(3)] == IMAGES


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_of_paths(tmp_path, struct):
    put(tmp_path / "images/a.jpg", b"a")
    put(tmp_path / "images/b.jpg", b"b")
    names = ["images/b.jpg", "images/a.jpg"]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = pa.array([{"bytes": None, "path": n} for n in names], kind) if struct else names
    catalog = read_catalog(parquet(tmp_path / "p.parquet", {"image": image, "label": ["x", "y"]}))
    assert catalog.names == ("images/b.jpg", "images/a.jpg")
    assert isinstance(catalog.source, FileSource)
    assert catalog.source.read(0) == b"b"


def test_parquet_that_cannot_be_used(tmp_path):
    with pytest.raises(TutelageError, match=r"lacks the column image; found: foto, label"):
        read_catalog(parquet(tmp_path / "a.parquet", {"foto": [b"x"], "label": ["a"]}))
    with pytest.raises(TutelageError, match=r"holds int64; expected paths, bytes"):
        read_catalog(parquet(tmp_path / "b.parquet", {"image": [1], "label": ["a"]}))
    with pytest.raises(TutelageError, match="not a readable Parquet file"):
        read_catalog(put(tmp_path / "c.parquet", b"PAR1 nonsense"))
