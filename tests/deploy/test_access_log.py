"""A line for each request, with nothing about what it was asked."""

import re
from pathlib import Path

import pytest
from answering import write_model
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tutelage.deploy import serve
from tutelage.deploy.access_log import AccessLog
from tutelage.deploy.openapi import Limits
from tutelage.deploy.runtime import OnnxModel

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d (.+?) [\d.]+ ms(.*)\n")


def served(tmp_path: Path, *, log: bool) -> TestClient:
    model = OnnxModel(write_model(tmp_path / "m.onnx"), threads=1)
    return TestClient(serve.make_app(model, "m.onnx", Limits(), log=log))


def test_a_line_has_the_request_but_not_what_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = served(tmp_path, log=True)
    files = [("images", (f"secret{k}.png", b"secret")) for k in range(2)]
    asked.post("/predict?reject=false", files=files)
    asked.get("/health")
    asked.get("/a%0Ab")
    out, err = capsys.readouterr()
    assert LINE.findall(err) == [
        ("testclient POST /predict 422", " 2 images"),
        ("testclient GET /health 200", ""),
        ("testclient GET /a%0Ab 404", ""),
    ]
    assert len(err.splitlines()) == 3
    assert "secret" not in err
    assert out == ""


def test_without_a_log_nothing_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served(tmp_path, log=False).get("/health")
    assert capsys.readouterr() == ("", "")


def test_a_failure_without_an_answer_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail(request: Request) -> Response:
        raise KeyError("a bug")

    app = Starlette(routes=[Route("/", fail)], middleware=[Middleware(AccessLog)])
    TestClient(app, raise_server_exceptions=False).get("/")
    assert LINE.findall(capsys.readouterr().err) == [("testclient GET / 500", "")]
