"""The page that runs an exported model: its folder, and what it says in a real browser."""

import base64
import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from answering import write_model
from browser import browser, violations
from deployed import IMAGES, picture, small_model
from listening import running
from PIL import Image
from webpage import LOADED, answers, open_page, served, shown

from tutelage import api, cli
from tutelage.deploy import webpage
from tutelage.deploy.onnx import export_onnx
from tutelage.deploy.quantize import write_int8
from tutelage.deploy.webpage import VERSION, kept_archive, runtime_files
from tutelage.system.errors import TutelageError
from tutelage.system.files import cache_folder

CACHE = cache_folder()  # the user's: other tests put one of their own in its place
CLASSES = ("cat", "dog", "unknown", "<b>cow</b>")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.onnx", threshold=0.9)


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webpage, "runtime_files", lambda: {"ort.wasm.min.js": b"//"})


# --- onnxruntime-web: fetched once, compared, kept. The registry is one of our own


def archive() -> bytes:
    """What npm packs, as small as can be."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs",
                     "ort-wasm-simd-threaded.wasm", "ort.all.mjs"):  # fmt: skip
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    return packed.getvalue()


class Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A registry with that archive, whose checksum is now the release's, and an empty cache."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    with running(HTTPServer(("127.0.0.1", 0), Registry)) as server:
        server.content = archive()  # type: ignore[attr-defined]
        server.asked = []  # type: ignore[attr-defined]
        checksum = base64.b64encode(hashlib.sha512(server.content).digest()).decode()  # type: ignore[attr-defined]
        monkeypatch.setattr(webpage, "INTEGRITY", f"sha512-{checksum}")
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/npm/")
        yield server


def test_the_archive_is_fetched_once_and_kept(registry: HTTPServer) -> None:
    files = runtime_files()
    assert files["ort.wasm.min.js"] == b"ort.wasm.min.mjs"
    assert files["ort-wasm-simd-threaded.js"] == b"ort-wasm-simd-threaded.mjs"
    assert files["ort-wasm-simd-threaded.wasm"] == b"ort-wasm-simd-threaded.wasm"
    assert files["LICENSE"].startswith(b"MIT License")
    assert len(files) == 5  # with ThirdPartyNotices.txt
    assert runtime_files() == files
    name = f"onnxruntime-web-{VERSION}.tgz"
    assert registry.asked == [f"/npm/onnxruntime-web/-/{name}"]  # type: ignore[attr-defined]
    assert kept_archive().name == name  # what npm pack calls it


def test_another_archive_is_neither_used_nor_kept(registry: HTTPServer) -> None:
    registry.content = archive() + b"?"  # type: ignore[attr-defined]
    with pytest.raises(TutelageError, match=r"what http.* sends is not onnxruntime-web"):
        runtime_files()
    assert not kept_archive().exists()
    kept_archive().parent.mkdir()
    kept_archive().write_bytes(archive() + b"?")
    with pytest.raises(TutelageError, match=r"\.tgz is not onnxruntime-web .* delete it"):
        runtime_files()


def test_without_a_network_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:1")
    said = (
        r"is missing \(http://127\.0\.0\.1:1/onnxruntime-web/-/onnxruntime-web-.* run npm pack "
        rf"onnxruntime-web@{VERSION}, and put .* into {tmp_path}$"
    )
    with pytest.raises(TutelageError, match=said):
        runtime_files()


# --- the folder


@pytest.mark.usefixtures("no_runtime")
def test_the_folder_holds_the_page_and_what_it_needs(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "my page"
    words = ["export", str(exported), "--web", str(page), "--threshold", "g=0.25"]
    assert cli.main(words) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{page}: a page that runs {exported} in the browser (0.0 MB).")
    assert second == f"python -m http.server --bind localhost --directory '{page}'"
    files = {p.relative_to(page).as_posix(): p for p in page.rglob("*") if p.is_file()}
    assert files.keys() == {
        *("index.html", "page.json", "model.onnx", "onnxruntime/ort.wasm.min.js"),
        *webpage.PARTS,
    }
    assert files["model.onnx"].read_bytes() == exported.read_bytes()
    assert json.loads(files["page.json"].read_text()) == {
        "classes": ["r", "g"],
        "files": {"onnx": "model.onnx"},
        "unknown_threshold": 0.9,
        "decision_threshold": ["g", 0.25],
    }


def test_the_folder_appears_whole_or_not_at_all(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webpage, "runtime_files", lambda: {"no/such/folder.js": b""})
    with pytest.raises(OSError, match="folder"):
        api.export(exported, web=tmp_path / "page")
    assert [*tmp_path.iterdir()] == [exported]


@pytest.mark.usefixtures("no_runtime")
def test_nothing_is_overwritten_and_nothing_is_exported_anew(
    exported: Path, tmp_path: Path
) -> None:
    (tmp_path / "page").mkdir()
    api.export(exported, web=tmp_path / "page")  # an empty folder is as good as none
    with pytest.raises(TutelageError, match="page is there already and not empty; choose another"):
        api.export(exported, web=tmp_path / "page")
    with pytest.raises(TutelageError, match="there already"):
        api.export(exported, web=exported)
    others = {"int8": True, "view": True, "out": tmp_path / "x.onnx", "format": "hub"}
    for name, value in others.items():
        with pytest.raises(TutelageError, match=f"exported already; leave out --{name},"):
            api.export(exported, web=tmp_path / "other", **{name: value})
    with pytest.raises(TutelageError, match="one of the model's classes: r, g"):
        api.export(exported, web=tmp_path / "other", threshold="b=0.5")
    assert not (tmp_path / "other").exists()


# --- in the browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model whose thresholds decide on some of the pictures."""
    small = small_model(CLASSES, temperature=2.0)
    small.spec = dataclasses.replace(
        small.spec, unknown_threshold=-1.7, decision_threshold=("cat", 0.3)
    )
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    export_onnx(small, path)
    return path


