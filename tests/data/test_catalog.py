import inspect
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tutelage.data import catalog as catalog_module
from tutelage.data.catalog import FileSource, catalog_from_arrays, image_files, read_catalog
from tutelage.data.memory import read_path
from tutelage.system.errors import TutelageError


def put(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def by_name(catalog):
    """Name -> (class or None, split)."""
    label = [*catalog.classes, None]
    return {
        name: (label[catalog.labels[i]], str(catalog.splits[i]))
        for i, name in enumerate(catalog.names)
    }


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "photos"
    for name in [
        "train/bee/b.JPG",
        "train/ant/deep/er/a.png",
        "unlabeled/u.webp",
        "unlabeled/2021/v.gif",
        "val/ant/c.bmp",
        "test/bee/d.tiff",
        "test/wasp/e.jpeg",
    ]:
        put(root / name, name.encode())
    return root


def test_a_folder_tree(tree):
    catalog = read_catalog(tree)
    assert by_name(catalog) == {
        "train/bee/b.JPG": ("bee", "train"),
        "train/ant/deep/er/a.png": ("ant", "train"),
        "unlabeled/u.webp": (None, "train"),
        "unlabeled/2021/v.gif": (None, "train"),
        "val/ant/c.bmp": ("ant", "val"),
        "test/bee/d.tiff": ("bee", "test"),
        "test/wasp/e.jpeg": ("wasp", "test"),
    }
    assert catalog.classes == ("ant", "bee", "wasp")
    assert list(catalog.names) == sorted(catalog.names)
    assert catalog.labels.dtype == np.int32
    assert catalog.warnings == ()
    for i, name in enumerate(catalog.names):
        assert catalog.source.read(i) == name.encode()


def test_a_relative_root_and_a_text_path(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert read_catalog(".").names == read_catalog(str(tree)).names


def test_a_bare_tree_means_train_and_may_have_a_pool(tmp_path):
    put(tmp_path / "ants/a.jpg")
    put(tmp_path / "bees/b.jpg")
    put(tmp_path / "unlabelled/c.jpg")
    assert by_name(read_catalog(tmp_path)) == {
        "ants/a.jpg": ("ants", "train"),
        "bees/b.jpg": ("bees", "train"),
        "unlabelled/c.jpg": (None, "train"),
    }


def test_a_pool_inside_train(tmp_path):
    put(tmp_path / "train/ants/a.jpg")
    put(tmp_path / "train/unlabeled/b.jpg")
    assert by_name(read_catalog(tmp_path))["train/unlabeled/b.jpg"] == (None, "train")


def test_a_folder_of_images_alone_is_a_pool(tmp_path):
    put(tmp_path / "b.jpg")
    put(tmp_path / "a.jpg")
    catalog = read_catalog(tmp_path)
    assert by_name(catalog) == {"a.jpg": (None, "train"), "b.jpg": (None, "train")}
    assert catalog.classes == ()


def test_class_folders_beside_test_are_refused_with_the_mend(tmp_path):
    put(tmp_path / "ants/a.jpg")
    put(tmp_path / "test/ants/b.jpg")
    with pytest.raises(TutelageError, match="move the class folders into"):
        read_catalog(tmp_path)


def test_what_is_called_like_an_image_is_listed_whatever_it_is(tree):
    os.mkfifo(tree / "train/ant/pipe.jpg")
    (tree / "train/ant/dangling.jpg").symlink_to("nowhere")
    (tree / "train/ant/circle.jpg").symlink_to("circle.jpg")
    (tree / "train/ant/zero.jpg").symlink_to("/dev/zero")
    catalog = read_catalog(tree)
    for name in ("pipe", "dangling", "circle", "zero"):
        row = catalog.names.index(f"train/ant/{name}.jpg")
        catalog.source.signature(row)
        with pytest.raises(OSError, match=r"pipe|No such file|Too many levels"):
            catalog.source.read(row)


def test_images_beside_each_other_are_listed_whatever_they_are(tmp_path):
    put(tmp_path / "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    assert read_catalog(tmp_path).names == ("a.jpg", "dangling.jpg", "pipe.jpg")


def test_links_to_files_are_followed_also_out_of_the_folder(tree, tmp_path):
    (tree / "train/ant/link.png").symlink_to(put(tmp_path / "elsewhere.png", b"far"))
    catalog = read_catalog(tree)
    assert catalog.source.read(catalog.names.index("train/ant/link.png")) == b"far"


def test_links_to_folders_are_followed_for_a_class_but_not_below(tree, tmp_path):
    put(tmp_path / "far/a.jpg")
    (tree / "train/fly").symlink_to(tmp_path / "far")
    (tree / "train/ant/more").symlink_to(tmp_path / "far")
    catalog = read_catalog(tree)
    assert by_name(catalog)["train/fly/a.jpg"] == ("fly", "train")
    assert len(catalog) == 8
    (warning,) = catalog.warnings
    assert warning.startswith("1 folders are left out, since they are links")
    assert str(tree / "train/ant/more") in warning


def test_links_that_lead_up_end(tree):
    places = ("train/ant/up", "train/up", "val/ant/up")
    for place in places:
        (tree / place).symlink_to(tree)
    (tree / "unlabelled").symlink_to(".")
    catalog = read_catalog(tree)
    assert len(catalog) == 7
    (warning,) = catalog.warnings
    assert warning.startswith("4 folders are left out")
    assert len(image_files(tree)) == 7


def test_a_folder_that_cannot_be_opened_is_told(tree, monkeypatch):
    put(tree / "train/ant/shut/a.jpg")
    opened = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return opened(path)

    monkeypatch.setattr(os, "scandir", scandir)
    catalog = read_catalog(tree)
    assert len(catalog) == 7
    assert "1 folders are left out" in catalog.warnings[0]


def test_a_tree_deeper_than_pythons_stack(tmp_path):
    put(tmp_path / "/".join(["ant", *"d" * 150, "b.jpg"]))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert len(read_path(tmp_path)) == 1
    finally:
        sys.setrecursionlimit(limit)


def test_a_folder_whose_path_is_too_long_is_told(tmp_path, monkeypatch):
    put(tmp_path / "ant/a.jpg")
    monkeypatch.chdir(tmp_path / "ant")
    for _ in range(17):
        os.mkdir("n" * 250)
        os.chdir("n" * 250)
    Path("b.jpg").touch()
    catalog = read_catalog(tmp_path)
    assert catalog.names == ("ant/a.jpg",)
    assert "1 folders are left out" in catalog.warnings[0]


def test_names_of_every_kind(tmp_path):
    names = [
        "a\nb.png",
        "\x1b[31m.png",
        "\u202egnp.png",
        "n" * 251 + ".png",
        "=1+1.png",
        "ü 蜂.png",
    ]
    for name in names:
        put(tmp_path / "ant" / name, name.encode())
    (tmp_path / "ant").joinpath(os.fsdecode(b"\xff.png")).write_bytes(b"\xff")
    put(tmp_path / os.fsdecode(b"caf\xe9") / "a.png")
    catalog = read_catalog(tmp_path)
    assert {*catalog.names} == {*(f"ant/{n}" for n in names), "ant/\\xff.png", "caf\\xe9/a.png"}
    assert catalog.classes == ("ant", "caf\\xe9")
    for name in (*catalog.names, *catalog.classes):
        name.encode()  # tables and pages are UTF-8


@pytest.mark.parametrize("name", ["m.csv", "m.parquet", "m"])
def test_a_pipe_is_no_manifest(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(TutelageError, match="no file, but a folder, a pipe"):
        read_catalog(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,label\na.jpg," + b"x" * 200_000, "field larger than field limit"),
        (b"image,label\na\0.jpg,ant\n", "data row 1 holds a NUL byte"),
        ("image,label\na.jpg,ant\n".encode("utf-16"), "is not UTF-8"),
        ("image,label\na.jpg,ant\n".encode("utf-16-be"), "lacks the column image and label"),
        (b'image,label\na.jpg,"ant\nb.jpg,bee\n', "line break.*is a quote left open"),
        (b"image,label\na.jpg,x\0y\n", "control character"),
        (b"image,label,label\na.jpg,ant,bee\n", "column label twice"),
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


def test_class_names_of_thousands_of_digits_are_sorted(tmp_path):
    for name in "abc":
        put(tmp_path / f"{name}.jpg")
    rows = f"image,label\na.jpg,{'9' * 5000}\nb.jpg,10\nc.jpg,9\n"
    catalog = read_catalog(put(tmp_path / "m.csv", rows.encode()))
    assert catalog.classes == ("10", "9", "9" * 5000)


def write_parquet(path, meta=None, **columns):
    table = pa.table(columns)
    if meta is not None:
        table = table.replace_schema_metadata({"huggingface": meta})
    pq.write_table(table, path)
    return path


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
        read_catalog(write_parquet(tmp_path / "m.parquet", **{"image": TWO_IMAGES, **columns}))


def test_a_number_in_the_place_of_bytes_is_unreadable_and_allocates_nothing(tmp_path):
    images = [{"bytes": 10**15}, {"bytes": None}]
    catalog = read_catalog(write_parquet(tmp_path / "m.parquet", image=images, label=["a", None]))
    for row in range(2):
        with pytest.raises(OSError, match="no image bytes"):
            catalog.source.read(row)


def test_dictionary_encoded_columns_are_read(tmp_path):
    labels = pa.array(["a", "b"]).dictionary_encode()
    path = write_parquet(tmp_path / "m.parquet", image=TWO_IMAGES.dictionary_encode(), label=labels)
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
    path = write_parquet(tmp_path / "m.parquet", meta, image=TWO_IMAGES, label=[0, 1])
    with pytest.raises(TutelageError, match=r"metadata of Hugging Face|class names of the data"):
        read_catalog(path)


@pytest.mark.parametrize("labels", [["x", "y"], [0.5, 0.0], [0, 7]])
def test_labels_that_are_no_numbers_of_the_class_names_are_refused(labels, tmp_path):
    meta = '{"info": {"features": {"label": {"names": ["a", "b"]}}}}'
    with pytest.raises(TutelageError, match="there are 2 class names"):
        read_catalog(write_parquet(tmp_path / "m.parquet", meta, image=TWO_IMAGES, label=labels))


def test_a_footer_that_claims_more_rows_than_bytes_is_refused(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "m.parquet", image=TWO_IMAGES, label=["a", "b"])
    size = path.stat().st_size
    opened = pq.ParquetFile

    class Lying(opened):
        @property
        def metadata(self):
            return type("Metadata", (), {"num_rows": size + 1})

    monkeypatch.setattr(pq, "ParquetFile", Lying)
    with pytest.raises(TutelageError, match=f"claims {size + 1:,} rows in {size:,} bytes"):
        read_catalog(path)


def test_an_empty_class_folder_is_left_out_and_said(tree):
    (tree / "train/moth").mkdir()
    catalog = read_catalog(tree)
    assert "moth" not in catalog.classes
    assert catalog.warnings == (
        "class folder train/moth is empty: left out; add images or delete it",
    )


def test_what_is_left_out_is_counted(tree):
    put(tree / "train/ant/notes.txt")
    put(tree / "readme.md")
    put(tree / "train/loose.jpg")
    put(tree / "extra/x.jpg")
    catalog = read_catalog(tree)
    said = " ".join(catalog.warnings)
    assert len(catalog) == 7
    assert "2 other files are ignored" in said
    assert "1 images outside a class folder" in said
    assert "folder extra is left out" in said


def test_hidden_files_and_folders_are_not_seen(tree):
    before = read_catalog(tree)
    put(tree / "train/ant/.a.jpg")
    put(tree / "train/ant/._a.jpg")
    put(tree / "train/.thumbs/a.jpg")
    put(tree / "train/ant/.thumbs/a.jpg")
    put(tree / ".git/x.jpg")
    after = read_catalog(tree)
    assert after.names == before.names
    assert after.warnings == ()


def test_images_that_cannot_be_decoded_are_listed_not_overlooked(tree):
    put(tree / "train/ant/phone.HEIC")
    assert "train/ant/phone.HEIC" in read_catalog(tree).names


def test_links_to_files_and_class_folders_are_followed(tmp_path):
    put(tmp_path / "elsewhere/a.jpg", b"linked")
    put(tmp_path / "root/train/bees/b.jpg")
    (tmp_path / "root/train/bees/link.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "root/train/ants").symlink_to(tmp_path / "elsewhere")
    catalog = read_catalog(tmp_path / "root")
    assert catalog.names == ("train/ants/a.jpg", "train/bees/b.jpg", "train/bees/link.jpg")
    assert catalog.source.read(0) == catalog.source.read(2) == b"linked"


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_file_name_that_is_no_text(tmp_path):
    put(tmp_path / "ants" / os.fsdecode(b"caf\xe9.jpg"), b"bytes")
    catalog = read_catalog(tmp_path)
    assert catalog.names == ("ants/caf\\xe9.jpg",)
    assert catalog.source.read(0) == b"bytes"


def test_whole_number_classes_are_in_numeric_order(tmp_path):
    for name in ["10", "9", "2"]:
        put(tmp_path / name / "a.jpg")
    assert read_catalog(tmp_path).classes == ("2", "9", "10")


def test_nothing_to_read(tmp_path):
    with pytest.raises(TutelageError, match="does not exist"):
        read_catalog(tmp_path / "no")
    with pytest.raises(TutelageError, match=r"no images.*expected train/<class>"):
        read_catalog(tmp_path)
    (tmp_path / "train/ants").mkdir(parents=True)
    with pytest.raises(TutelageError, match="class folder train/ants is empty"):
        read_catalog(tmp_path)
    with pytest.raises(TutelageError, match="neither a folder"):
        read_catalog(put(tmp_path / "a.xlsx"))


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
        ("", "lacks the column image and label"),
        ("image,label\n", "lists no images"),
        ("file,label\na.jpg,1\n", r"lacks the column image; found: file, label"),
        ("image,class\nimages/a.jpg,1\n", r"lacks the column label; found: image, class"),
        ("image,label,split\nimages/a.jpg,1,dev\n", "unknown split 'dev'; use train, val, test"),
        ("image,label\nimages/a.jpg,1\nimages/a.jpg,2\n", r"more than once \(first: images/a.jpg"),
        ("image,label\n,1\n", "data row 1 has no image"),
        ("image,label\nimages/a,b.jpg,1\n", "data row 1 has 3 cells, the header 2"),
        ("image,label\nno/a.jpg,1\n", "none of the 1 images exists.*relative to the manifest"),
    ],
)
def test_a_manifest_that_contradicts_itself(tmp_path, text, message):
    with pytest.raises(TutelageError, match=message):
        read_catalog(manifest(tmp_path, text))


def test_a_manifest_in_another_encoding(tmp_path):
    with pytest.raises(TutelageError, match="save it as CSV UTF-8"):
        read_catalog(manifest(tmp_path, "image,label\nimages/a.jpg,Käfer\n", "latin-1"))


def parquet(path, columns, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


BYTES = [f"image {i}".encode() for i in range(1000)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("group", [1000, 300, 7])
def test_parquet_bytes_in_any_order(tmp_path, kind, group):
    columns = {"image": pa.array(BYTES, kind), "label": ["a", None] * 500}
    path = parquet(tmp_path / "p.parquet", columns, row_group_size=group)
    catalog = read_catalog(path)
    assert catalog.names[999] == "p.parquet#999"
    assert catalog.labels[:2].tolist() == [0, -1]
    random = np.random.default_rng(0).permutation(1000)[:60]
    for order in [range(1000), range(999, 0, -50), random]:
        assert [catalog.source.read(int(i)) for i in order] == [BYTES[i] for i in order]
    chosen = catalog.select(random)
    assert chosen.source.read(5) == BYTES[random[5]]
    assert chosen.names[5] == f"p.parquet#{random[5]}"
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(catalog.source.read, range(1000))) == BYTES


def test_parquet_in_order_decodes_each_batch_once(tmp_path, monkeypatch):
    path = parquet(tmp_path / "p.parquet", {"image": BYTES, "label": ["a"] * 1000})
    catalog = read_catalog(path)
    batches = []

    class Counting:
        def __init__(self, file):
            self.file, self.metadata = file, file.metadata

        def iter_batches(self, *arguments):
            for batch in self.file.iter_batches(*arguments):
                batches.append(batch)
                yield batch

    open_parquet = catalog_module.open_parquet
    monkeypatch.setattr(catalog_module, "open_parquet", lambda path: Counting(open_parquet(path)))
    nearly = [*range(130), 100, 127, *range(130, 1000)]  # as threads in a pool read
    assert [catalog.source.read(i) for i in nearly] == [BYTES[i] for i in nearly]
    assert len(batches) == 8
    assert max(map(len, batches)) == 128


def test_parquet_names_from_the_file_column_when_unique(tmp_path):
    columns = {"image": BYTES[:3], "label": ["x", "y", "x"], "split": [None, "val", "test"]}
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
    catalog = read_catalog(parquet(tmp_path / "p.parquet", {"image": BYTES[:3], "label": labels}))
    assert catalog.classes == classes
    assert catalog.labels.tolist() == indices


def test_hugging_face_struct_and_class_names(tmp_path):
    image = [{"bytes": data, "path": "x.jpg"} for data in BYTES[:3]]
    meta = {"info": {"features": {"label": {"names": ["zebra", "ant"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": image, "label": [0, 1, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps(meta)})
    pq.write_table(table, tmp_path / "p.parquet")
    catalog = read_catalog(tmp_path / "p.parquet")
    assert [v[0] for v in by_name(catalog).values()] == ["zebra", "ant", None]
    assert [catalog.source.read(i) for i in range(3)] == BYTES[:3]


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


def test_a_parquet_row_without_bytes(tmp_path):
    path = parquet(tmp_path / "p.parquet", {"image": [None, b"b"], "label": ["x", "y"]})
    catalog = read_catalog(path)
    with pytest.raises(OSError, match="no image bytes"):
        catalog.source.read(0)
    assert catalog.source.read(1) == b"b"


def test_parquet_that_cannot_be_used(tmp_path):
    with pytest.raises(TutelageError, match=r"lacks the column image; found: img, label"):
        read_catalog(parquet(tmp_path / "a.parquet", {"img": [b"x"], "label": ["a"]}))
    with pytest.raises(TutelageError, match=r"holds int64; expected paths, bytes"):
        read_catalog(parquet(tmp_path / "b.parquet", {"image": [1], "label": ["a"]}))
    with pytest.raises(TutelageError, match="not a readable Parquet file"):
        read_catalog(put(tmp_path / "c.parquet", b"PAR1 nonsense"))


def test_a_damaged_page_is_an_oserror_and_later_reads_recover(tmp_path):
    random = np.random.default_rng(0)
    image = [random.bytes(2000) for _ in range(40)]
    path = parquet(
        tmp_path / "p.parquet",
        {"image": image, "label": ["a"] * 40},
        row_group_size=20,
        compression="zstd",
        use_dictionary=False,
    )
    data = bytearray(path.read_bytes())
    place = data.index(image[10])
    data[4:place] = bytes(place - 4)  # the first row group's page header too
    path.write_bytes(data)
    catalog = read_catalog(path)
    for _ in range(2):
        with pytest.raises(OSError, match="damaged"):
            catalog.source.read(10)
        assert catalog.source.read(30) == image[30]


def test_signatures_change_with_the_file(tmp_path):
    file = put(tmp_path / "ants/a.jpg", b"one")
    put(tmp_path / "ants/b.jpg", b"one")
    source = read_catalog(tmp_path).source
    first = source.signature(0)
    assert first == source.signature(0) != source.signature(1)
    os.utime(file, ns=(1, 1))
    touched = source.signature(0)
    assert touched != first
    file.write_bytes(b"two")  # same size
    os.utime(file, ns=(1, 1))  # and the old time put back
    assert source.signature(0) != touched
    file.unlink()
    assert isinstance(source.signature(0), str)


def test_parquet_signatures_differ_by_row(tmp_path):
    path = parquet(tmp_path / "p.parquet", {"image": BYTES[:2], "label": ["a", "b"]})
    source = read_catalog(path).source
    assert source.signature(0) != source.signature(1)


def test_catalog_from_arrays_and_select(tmp_path):
    paths = [put(tmp_path / f"{i}.jpg", bytes([i])) for i in range(4)]
    names, splits = ["d", "c", "b", "a"], ["train", "train", "val", "test"]
    catalog = catalog_from_arrays(names, [1, -1, 0, 1], splits, ["no", "yes"], paths)
    assert by_name(catalog)["d"] == ("yes", "train")
    some = catalog.select([3, 1])
    assert by_name(some) == {"a": ("yes", "test"), "c": (None, "train")}
    assert some.classes == ("no", "yes")
    assert [some.source.read(i) for i in range(2)] == [b"\3", b"\1"]
    assert len(catalog.select([])) == 0
    assert catalog.select(np.array([2])).names == ("b",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a", "a"]}, "more than once"),
        ({"names": ["a"]}, "different lengths"),
        ({"labels": [0, 2]}, "labels go from 0 to 2; expected -1"),
        ({"labels": [-2, 0]}, "labels go from -2"),
        ({"splits": ["train", "pool"]}, "unknown split 'pool'"),
    ],
)
def test_catalog_from_arrays_refuses(change, message):
    good = {"names": ["a", "b"], "labels": [0, 1], "splits": ["train"] * 2}
    arguments = good | {"classes": ["x", "y"], "paths": ["a", "b"]} | change
    with pytest.raises(TutelageError, match=message):
        catalog_from_arrays(**arguments)
