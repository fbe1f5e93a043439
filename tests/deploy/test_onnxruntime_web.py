"""The archive of onnxruntime-web: fetched once, compared, kept. The registry is one of our own."""

import base64
import hashlib
import io
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from listening import running

from tutelage.deploy import onnxruntime_web
from tutelage.deploy.onnxruntime_web import VERSION, kept_archive, runtime_files
from tutelage.system.errors import TutelageError


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
        monkeypatch.setattr(onnxruntime_web, "INTEGRITY", f"sha512-{checksum}")
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
    with pytest.raises(TutelageError) as told:
        runtime_files()
    assert "is missing (http://127.0.0.1:1/onnxruntime-web/-/onnxruntime-web-" in str(told.value)
    assert f"run npm pack onnxruntime-web@{VERSION}, and put" in str(told.value)
    assert str(told.value).endswith(f"into {tmp_path}")
