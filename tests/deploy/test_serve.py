import gc
import io
import re
import threading
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from answering import write_model
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tutelage._version import __version__
from tutelage.deploy import serve
from tutelage.deploy.runtime import OnnxModel
from tutelage.deploy.serve import AccessLog
from tutelage.deploy.uploads import Limits
from tutelage.system.errors import TutelageError


def picture(
    colour: tuple[int, int, int], kind: str = "PNG", size: tuple[int, int] = (8, 6)
) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, format=kind)
    return content.getvalue()


RED, GREEN = (255, 0, 0), (0, 255, 0)


def client(tmp_path: Path, threshold: float | None = None, **limits: object) -> TestClient:
    model = OnnxModel(write_model(tmp_path / "m.onnx", threshold=threshold), threads=1)
    return TestClient(serve.make_app(model, "m.onnx", Limits(**limits)))  # type: ignore[arg-type]


def test_one_image_as_the_body(tmp_path: Path) -> None:
    headers = {"Content-Type": "image/png"}
    answer = client(tmp_path).post("/predict", content=picture(RED), headers=headers)
    row = {"label": "r", "confidence": 1.0, "probabilities": {"r": 1.0, "g": 0.0}}
    assert answer.status_code == 200
    assert answer.json() == {"model": "m.onnx", "predictions": [{"image": "image", **row}]}
    name, _, milliseconds = answer.headers["server-timing"].partition(";dur=")
    assert name == "predict"
    assert 0 < float(milliseconds) < 10_000