@pytest.fixture(scope="module")
def address(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the page of that model is served; skipped where there is no onnxruntime-web."""
    with served(page_of(model, tmp_path_factory.mktemp("web"))) as where:
        yield where


def page_of(model: Path, parent: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(CACHE))
        try:
            return Path(api.export(model, web=parent / "page")["path"])
        except TutelageError as error:
            if not str(error).startswith("onnxruntime-web"):
                raise
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def page(chromium: Any, address: str) -> Any:
    """The page on a phone, with a camera that it may use."""
    context = chromium.new_context(**PHONE)
    context.grant_permissions(["camera"])
    return open_page(context, address)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of every kind that browsers show: shapes, modes, depths, orientations, two photos."""
    folder = tmp_path_factory.mktemp("pictures")
    colours, turned = Image.fromarray(picture(90, 140)), Image.Exif()
    turned[0x0112] = 6
    alpha = colours.convert("RGBA")
    alpha.putalpha(Image.fromarray(picture(90, 140, 1)[..., 0]))
    deep = Image.fromarray(picture(60, 50)[..., 0].astype("uint16") * 257 + 99)
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        **{f"{k}.png": (Image.fromarray(image), {}) for k, image in enumerate(IMAGES)},
        "turned.jpg": (colours, {"exif": turned}),
        "turned.png": (colours, {"exif": turned}),
        "progressive.jpg": (colours, {"progressive": True, "quality": 60}),
        "cmyk.jpg": (colours.convert("CMYK"), {}),
        "grey.jpg": (colours.convert("L"), {}),
        "large.jpg": (Image.fromarray(picture(2900, 2100)), {}),  # read in two strips
        "alpha.png": (alpha, {}),
        "alpha.webp": (alpha, {"lossless": True}),
        "profile.png": (colours, {"icc_profile": swapped_profile()}),
        "palette.png": (colours.convert("P"), {"transparency": 5}),
        "moving.gif": (colours, {"save_all": True, "append_images": [alpha.convert("L")]}),
        "deep.png": (deep, {}),
        "lossy.webp": (colours, {}),
        "plain.bmp": (colours, {}),
    }
    for name, (image, options) in files.items():
        image.save(folder / name, **options)
    return [*(folder / name for name in files), *photos()]


def photos() -> list[Path]:
    """The two photos that scikit-learn brings."""
    folder = Path(pytest.importorskip("sklearn.datasets").__file__).parent / "images"
    return sorted(folder.glob("*.jpg"))


