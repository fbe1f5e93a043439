"""Tars are the catalog of the images in them, whatever else is in there."""

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from tarred import tar_tree, write_tar

from tutelage.data.catalog import read_catalog
from tutelage.data.memory import read_path
from tutelage.data.store import open_store
from tutelage.data.webdataset import has_tars
from tutelage.system.errors import TutelageError


def png(shade):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def contents(catalog):
    return [catalog.source.read(i) for i in range(len(catalog))]


def test_labels_splits_and_bytes_are_those_of_the_members(tmp_path):
    write_tar(tmp_path / "train-0001.tar", [("a/1.png", png(1)), ("a/1.cls", b"bee\n")])
    write_tar(
        tmp_path / "train-0000.tar",
        [("1.png", png(2)), ("1.json", b'{"label": "ant"}'), ("2.png", png(3)), ("2.cls", b"-1")],
    )
    write_tar(tmp_path / "unlabeled-0.tar", [("1.png", png(4)), ("1.cls", b"wasp")])
    write_tar(tmp_path / "val/x.tar", [("1.png", png(5)), ("1.cls", b"ant")])
    write_tar(tmp_path / "test/0.tar", [("1.png", png(6)), ("1.cls", b"bee")])
    catalog = read_path(tmp_path)
    assert catalog.names == (
        *("test/0.tar/1.png", "train-0000.tar/1.png", "train-0000.tar/2.png"),
        *("train-0001.tar/a/1.png", "unlabeled-0.tar/1.png", "val/x.tar/1.png"),
    )
    assert catalog.classes == ("ant", "bee")
    assert catalog.labels.tolist() == [1, 0, -1, 1, -1, 0]
    assert catalog.splits.tolist() == ["test", "train", "train", "train", "train", "val"]
    assert contents(catalog) == [png(n) for n in (6, 2, 3, 1, 4, 5)]
    assert contents(catalog.select([4, 0])) == [png(4), png(6)]
    assert catalog.warnings == ()


def test_classes_by_number_are_sorted_by_it(tmp_path):
    files = [
        (f"{n}.{kind}", c) for n in (10, 9) for kind, c in (("png", png(n)), ("cls", b"%d" % n))
    ]
    catalog = read_path(write_tar(tmp_path / "x.tar", files))
    assert catalog.classes == ("9", "10")
    assert catalog.splits.tolist() == ["train", "train"]
    assert catalog.names == ("x.tar/10.png", "x.tar/9.png")


@pytest.mark.parametrize(
    ("name", "split", "labelled"),
    [
        *(("train-000000.tar", "train", True), ("imagenet-val-0.tar", "val", True)),
        *(("validation/7.tar", "val", True), ("Test_00.tar", "test", True)),
        *(("unlabelled.tar", "train", False), ("train/unlabeled/0.tar", "train", False)),
        *(("shard-3.tar", "train", True), ("latest-0.tar", "train", True)),
    ],
)
def test_the_split_is_a_word_of_the_path(tmp_path, name, split, labelled):
    write_tar(tmp_path / name, [("1.png", png(1)), ("1.cls", b"a")])
    catalog = read_path(tmp_path)
    assert catalog.splits.tolist() == [split]
    assert (catalog.labels >= 0).tolist() == [labelled]


def test_a_path_of_two_splits_is_refused(tmp_path):
    write_tar(tmp_path / "train/test-0.tar", [("1.png", png(1))])
    with pytest.raises(TutelageError, match=r"train/test-0\.tar has the words .* test, train"):
        read_path(tmp_path)


