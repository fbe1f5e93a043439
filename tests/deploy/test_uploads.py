"""Images are found in a request by their bytes; a refusal says what was there, and what to send."""

import asyncio
import io
from pathlib import Path

import pytest
from answering import write_model
from PIL import Image
from starlette.testclient import TestClient

from tutelage.deploy import serve, uploads
from tutelage.deploy.runtime import OnnxModel
from tutelage.deploy.uploads import Limits


@pytest.fixture
def asked(tmp_path: Path) -> TestClient:
    model = OnnxModel(write_model(tmp_path / "m.onnx"), threads=1)
    return TestClient(serve.make_app(model, "m.onnx", Limits(request_bytes=2000, images=2)))


def red(kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(content, format=kind)
    return content.getvalue()


FORM = "application/x-www-form-urlencoded"  # what curl --data-binary says


@pytest.mark.parametrize("kind", [FORM, "application/json", "text/plain", "image/x-odd", None])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_body_is_an_image_by_its_bytes(asked: TestClient, kind: str | None, form: str) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = asked.post("/predict", content=red(form), headers=headers)
    assert [row["label"] for row in answer.json()["predictions"]] == ["r"]


def test_a_form_has_its_files_under_any_name(asked: TestClient) -> None:
    files = [("image", ("a.png", red())), ("any", ("b.png", red()))]
    answer = asked.post("/predict", files=files)
    assert [row["image"] for row in answer.json()["predictions"]] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("kind", "content", "status", "parts"),
    [
        ("text/html", b"<p>", 415, ["text/html, begins with '<p>'", "curl --data-binary @"]),
        (None, b"x", 415, ["of no type, begins with 'x'"]),
        (FORM, b"photo.jpg", 415, ["begins with 'photo.jpg'", "--data-binary, since -d"]),
        (FORM, red("JPEG").translate(None, delete=b"\r\n\0"), 415, ["since -d changes its bytes"]),
        ("image/png", b"x" * 2001, 413, ["more than 2,000 bytes"]),
        ("image/png", b"", 400, ["the body is empty", "curl --data-binary @"]),
        ("image/png", b"x", 422, ["is not a JPEG"]),
        ("multipart/form-data", b"x", 400, ["boundary", "curl -F images=@"]),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400, ["no image in the form"]),
    ],
)
def test_a_refusal_says_what_was_found_and_what_to_send(
    asked: TestClient, kind: str | None, content: bytes, status: int, parts: list[str]
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = asked.post("/predict", content=content, headers=headers)
    assert answer.status_code == status
    assert all(part in answer.text for part in parts), answer.text


def test_a_form_of_text_or_of_too_many_files_is_refused(asked: TestClient) -> None:
    text = asked.post("/predict", data={"reject": "true"}, files=[("image", ("a.png", red()))])
    many = asked.post("/predict", files=[("images", (f"{k}", b"x")) for k in range(3)])
    assert (text.status_code, many.status_code) == (400, 400)
    assert "'reject' in the form is text, not a file" in text.json()["error"]
    assert "(?reject=true)" in text.json()["error"]
    assert "send at most 2 images at once" in many.json()["error"]


def test_the_event_loop_does_not_read_headers(
    asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header may be slow to read, and meanwhile nobody else would be answered."""
    read, looked = uploads.read_size, []

    def noted(content: bytes) -> tuple[int, int]:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        looked.append(content)
        return read(content)

    monkeypatch.setattr(uploads, "read_size", noted)
    assert asked.post("/predict", content=red(), headers={"Content-Type": FORM}).status_code == 200
    assert looked == [red()]