def test_several_keep_their_order_and_a_broken_one_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "CHUNK_IMAGES", 2)  # fewer than there are
    sent = [picture(RED), b"no image", picture(GREEN, size=(5, 5)), picture(RED, "BMP")]
    files = [("images", (f"{i}.png", content)) for i, content in enumerate(sent)]
    answer = client(tmp_path).post("/predict", files=files)
    assert answer.status_code == 200
    rows = answer.json()["predictions"]
    assert [row["image"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert [row.get("label") for row in rows] == ["r", None, "g", "r"]
    assert "not a JPEG, PNG" in rows[1]["error"]


def test_unknown_images_are_rejected_where_asked(tmp_path: Path) -> None:
    asked = client(tmp_path, threshold=0.5)
    files = [("images", ("a", picture((200, 0, 255)))), ("images", ("b", picture(RED)))]
    rows = asked.post("/predict?reject=true", files=files).json()["predictions"]
    assert [(row["label"], row["rejected"]) for row in rows] == [("unknown", True), ("r", False)]
    assert "rejected" not in asked.post("/predict", files=files).json()["predictions"][0]
    assert asked.post("/predict?reject=maybe", files=files).status_code == 400
    without = client(tmp_path).post("/predict?reject=true", files=files)
    assert (without.status_code, "no threshold" in without.json()["error"]) == (400, True)


def test_too_many_images_or_pixels(tmp_path: Path) -> None:
    asked = client(tmp_path, images=2, pixels=100)
    files = [("images", (str(i), picture(RED))) for i in range(3)]
    assert asked.post("/predict", files=files).status_code == 400
    large = [("images", ("large", picture(RED, size=(11, 10)))), files[0]]
    rows = asked.post("/predict", files=large).json()["predictions"]
    assert rows[0]["error"] == "has 11 x 10 pixels, more than 100: scale it down"
    assert rows[1]["label"] == "r"


def test_a_slow_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def slow(content: bytes, most_pixels: int) -> np.ndarray:
        decoded.append(content)
        time.sleep(0.15)
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(serve, "_decoded", slow)
    monkeypatch.setattr(serve, "CHUNK_IMAGES", 1)
    files = [("images", (str(i), b"x")) for i in range(20)]
    with client(tmp_path, seconds=0.2) as asked:
        answer = asked.post("/predict", files=files)
        assert answer.status_code == 504
        assert "within 0.2 s" in answer.json()["error"]
        assert 'requests_total{status="504"} 1.0' in asked.get("/metrics").text
    assert len(decoded) < 20, "work that nobody waits for ends"


def test_an_answer_at_the_deadline_lacks_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count(0, 10)  # each look at the clock is 10 s later
    monkeypatch.setattr(serve, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(serve, "CHUNK_IMAGES", 1)
    files = [("images", (str(i), picture(RED))) for i in range(5)]
    answer = client(tmp_path, seconds=30).post("/predict", files=files)
    assert answer.status_code == 504
    assert "no answer within 30 s" in answer.json()["error"]


def test_waiting_bodies_are_bounded_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture(RED)
    inside, go_on = threading.Event(), threading.Event()
    decode = serve.decode

    def held(data: bytes) -> np.ndarray:
        inside.set()
        assert go_on.wait(10)
        return decode(data)

    monkeypatch.setattr(serve, "decode", held)
    headers = {"Content-Type": "image/png"}
    with client(tmp_path, total_bytes=int(1.5 * len(content))) as asked:
        answers = []
        first = threading.Thread(
            target=lambda: answers.append(asked.post("/predict", content=content, headers=headers))
        )
        first.start()
        assert inside.wait(10)
        refused = asked.post("/predict", content=content, headers=headers)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "requests_in_flight 1.0" in asked.get("/metrics").text
        go_on.set()
        first.join()
        assert answers[0].status_code == 200
        assert asked.post("/predict", content=content, headers=headers).status_code == 200


def test_what_a_request_used_is_given_back_when_its_thread_ends_not_at_its_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    large, small = picture(RED, "BMP", (40, 40)), picture(GREEN)  # 4,854 bytes, and 77
    decoded, go_on = [], threading.Event()
    decode = serve.decode

    def held(data: bytes) -> np.ndarray:
        decoded.append(data)
        assert go_on.wait(30)
        return decode(data)

    monkeypatch.setattr(serve, "decode", held)
    monkeypatch.setattr(serve, "CHUNK_IMAGES", 1)
    with client(tmp_path, seconds=0.3, threads=1, total_bytes=12_000) as asked:

        def status(*images: bytes) -> int:
            files = [("images", ("a", content)) for content in images]
            return asked.post("/predict", files=files).status_code

        while not decoded:  # a slow machine may be timed out before the thread begins
            assert status(large, large) == 504
        for _ in range(2):
            assert status(small) == 504
        assert decoded == [large], "one thread, which has not ended"
        assert status(large, large) == 503, "its bytes are held"
        go_on.set()
        until = time.monotonic() + 30
        while (last := status(large, large)) != 200 and time.monotonic() < until:
            time.sleep(0.05)
        assert last == 200
    gc.collect()
    assert not [row for row in caplog.records if row.name == "asyncio"], "of errors never looked at"


def test_health_metrics_and_descriptions(tmp_path: Path) -> None:
    asked = client(tmp_path)
    assert asked.get("/health").json() == {
        "status": "ok",
        "model": "m.onnx",
        "classes": ["r", "g"],
        "parameters": 7,
        "rejects": False,
        "decision_threshold": None,
        "max_bytes": 32_000_000,
        "version": __version__,
    }
    files = [("images", ("a", picture(RED))), ("images", ("b", b"?"))]
    asked.post("/predict", files=files)
    counters = asked.get("/metrics").text
    for line in (
        'tutelage_requests_total{status="200"} 1.0',
        'tutelage_images_total{outcome="answered"} 1.0',
        'tutelage_images_total{outcome="unreadable"} 1.0',
        'tutelage_predictions_total{label="r"} 1.0',
        "tutelage_request_seconds_count 1.0",
        "tutelage_requests_in_flight 0.0",
    ):
        assert line in counters
    for path, status, said in (
        ("/etc/passwd", 404, "there is nothing at /etc/passwd; /docs says what there is"),
        ("/predict", 405, "/predict takes POST, not GET; see /docs"),
    ):
        refused = asked.get(path)
        assert (refused.status_code, refused.json()["error"]) == (status, said)


def test_a_decision_threshold_is_told_and_used(tmp_path: Path) -> None:
    model = OnnxModel(write_model(tmp_path / "m.onnx"), threads=1)
    model.decision_threshold = ("g", 0.2)
    asked = TestClient(serve.make_app(model, "m.onnx", Limits()))
    assert asked.get("/health").json()["decision_threshold"] == {"g": 0.2}
    answer = asked.post("/predict", content=picture((255, 60, 0))).json()
    assert answer["predictions"][0]["label"] == "g"


def test_a_model_that_cannot_answer_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*arguments: object) -> list[np.ndarray]:
        raise TutelageError("m.onnx answers with NaN")

    monkeypatch.setattr(OnnxModel, "_answers", damaged)
    headers = {"Content-Type": "image/png"}
    answer = client(tmp_path).post("/predict", content=picture(RED), headers=headers)
    assert (answer.status_code, answer.json()) == (500, {"error": "m.onnx answers with NaN"})


LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (.+?) [\d.]+ ms(.*)\n")


def test_a_line_has_the_request_but_not_what_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = OnnxModel(write_model(tmp_path / "m.onnx"), threads=1)
    files = [("images", (f"secret{k}.png", b"secret")) for k in range(2)]
    lines = [
        ("testclient POST /predict 422", " 2 images"),
        ("testclient GET /health 200", ""),
        ("testclient GET /a%0Ab 404", ""),
    ]
    for log in (True, False):
        asked = TestClient(serve.make_app(model, "m.onnx", Limits(), log=log))
        asked.post("/predict?reject=false", files=files)
        asked.get("/health")
        asked.get("/a%0Ab")
        out, err = capsys.readouterr()
        assert LINE.findall(err) == lines * log
        assert len(err.splitlines()) == 3 * log
        assert "secret" not in err
        assert out == ""


def test_a_failure_without_an_answer_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail(request: Request) -> Response:
        raise KeyError("a bug")

    app = Starlette(routes=[Route("/", fail)], middleware=[Middleware(AccessLog)])
    TestClient(app, raise_server_exceptions=False).get("/")
    assert LINE.findall(capsys.readouterr().err) == [("testclient GET / 500", "")]
