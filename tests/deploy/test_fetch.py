"""Images behind addresses."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from listening import running

from tutelage.deploy import fetch
from tutelage.system.errors import TutelageError


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.agents.append(self.headers["User-Agent"])  # type: ignore[attr-defined]
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a.png")
        elif self.path == "/gone.png":
            self.send_response(404)
        else:
            self.send_response(200)
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


def test_a_web_server_is_asked_for_one_image(server: HTTPServer) -> None:
    root = f"http://127.0.0.1:{server.server_port}"
    assert fetched(f"{root}/a.png?w=1") == fetched(f"{root}/moved") == b"x" * 1000
    assert all(agent.startswith("tutelage/") for agent in server.agents)  # type: ignore[attr-defined]
    with pytest.raises(OSError, match="the server answers 404, Not Found"):
        fetched(f"{root}/gone.png")


def test_what_is_too_large_or_too_slow_is_given_up(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/a.png"
    monkeypatch.setattr(fetch, "MAX_BYTES", 999)
    with pytest.raises(OSError, match="1,000 bytes or more; expected at most 999"):
        fetched(url)
    monkeypatch.undo()
    monkeypatch.setattr(fetch, "DOWNLOAD_S", -1)
    with pytest.raises(OSError, match="cannot be fetched within -1 s"):
        fetched(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "http://[", "https:///a.png"])
def test_no_server_is_a_reason_in_words(url: str) -> None:
    with pytest.raises(OSError, match="cannot be fetched: ") as error:
        fetched(url)
    assert "urlopen" not in str(error.value)


def test_a_store_is_asked_for_images_folders_and_patterns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("a.png", "b.jpg", "notes.txt", "deep/c.png"):
        system.pipe(f"/fetched/{name}", name.encode())
    root = "memory:///fetched"

    def below(url: str) -> dict[str, bytes]:
        return {name.rpartition("fetched/")[2]: read() for name, read in fetch.find_remote(url)}

    assert below(f"{root}/a.png") == {"a.png": b"a.png"}
    assert list(below(root)) == ["a.png", "b.jpg", "deep/c.png"]
    assert list(below(f"{root}/*")) == ["a.png", "b.jpg"]
    assert list(below(f"{root}/{{b.jpg,deep}}")) == ["b.jpg", "deep/c.png"]
    with pytest.raises(TutelageError, match=r"no images in .*/fetched/\*\.gif"):
        fetch.find_remote(f"{root}/*.gif")
    ((_, read),) = fetch.find_remote(f"{root}/absent.png")
    with pytest.raises(OSError, match="cannot be fetched: "):
        read()
    monkeypatch.setattr(fetch, "MAX_BYTES", 3)
    ((_, read),) = fetch.find_remote(f"{root}/a.png")
    with pytest.raises(OSError, match="5 bytes or more; expected at most 3"):
        read()


@pytest.mark.parametrize("obeys", [True, False])
def test_of_an_image_of_unknown_size_no_more_is_read_than_an_image_may_have(
    monkeypatch: pytest.MonkeyPatch, obeys: bool
) -> None:
    system = pytest.importorskip("fsspec").filesystem("memory")
    system.pipe({"/unsized/large.png": b"12345", "/unsized/small.png": b"123"})
    info, cat, asked = system.info, system.cat_file, []

    def cut(path: str, start: int | None = None, end: int | None = None) -> bytes:
        asked.append((start, end))
        return cat(path, start, end) if obeys else cat(path)

    monkeypatch.setattr(type(system), "info", lambda _, path: {**info(path), "size": None})
    monkeypatch.setattr(type(system), "cat_file", lambda _, path, *a, **k: cut(path, *a, **k))
    monkeypatch.setattr(fetch, "MAX_BYTES", 3)
    assert fetched("memory:///unsized/small.png") == b"123"
    with pytest.raises(OSError, match=r"it has . bytes or more; expected at most 3"):
        fetched("memory:///unsized/large.png")
    assert asked == [(0, 4), (0, 4)]


def test_an_empty_image_is_read_without_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers a range of an object without bytes with an error."""
    system = pytest.importorskip("fsspec").filesystem("memory")
    system.pipe("/empty/a.png", b"")
    asked = []
    monkeypatch.setattr(type(system), "cat_file", lambda *a, **k: asked.append((a[1:], k)) or b"")
    assert fetched("memory:///empty/a.png") == b""
    assert asked == [(("/empty/a.png",), {})]


def test_a_store_that_cannot_be_listed_and_one_that_is_not_known() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(TutelageError, match="Protocol not known: nothing"):
        fetch.find_remote("nothing://x/a.png")