def test_a_tree_of_files_and_its_tars_are_the_same_images(tmp_path):
    for number, place in enumerate(
        ["train/b/1", "train/a/1", "train/a/2", "test/b/1", "unlabeled/1"]
    ):
        path = tmp_path / "files" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    files = read_catalog(tmp_path / "files")
    tars = read_path(tar_tree(tmp_path / "files", tmp_path / "tars", per_tar=2))
    assert contents(tars) == contents(files)
    assert tars.classes == files.classes
    np.testing.assert_array_equal(tars.labels, files.labels)
    np.testing.assert_array_equal(tars.splits, files.splits)


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path):
    good = write_tar(tmp_path / "train-1.tar", [("1.png", png(1)), ("1.cls", b"a")])
    (tmp_path / "train-2.tar").write_bytes(b"no tar")
    cut = good.read_bytes()
    (tmp_path / "train-3.tar").write_bytes(cut[:2048])  # two headers, two members, no end
    with tarfile.open(tmp_path / "train-4.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("../up.png", "twice.png", "twice.png", "broken.png"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"png"))
    catalog = read_path(tmp_path)
    assert len(set(catalog.names)) == len(catalog.names)
    store = open_store(catalog, cache=tmp_path / "cache")
    assert [n for n, ok in zip(catalog.names, store.readable, strict=True) if ok] == [
        "train-1.tar/1.png",
        "train-3.tar/1.png",
    ]
    reasons = {name.rpartition(" ")[2]: why for name, why in store.reasons.items()}
    assert "symbolic link" in reasons["link.png"]
    assert "has .. in its name" in reasons["../up.png"]
    assert "there twice" in reasons["twice.png"]
    assert "not a JPEG" in reasons["train-4.tar/broken.png"]
    assert "no end marker" in reasons["train-3.tar"]
    assert "not a readable tar" in reasons["train-2.tar"]


def test_a_label_that_cannot_be_read_is_none_and_said(tmp_path):
    files = [("1.png", png(1)), ("1.json", b"{"), ("2.png", png(2)), ("2.cls", b"a")]
    catalog = read_path(write_tar(tmp_path / "train.tar", files))
    assert catalog.labels.tolist() == [-1, 0]
    (warning,) = catalog.warnings
    assert "1 label members cannot be read (first: train.tar/1.json" in warning


def test_no_images_is_an_error_with_a_reason(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.cls", b"a")])
    with pytest.raises(TutelageError, match=r"no images in the 1 tars of .* such as 0001\.jpg"):
        read_path(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(TutelageError, match="compressed with gzip"):
        read_path(tmp_path)


def test_a_signature_tells_members_apart_and_changes_with_the_tar(tmp_path):
    files = [("1.png", png(1)), ("2.png", png(2))]
    source = read_path(write_tar(tmp_path / "a.tar", files)).source
    assert source.signature(0) != source.signature(1)
    before = source.signature(0)
    write_tar(tmp_path / "a.tar", [*files, ("3.png", png(3))])
    assert source.signature(0) != before
    (tmp_path / "a.tar").unlink()
    assert source.signature(0) != before


def test_a_tar_that_became_shorter_is_an_unreadable_image(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("2.png", png(2))])
    source = read_path(path).source
    path.write_bytes(path.read_bytes()[:1100])
    with pytest.raises(OSError, match="bytes are there"):
        source.read(1)


def test_many_threads_read_at_once(tmp_path):
    files = [(f"{n:03}.png", png(n)) for n in range(200)]
    source = read_path(write_tar(tmp_path / "a.tar", files)).source
    order = np.random.default_rng(0).permutation(200)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, order)) == [png(n) for n in order]


def test_folders_of_image_files_stay_what_they_were(tmp_path):
    path = write_tar(tmp_path / "train/a/x.tar", [("1.png", png(1))])
    assert has_tars(tmp_path)
    assert has_tars(path)
    (tmp_path / "train/a/1.png").write_bytes(png(1))
    assert not has_tars(tmp_path)
    assert read_path(tmp_path).names == ("train/a/1.png",)
    assert not has_tars(tmp_path / "nowhere")
    hidden = write_tar(tmp_path / "other/.cache/x.tar", [("1.png", png(1))])
    assert not has_tars(hidden.parent.parent)
