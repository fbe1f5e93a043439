"""What IMAGES stand for."""

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tutelage.data.decode import UnreadableImage, decode
from tutelage.deploy.images import find_images, is_one, stands_for_several
from tutelage.system.errors import TutelageError

GREY = np.full((4, 5, 3), 90, dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with images of odd names in it and below."""
    names = ("a.png", "b.jpg", "sub/with space.png", "sub/사진.png", "sub/deep/new\nline.png")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREY).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(images: Any) -> list[str]:
    return [picture.name for picture in find_images(images)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.png", ["a.png"]),
        (Path("a.png"), ["a.png"]),
        ("notes.txt", ["notes.txt"]),  # named as an image: reading it says why it is none
        ("sub", ["sub/deep/new\nline.png", "sub/with space.png", "sub/사진.png"]),
        (["b.jpg", Path("a.png")], ["b.jpg", "a.png"]),
        ("*.png", ["a.png"]),
        ("*", ["a.png", "b.jpg", "sub/deep/new\nline.png", "sub/with space.png", "sub/사진.png"]),
        ("**/*.png", ["a.png", "sub/deep/new\nline.png", "sub/with space.png", "sub/사진.png"]),
        ("sub/**", ["sub/deep/new\nline.png", "sub/with space.png", "sub/사진.png"]),
        ("{b,a}.*", ["b.jpg", "a.png"]),
        ([], []),
    ],
)
def test_paths_and_patterns(photos: Path, given: Any, expected: list[str]) -> None:
    assert sorted(names(given)) == sorted(expected)
    assert len(names(given)) == len(expected)


def test_a_file_called_like_a_pattern_is_itself(photos: Path) -> None:
    (photos / "[ab].png").write_bytes((photos / "a.png").read_bytes())
    assert names("[ab].png") == ["[ab].png"]
    assert names("[a].png") == ["a.png"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("absent.png", "no such image or folder: absent.png$"),
        ("fold", "no such image or folder: fold$"),
        ("su/deep", r"no such image or folder: su/deep; did you mean sub/deep\?$"),
        ("*.gif", r"no image matches \*\.gif"),
        ("{a,z}.png", r"no image matches z\.png"),
        ("empty", "no images in empty"),
        ("", "the name of an image is empty"),
        (Path("https://x.org/a.png"), "give an address as a str, not a Path"),
        (7, "the images are int; expected a path, a PIL image"),
        (b"abc", "the images are bytes"),
        (["a.png", None], "image 1 is NoneType; expected a path"),
        (np.zeros((4, 4, 3)), r"image 0 is float64 \(4, 4, 3\); expected a path"),
        ([np.zeros((4, 4, 4), np.uint8)], r"image 0 is uint8 \(4, 4, 4\)"),
    ],
)
def test_what_is_no_image_is_refused(photos: Path, given: Any, said: str) -> None:
    (photos / "empty").mkdir()
    with pytest.raises(TutelageError, match=said):
        find_images(given)


def test_images_in_memory_are_shown_like_files(photos: Path) -> None:
    turned = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    turned.getexif()[0x0112] = 6
    clear = Image.new("RGBA", (5, 4), (0, 0, 0, 0))
    for image in (turned, clear):
        content = io.BytesIO()
        image.save(content, format="PNG", exif=image.getexif())
        (found,) = find_images(image)
        np.testing.assert_array_equal(found.pixels(), decode(content.getvalue()))
    for image in (GREY, GREY[:, :, 0]):
        (found,) = find_images(image)
        np.testing.assert_array_equal(found.pixels(), GREY)
    assert names([GREY, turned, "a.png", GREY]) == ["image 0", "image 1", "a.png", "image 3"]
    assert names(np.stack([GREY, GREY])) == ["image 0", "image 1"]
    content = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(content, format="PNG")
    (found,) = find_images(Image.open(io.BytesIO(content.getvalue()[:1000])))
    with pytest.raises(UnreadableImage, match="is damaged"):
        found.pixels()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_gives_the_images_of_all_splits(suffix: str, photos: Path) -> None:
    columns = {
        "image": ["a.png", "../b.jpg", "sub/사진.png"],
        "label": ["x", "", "y"],
        "split": ["train", "", "test"],
    }
    (photos / "list").mkdir()
    path = photos / "list" / f"all{suffix}"
    columns["image"] = [os.path.join("..", name) for name in ("a.png", "b.jpg", "sub/사진.png")]
    if suffix == ".csv":
        rows = [",".join(row) for row in zip(*columns.values(), strict=True)]
        path.write_text("image,label,split\n" + "\n".join(rows), encoding="utf-8-sig")
    else:
        arrow = pytest.importorskip("pyarrow")
        arrow.parquet = pytest.importorskip("pyarrow.parquet")
        arrow.parquet.write_table(arrow.table(columns), path)
    found = find_images(path)
    assert sorted(picture.name for picture in found) == sorted(columns["image"])
    assert {picture.pixels().shape for picture in found} == {GREY.shape}


def given_on_stdin(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_an_image_on_stdin(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.fromarray(GREY).save(content, format=format)
    given_on_stdin(content.getvalue(), monkeypatch)
    (found,) = find_images("-")
    assert found.name == "stdin"
    assert found.pixels().shape == GREY.shape


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a.png\nsub/with space.png\n", ["a.png", "sub/with space.png"]),
        (b"a.png\r\n\r\nb.jpg", ["a.png", "b.jpg"]),
        ("\ufeffsub/사진.png\n*.jpg\n".encode(), ["sub/사진.png", "b.jpg"]),
        (b"sub/deep/new\nline.png\0a.png\0", ["sub/deep/new\nline.png", "a.png"]),
        (b"BMW.png\n", ["BMW.png"]),
    ],
)
def test_names_on_stdin(
    content: bytes, expected: list[str], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "BMW.png").write_bytes(b"")
    given_on_stdin(content, monkeypatch)
    assert names("-") == expected


@pytest.mark.parametrize(("content", "said"), [(b"\n", "is empty"), (b"a.png\n-\n", "itself")])
def test_what_stdin_must_not_hold(
    content: bytes, said: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_on_stdin(content, monkeypatch)
    with pytest.raises(TutelageError, match=f"stdin.* {said}"):
        find_images("-")


@pytest.mark.parametrize(
    ("given", "one", "several"),
    [
        ("a.png", True, False),
        ("absent.png", True, False),
        ("sub", True, True),
        ("*.png", True, True),
        ("-", True, True),
        ("https://x.org/a.png?size=[3]", True, False),
        ("s3://bucket/a.png", True, False),
        ("s3://bucket/folder", True, True),
        ("s3://bucket/*.png", True, True),
        (GREY, True, False),
        (np.stack([GREY, GREY]), False, False),
        (np.array(["a.png", "b.jpg"]), False, False),
        (["a.png"], False, False),
    ],
)
def test_what_is_one_and_what_may_be_several(
    photos: Path, given: Any, one: bool, several: bool
) -> None:
    assert (is_one(given), stands_for_several(given)) == (one, several)
