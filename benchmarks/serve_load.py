"""Does the server hold under many clients, some of them hostile?

python benchmarks/serve_load.py RUN/student.onnx --images photos/ --clients 64 --minutes 5

``tutelage serve`` runs in a process of its own. Three clients in four send valid requests, one
after the other: one image, or several at once. The others send what a server should refuse or
outlive: broken images, bombs, bodies without end, wrong types, heads that never finish, connections
that hang up. Every valid request must be answered with 200, or with 503 where the server says that
too much is waiting, and is then sent again. The server's memory is read while all this goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

import results
from chain import PACKAGES
from tutelage.data.layout import image_files

HANG_UP = (httpx.HTTPError, OSError)


class Load:
    """What was sent and what came back."""

    def __init__(self, address: str, images: list[bytes], until: float) -> None:
        """Clients stop at ``until`` of the monotonic clock."""
        self.address = address
        self.images = images
        self.until = until
        self.seconds: list[float] = []
        self.classified = 0
        self.retried = 0
        self.wrong: list[str] = []
        self.hostile: Counter[str] = Counter()

    async def valid(self, seed: int) -> None:
        """One client with valid requests."""
        rng = random.Random(seed)
        async with httpx.AsyncClient(base_url=self.address, timeout=60) as client:
            while time.monotonic() < self.until:
                chosen = rng.choices(self.images, k=rng.choice((1, 1, 1, 4, 16)))
                await self._ask(client, chosen)

    async def _ask(self, client: httpx.AsyncClient, chosen: list[bytes]) -> None:
        began = time.monotonic()
        while True:
            if len(chosen) == 1:
                headers = {"Content-Type": "image/jpeg"}
                answer = await client.post("/predict", content=chosen[0], headers=headers)
            else:
                files = [("images", (str(i), content)) for i, content in enumerate(chosen)]
                answer = await client.post("/predict", files=files)
            if answer.status_code != 503:
                break
            self.retried += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
        rows = answer.json().get("predictions", [])
        if answer.status_code != 200 or len(rows) != len(chosen) or any("error" in r for r in rows):
            self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
        self.seconds.append(time.monotonic() - began)
        self.classified += len(chosen)

    async def bad(self, seed: int) -> None:
        """One hostile client."""
        rng = random.Random(seed)
        while time.monotonic() < self.until:
            kind = rng.choice(sorted(ATTACKS))
            try:
                said = await asyncio.wait_for(ATTACKS[kind](self, rng), 40)
            except HANG_UP as error:
                said = type(error).__name__
            except TimeoutError:
                said = "no answer in 40 s"
            self.hostile[f"{kind}: {said}"] += 1


async def _post(load: Load, content: Any, kind: str) -> str:
    async with httpx.AsyncClient(base_url=load.address, timeout=60) as client:
        answer = await client.post("/predict", content=content, headers={"Content-Type": kind})
        return str(answer.status_code)


async def broken(load: Load, rng: random.Random) -> str:
    """An image with bytes changed and cut."""
    content = bytearray(rng.choice(load.images))
    for _ in range(rng.randrange(1, 50)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return await _post(load, bytes(content[: rng.randrange(1, len(content))]), "image/jpeg")


async def bomb(load: Load, rng: random.Random) -> str:
    """A few kilobytes that would be hundreds of megapixels."""
    return await _post(load, BOMB, "image/png")


async def endless(load: Load, rng: random.Random) -> str:
    """A body that goes on past the limit."""

    async def body() -> Any:
        for _ in range(100):
            yield b"\xff" * 1_000_000

    return await _post(load, body(), "application/octet-stream")


async def wrong_type(load: Load, rng: random.Random) -> str:
    """Not an image at all."""
    return await _post(load, b"<html>" * 100, rng.choice(("text/html", "application/json", "a/b")))


async def many_parts(load: Load, rng: random.Random) -> str:
    """More images than are allowed."""
    async with httpx.AsyncClient(base_url=load.address, timeout=60) as client:
        files = [("images", (str(i), b"x")) for i in range(500)]
        return str((await client.post("/predict", files=files)).status_code)


async def _raw(load: Load, *parts: bytes, pause: float) -> str:
    url = httpx.URL(load.address)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        answer = await reader.read(100)
        return answer.split(b"\r\n")[0].decode("latin-1") or "closed"
    finally:
        writer.close()


async def slow_head(load: Load, rng: random.Random) -> str:
    """A head that never finishes."""
    return await _raw(load, b"POST /predict HTTP/1.1\r\n", *[b"X-A: 1\r\n"] * 30, pause=0.5)


async def no_http(load: Load, rng: random.Random) -> str:
    """Bytes of another protocol."""
    return await _raw(load, rng.randbytes(2000), pause=0.0)


async def hangs_up(load: Load, rng: random.Random) -> str:
    """A connection that ends in the middle of a body."""
    url = httpx.URL(load.address)
    _, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n")
    writer.write(b"Content-Length: 90000\r\n\r\n" + b"x" * 1000)
    await writer.drain()
    writer.close()
    return "hung up"


ATTACKS = {
    attack.__name__: attack
    for attack in (
        broken,
        bomb,
        endless,
        wrong_type,
        many_parts,
        slow_head,
        no_http,
        hangs_up,
    )
}


def make_bomb() -> bytes:
    """A PNG of 30,000 x 30,000 equal pixels."""
    content = io.BytesIO()
    Image.new("1", (8, 8)).save(content, format="PNG")
    small = content.getvalue()
    side = (30_000).to_bytes(4, "big")
    header = b"IHDR" + side + side + small[24:29]
    rows = zlib.compress(bytes(1 + 30_000 // 8) * 30_000, 9)
    chunks = [header, b"IDAT" + rows, b"IEND"]
    return small[:8] + b"".join(
        (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        for chunk in chunks
    )


BOMB = make_bomb()


async def measure(load: Load, clients: int, pid: int, seconds: float) -> list[int]:
    """Run all clients; the server's resident bytes, once a second."""
    bad = max(1, clients // 4)
    tasks = [asyncio.create_task(load.valid(seed)) for seed in range(clients - bad)]
    tasks += [asyncio.create_task(load.bad(seed)) for seed in range(bad)]
    seen = []
    while time.monotonic() < load.until:
        seen.append(results.memory(pid))
        await asyncio.sleep(1)
    await asyncio.gather(*tasks)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="an exported model")
    parser.add_argument("--images", type=Path, required=True, help="a folder of valid images")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    images = [path.read_bytes() for path in image_files(options.images)[:200]]
    command = [sys.executable, "-m", "tutelage", "serve", options.model, "--port", "0", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = server.stdout.readline().split()[-1]
            load = Load(address, images, time.monotonic() + 60 * options.minutes)
            memory = asyncio.run(measure(load, options.clients, server.pid, 60 * options.minutes))
            alive = httpx.get(f"{address}health").status_code == 200
        finally:
            server.kill()
    waited = 1000 * np.percentile(load.seconds, [50, 95, 99])
    fifth = len(memory) // 5
    result = {
        **results.provenance("serve-load", (*PACKAGES, "starlette", "uvicorn")),
        "clients": options.clients,
        "minutes": options.minutes,
        "valid_requests": len(load.seconds),
        "images_per_second": round(load.classified / (60 * options.minutes), 1),
        "valid_failed": len(load.wrong),
        "failures": load.wrong[:5],
        "sent_again": load.retried,
        "milliseconds": dict(zip(("p50", "p95", "p99"), waited.round(1).tolist(), strict=True)),
        "hostile": dict(sorted(load.hostile.items())),
        "memory_mb": {
            "start": round(memory[0] / 1e6),
            "after_a_fifth": round(memory[fifth] / 1e6),
            "most": round(max(memory) / 1e6),
            "end": round(memory[-1] / 1e6),
        },
        "alive": alive,
    }
    results.append(result, options.json)


if __name__ == "__main__":
    main()