def swapped_profile() -> bytes:
    """A colour profile that takes red for blue, so that nobody can follow it unnoticed."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")


def test_the_page_says_what_predict_says(
    page: Any, model: Path, pictures: list[Path], address: str
) -> None:
    rows, skipped = api.predict(model, pictures, reject=True)
    assert not skipped
    assert len({row.label for row in rows}) > 2  # among them "(unknown)"
    assert any(row.confidence < max(row.probabilities.values()) for row in rows)  # the threshold
    for row, card in zip(rows, answers(page, pictures), strict=True):
        assert card.title == row.label, row.image
        assert card.shares == pytest.approx(row.probabilities, abs=1e-4), row.image
        assert ("looks like none of the classes" in card.words[0]) == row.rejected
        assert card.words[-1].startswith("Answered in ")
    assert page.locator("#status").inner_text().startswith(f"{len(rows)} of {len(rows)} answered. ")
    assert all(url.removeprefix("blob:").startswith(address) for url in page.asked)
    assert page.faults == []


def test_an_int8_file_says_the_same_there(
    chromium: Any, model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    rounded = tmp_path / "small.int8.onnx"
    write_int8(model, rounded, IMAGES)
    shown_to = pictures[-4:]
    with served(page_of(rounded, tmp_path)) as where:
        page = open_page(chromium.new_context(), where)
        for row, card in zip(
            api.predict(rounded, shown_to, reject=True)[0], answers(page, shown_to), strict=True
        ):
            assert card.title == row.label, row.image
            assert card.shares == pytest.approx(row.probabilities, abs=0.05), row.image
        assert page.faults == []  # nor a warning for each constant of the file


def test_the_page_fits_a_phone_and_shuts_nobody_out(page: Any, pictures: list[Path]) -> None:
    answers(page, pictures[:2])
    wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(wide) <= 0
    assert violations(page) == []


def test_a_file_that_is_no_picture_does_not_stop_the_page(
    page: Any, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.jpg").write_bytes(b"no picture")
    whole = (pictures[-1]).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (9, 9)).save(tmp_path / "scan.tiff")
    files = [*(tmp_path / name for name in ("notes.jpg", "cut.jpg", "scan.tiff")), pictures[0]]
    *bad, good = answers(page, files)
    assert all(card.title == "No answer" for card in bad)
    assert {*(card.words[0] for card in bad)} == {
        "The browser cannot read this as a picture. It is damaged, or of a kind that browsers do "
        "not show, such as TIFF or HEIC; save it as JPEG or PNG."
    }
    assert good.title != "No answer"


def test_pixels_that_cannot_be_had_are_no_answer(page: Any) -> None:
    read = """async ([width, height]) => {
        const { read } = await import("/pixels.js");
        try {
            read(new OffscreenCanvas(1, 1), width, height);
        } catch (error) {
            return error.message;
        }
    }"""
    told = page.evaluate(read, [10_001, 5_000])
    assert told.startswith("The picture has 50 million pixels; the page takes 50 million at most.")
    page.evaluate("""() => {
        const own = CanvasRenderingContext2D.prototype;
        own.kept = own.getImageData;
        own.getImageData = function (...box) {
            const found = this.kept(...box);
            found.data.fill(255);
            return found;
        };
    }""")
    assert page.evaluate(read, [1, 1]).startswith("This browser hides the pixels of pictures")
    page.evaluate("""() => {
        const own = CanvasRenderingContext2D.prototype;
        own.getImageData = own.kept;
    }""")
    assert page.evaluate(read, [1, 1]) is None


def test_the_camera_is_answered_as_it_moves_and_its_picture_is_kept(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Use the camera").click()
    seen = page.locator("#seen > li")
    expect(seen.locator("p:has-text('Answered in')")).to_have_count(1)
    assert set(shown(seen).shares) == set(CLASSES)
    assert violations(page) == []
    page.get_by_role("button", name="Take a picture").click()
    expect(page.locator("#answers figcaption")).to_have_text("Camera picture")
    expect(page.locator("#answers p:has-text('Answered in')")).to_have_count(1)
    page.get_by_role("button", name="Stop").click()
    expect(seen).to_have_count(0)
    expect(page.get_by_role("button", name="Use the camera")).to_be_focused()
    assert page.faults == []


def test_what_is_missing_is_said(chromium: Any, address: str, pictures: list[Path]) -> None:
    from playwright.sync_api import expect

    context = chromium.new_context()  # nobody has allowed the camera here
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(LOADED)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_role("status")).to_contain_text("does not lend this page the camera")
    page.route("**/model.onnx", lambda route: route.fulfill(status=404))
    page.reload()
    why = "The model cannot be loaded: for model.onnx the server answers 404"
    expect(page.get_by_role("status")).to_have_text(why)
    expect(page.locator("#about")).to_be_empty()
    (card,) = answers(page, pictures[:1])  # there is no model to wait for
    assert (card.title, card.words) == ("No answer", [why])
    context.close()
