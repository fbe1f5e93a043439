"""A server process: its address, its patience, its end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from answering import write_model

from tutelage import api
from tutelage.system.errors import TutelageError
from tutelage.system.web import bound_socket

HURRIED = (
    "import tutelage.system.web as w; w.HEAD_SECONDS = 0.5; from tutelage.cli import main; main()"
)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, int, "subprocess.Popen[str]"]]:
    """``tutelage serve`` with half a second for a request's head: address, port, process."""
    model = write_model(tmp_path / "m.onnx")
    command = [sys.executable, "-c", HURRIED, "serve", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().split()[-1]
            yield address, int(address.rstrip("/").rsplit(":", 1)[1]), process
        finally:
            process.kill()


def drip(slow: socket.socket) -> int:
    """Header lines sent, one in 50 ms, before the other side hung up."""
    for sent in range(300):
        try:
            slow.sendall(b"X-Slow: 1\r\n")
        except OSError:
            return sent
        time.sleep(0.05)
    return 300


def test_it_answers_and_ends_when_asked(
    served: tuple[str, int, "subprocess.Popen[str]"],
) -> None:
    address, _, process = served
    assert httpx.get(f"{address}health").json()["status"] == "ok"
    os.kill(process.pid, signal.SIGTERM)
    process.wait(10)


def test_who_never_finishes_a_head_is_sent_away(
    served: tuple[str, int, "subprocess.Popen[str]"],
) -> None:
    address, port, _ = served
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\n")
        assert 2 < drip(slow) < 300
    with httpx.Client(base_url=address) as client:  # a keep-alive connection is left alone
        assert client.get("/health").status_code == 200
        time.sleep(0.8)
        assert client.get("/health").status_code == 200


def test_who_hangs_up_is_counted_and_nothing_else_happens(
    served: tuple[str, int, "subprocess.Popen[str]"],
) -> None:
    address, port, _ = served
    with socket.create_connection(("127.0.0.1", port), timeout=20) as gone:
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
        gone.sendall(head + b"Content-Length: 1000\r\n\r\nxyz")
    for _ in range(100):
        counters = httpx.get(f"{address}metrics").text
        if 'tutelage_requests_total{status="499"} 1.0' in counters:
            break
        time.sleep(0.05)
    else:
        pytest.fail(counters)
    assert "tutelage_requests_in_flight 0.0" in counters


def test_a_port_that_is_taken() -> None:
    with bound_socket("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(TutelageError, match=rf"port {port} of 127.0.0.1 cannot be used"):
            bound_socket("127.0.0.1", port)
    with pytest.raises(TutelageError, match="cannot be used"):
        bound_socket("127.0.0.1", 70_000)


def test_limits_out_of_range_are_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx")
    with pytest.raises(TutelageError, match="--threads is 0; it must be at least 1"):
        api.serve(model, threads=0)
    with pytest.raises(TutelageError, match="--max-images is 0"):
        api.serve(model, max_images=0)
    with pytest.raises(TutelageError, match="--timeout 0 must be more than 0"):
        api.serve(model, timeout=0.0)
    with pytest.raises(TutelageError, match="is a folder without a model"):
        api.serve(tmp_path)
