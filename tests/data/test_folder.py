"""A folder tree is a catalog, whatever else lies in it."""

import inspect
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from catalogs import by_name, put

from tutelage.data.layout import files_below, image_files
from tutelage.data.open import read_catalog
from tutelage.system.errors import TutelageError


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


def test_links_to_folders_are_followed_for_a_class_but_not_below(tree, tmp_path):
    put(tmp_path / "far/a.jpg")
    (tree / "train/fly").symlink_to(tmp_path / "far")
    (tree / "train/ant/more").symlink_to(tmp_path / "far")
    catalog = read_catalog(tree)
    assert by_name(catalog)["train/fly/a.jpg"] == ("fly", "train")
    assert len(catalog) == 8
    (warning,) = catalog.warnings
    assert warning.startswith("folders that are links or cannot be opened are left out: 1 (first")
    assert str(tree / "train/ant/more") in warning


def test_links_that_lead_up_end(tree):
    places = ("train/ant/up", "train/up", "val/ant/up")
    for place in places:
        (tree / place).symlink_to(tree)
    (tree / "unlabelled").symlink_to(".")
    catalog = read_catalog(tree)
    assert len(catalog) == 7
    (warning,) = catalog.warnings
    assert warning.startswith("folders that are links or cannot be opened are left out: 4 (")
    assert len(image_files(tree)) == 7


def test_links_that_lead_in_a_circle_alone_in_their_folders_end(tmp_path):
    put(tmp_path / "photos/notes.txt")
    put(tmp_path / "far/notes.txt")
    (tmp_path / "photos/a").symlink_to(tmp_path / "far")
    (tmp_path / "far/b").symlink_to(tmp_path / "photos")
    with pytest.raises(TutelageError, match="no images in"):
        read_catalog(tmp_path / "photos")


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
    assert "are left out: 1 (" in catalog.warnings[0]


def test_a_tree_deeper_than_pythons_stack(tmp_path):
    put(tmp_path / "/".join(["ant", *"d" * 150, "b.jpg"]))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert len(read_catalog(tmp_path)) == 1
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
    assert "are left out: 1 (" in catalog.warnings[0]


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
    assert catalog.source.read(catalog.names.index("ant/\\xff.png")) == b"\xff"
    for name in (*catalog.names, *catalog.classes):
        name.encode()  # tables and pages are UTF-8


def test_an_empty_class_folder_is_left_out_and_said(tree):
    (tree / "train/moth").mkdir()
    catalog = read_catalog(tree)
    assert "moth" not in catalog.classes
    assert catalog.warnings == (
        "class folder train/moth holds no images: left out; add some or delete it",
    )


def test_results_among_the_classes_are_no_class(tmp_path: Path) -> None:
    """As where a run was started in the folder of its images: results go to runs/1."""
    for name in ("ant/a.png", "bee/b.png", "runs/1/student/golden/1.png"):
        put(tmp_path / name)
    for name in ("config.json", "events.jsonl"):
        (tmp_path / "runs" / "1" / name).write_text("{}")
    catalog = read_catalog(tmp_path)
    assert catalog.names == ("ant/a.png", "bee/b.png")
    assert catalog.classes == ("ant", "bee")
    assert "class folder runs holds no images: left out" in catalog.warnings[0]
    assert [*files_below(tmp_path / "runs" / "1", [])] != []  # asked for by name, they are read


def test_links_to_files_and_class_folders_are_followed(tmp_path):
    put(tmp_path / "elsewhere/a.jpg", b"linked")
    put(tmp_path / "root/train/bees/b.jpg")
    (tmp_path / "root/train/bees/link.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    (tmp_path / "root/train/ants").symlink_to(tmp_path / "elsewhere")
    catalog = read_catalog(tmp_path / "root")
    assert catalog.names == ("train/ants/a.jpg", "train/bees/b.jpg", "train/bees/link.jpg")
    assert catalog.source.read(0) == catalog.source.read(2) == b"linked"
