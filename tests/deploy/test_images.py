import io
import os
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pools
import pytest
from listening import running
from PIL import Image

from tutelage.data.decode import UnreadableImage, decode
from tutelage.deploy import images as fetch
from tutelage.deploy.images import find_images, is_one
from tutelage.system.errors import TutelageError

GREY = np.full((4, 5, 3), 90, dtype=np.uint8)
BELOW = ["sub/deep/new\nline.png", "sub/with space.png", "sub/사진.png"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with images of odd names in it and below."""
    for name in ("a.png", "b.jpg", *BELOW):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREY).save(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", "BMW.png"):
        (tmp_path / name).write_text("no image" * (name != "BMW.png"))
    (tmp_path / "empty").mkdir()
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
        ("sub", BELOW),
        (["b.jpg", Path("a.png")], ["b.jpg", "a.png"]),
        ("a*.png", ["a.png"]),
        ("[a-b].*", ["a.png", "b.jpg"]),
        ("*", ["BMW.png", "a.png", "b.jpg", *BELOW]),
        ("**/*.png", ["BMW.png", "a.png", *BELOW]),
        ("sub/**", BELOW),
        ("{b,a}.*", ["b.jpg", "a.png"]),
        ([], []),
    ],
)
def test_paths_and_patterns(photos: Path, given: Any, expected: list[str]) -> None:
    assert sorted(names(given)) == sorted(expected)


def test_a_file_called_like_a_pattern_is_itself(photos: Path) -> None:
    (photos / "[ab].png").write_bytes((photos / "a.png").read_bytes())
    assert names("[ab].png") == ["[ab].png"]
    assert names("[a].png") == ["a.png"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("absent.png", "no such image or folder: absent.png; did you mean a.png"),
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
    with pytest.raises(TutelageError, match=said):
        find_images(given)


def test_images_in_memory_are_shown_like_files(photos: Path) -> None:
    turned = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    turned.getexif()[0x0112] = 6
    for image in (turned, Image.new("RGBA", (5, 4), (0, 0, 0, 0))):
        content = io.BytesIO()
        image.save(content, format="PNG", exif=image.getexif())
        (found,) = find_images(image)
        np.testing.assert_array_equal(found.pixels(), decode(content.getvalue()))
    for grey in (GREY, GREY[:, :, 0]):
        (found,) = find_images(grey)
        np.testing.assert_array_equal(found.pixels(), GREY)
    assert names([GREY, turned, "a.png", GREY]) == ["image 0", "image 1", "a.png", "image 3"]
    several = np.stack([GREY, GREY])
    assert names(several) == ["image 0", "image 1"]
    assert [is_one(given) for given in (GREY, turned, "sub", several, ["a.png"])] == [
        *(True, True, True, False, False)
    ]
    content = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(content, format="PNG")
    (found,) = find_images(Image.open(io.BytesIO(content.getvalue()[:1000])))
    with pytest.raises(UnreadableImage, match="is damaged"):
        found.pixels()


@pytest.mark.parametrize("kind", [".tsv", ".jsonl", "tar", "folder of tars"])
def test_what_run_reads_gives_its_images(kind: str, tmp_path: Path) -> None:
    content = pools.png(4)
    (tmp_path / "a.png").write_bytes(content)
    given = tmp_path / f"all{kind}"
    if kind == ".tsv":
        given.write_text("image\tlabel\na.png\tant\n")
    elif kind == ".jsonl":
        given.write_text('{"image": "a.png", "label": "ant"}\n')
    else:
        (tmp_path / "tars").mkdir()
        given = tmp_path / "tars"
        tar = pools.write_tar(given / "train-000.tar", {"a.png": content, "a.cls": b"ant"})
        given = tar if kind == "tar" else given
    (picture,) = find_images(given)
    np.testing.assert_array_equal(picture.pixels(), decode(content))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_gives_the_images_of_all_splits(suffix: str, photos: Path) -> None:
    paths = [os.path.join("..", name) for name in ("a.png", "b.jpg", "sub/사진.png")]
    columns = {"image": paths, "label": ["x", "", "y"], "split": ["train", "", "test"]}
    (photos / "list").mkdir()
    path = photos / "list" / f"all{suffix}"
    if suffix == ".csv":
        rows = [",".join(row) for row in zip(*columns.values(), strict=True)]
        path.write_text("image,label,split\n" + "\n".join(rows), encoding="utf-8-sig")
    else:
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    found = find_images(path)
    assert sorted(picture.name for picture in found) == sorted(paths)
    assert {picture.pixels().shape for picture in found} == {GREY.shape}


# --- stdin


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    given = io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=given))
    return given


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_an_image_on_stdin(format: str, stdin: io.BytesIO) -> None:
    Image.fromarray(GREY).save(stdin, format=format)
    stdin.seek(0)
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
        (b"\n", "stdin is empty"),
        (b"a.png\n-\n", "stdin is empty"),
    ],
)
def test_names_on_stdin(
    content: bytes, expected: list[str] | str, photos: Path, stdin: io.BytesIO
) -> None:
    stdin.write(content)
    stdin.seek(0)
    if isinstance(expected, list):
        assert names("-") == expected
        return
    with pytest.raises(TutelageError, match=expected):
        find_images("-")


# --- addresses


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.agents.append(self.headers["User-Agent"])  # type: ignore[attr-defined]
        self.send_response({"/moved": 302, "/gone.png": 404}.get(self.path, 200))
        self.send_header("Location", "/a.png")
        self.end_headers()
        self.wfile.write(b"x" * 1000)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with running(HTTPServer(("127.0.0.1", 0), Answers)) as server:
        server.agents = []  # type: ignore[attr-defined]
        yield server


def fetched(url: str) -> bytes:
    ((name, read),) = fetch.find_remote(url)
    assert name == url
    return read()


def test_a_web_server_is_asked_for_one_image(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"http://127.0.0.1:{server.server_port}"
    assert fetched(f"{root}/a.png?w=1") == fetched(f"{root}/moved") == b"x" * 1000
    assert all(agent.startswith("tutelage/") for agent in server.agents)  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="the server answers 404, Not Found"):
        fetched(f"{root}/gone.png")
    for name, value, said in (
        ("DOWNLOAD_S", -1, "cannot be fetched within -1 s"),
        ("MAX_BYTES", 999, "1,000 bytes or more; expected at most 999"),
    ):
        monkeypatch.setattr(fetch, name, value)
        with pytest.raises(OSError, match=said):
            fetched(f"{root}/a.png")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "http://[", "https:///a.png"])
def test_no_server_is_a_reason_in_words(url: str) -> None:
    with pytest.raises(OSError, match="cannot be fetched: ") as error:
        fetched(url)
    assert "urlopen" not in str(error.value)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store in memory with some files."""
    system = pytest.importorskip("fsspec").filesystem("memory")
    system.pipe({f"/fetched/{name}": name.encode() for name in (
        "a.png", "b.jpg", "notes.txt", "deep/c.png", "[1].png")})  # fmt: skip
    system.pipe("/empty/a.png", b"")
    return system


def test_a_store_is_asked_for_images_folders_and_patterns(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = "memory:///fetched"

    def below(url: str) -> dict[str, bytes]:
        return {name.rpartition("fetched/")[2]: read() for name, read in fetch.find_remote(url)}

    assert below(f"{root}/a.png") == {"a.png": b"a.png"}
    assert list(below(root)) == ["[1].png", "a.png", "b.jpg", "deep/c.png"]
    assert list(below(f"{root}/?.*")) == ["a.png", "b.jpg"]
    assert list(below(f"{root}/{{b.jpg,deep}}")) == ["b.jpg", "deep/c.png"]
    for url, said in (
        (f"{root}/*.gif", r"no images in .*/fetched/\*\.gif"),
        ("nothing://x/a.png", "Protocol not known: nothing"),
    ):
        with pytest.raises(TutelageError, match=said):
            fetch.find_remote(url)
    with pytest.raises(OSError, match="cannot be fetched: "):
        below(f"{root}/absent.png")
    monkeypatch.setattr(fetch, "MAX_BYTES", 3)
    with pytest.raises(OSError, match="5 bytes or more; expected at most 3"):
        below(f"{root}/a.png")


@pytest.mark.parametrize("obeys", [True, False])
def test_of_an_image_of_unknown_size_no_more_is_read_than_an_image_may_have(
    store: Any, monkeypatch: pytest.MonkeyPatch, obeys: bool
) -> None:
    store.pipe({"/unsized/large.png": b"12345", "/unsized/small.png": b"123"})
    info, cat, asked = store.info, store.cat_file, []

    def cut(path: str, start: int | None = None, end: int | None = None) -> bytes:
        asked.append((start, end))
        return cat(path, start, end) if obeys else cat(path)

    monkeypatch.setattr(type(store), "info", lambda _, path: {**info(path), "size": None})
    monkeypatch.setattr(type(store), "cat_file", lambda _, path, *a, **k: cut(path, *a, **k))
    monkeypatch.setattr(fetch, "MAX_BYTES", 3)
    assert fetched("memory:///unsized/small.png") == b"123"
    with pytest.raises(OSError, match=r"it has . bytes or more; expected at most 3"):
        fetched("memory:///unsized/large.png")
    assert asked == [(0, 4), (0, 4)]


def test_an_empty_image_is_read_without_a_range(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 answers a range of an object without bytes with an error."""
    asked = []
    monkeypatch.setattr(type(store), "cat_file", lambda *a, **k: asked.append((a[1:], k)) or b"")
    assert fetched("memory:///empty/a.png") == b""
    assert asked == [(("/empty/a.png",), {})]
