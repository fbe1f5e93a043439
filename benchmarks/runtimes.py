"""How far the answers of other runtimes are from those of onnxruntime, for each exported form.

python benchmarks/runtimes.py DATA NAME=MODEL... [--images 150] [--only RUNTIME ...] [--homes DIR]

Exports each model in its three forms and asks every runtime about the first test images of DATA.
The reference is the usual file in the onnxruntime that is installed here. Each runtime runs in a
virtual environment of its own (about 5 GB in all, kept in DIR if one is given), each question in a
process of its own. A cell is a line of ``runtimes.jsonl``; ``tables.py`` makes the table of
results/runtimes.md from the newest line of each.

A worker gets CASES, a folder with ``images.bin`` (uint8 RGB pixels, one image behind another),
``views.f32`` (their views) and ``cases.json`` (their shapes, and the shape of a view if views are
meant), and writes ANSWERS: its version, and probabilities and energy of each.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import tutelage
from results import hardware
from tutelage.data.open import open_data
from tutelage.deploy.export import readable
from tutelage.deploy.graph import Deployed
from tutelage.deploy.onnx import compare_answers
from tutelage.deploy.portable import canvas_and_view
from tutelage.deploy.runtime import OnnxModel
from tutelage.models.folder import load_model

ROOT = Path(__file__).parent
WORKERS = ROOT / "runtime_workers"
RESULTS = ROOT / "runtimes.jsonl"
WEB = "onnxruntime-web@1.30.0"
SECONDS = 900  # for one cell


@dataclass(frozen=True)
class Runtime:
    """How a runtime is installed and asked.

    Attributes:
        worker: a function of ``worker.py``, or "node", or the execution provider in Chromium.
        packages: what pip installs; the first is the one whose version counts.
        options: more words for pip.
        images: at most so many, where it is slow.
    """

    worker: str
    packages: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    images: int = 1000


RUNTIMES = {
    "onnxruntime": Runtime("onnxruntime", ("onnxruntime",)),
    "onnxruntime 1.15": Runtime("onnxruntime", ("onnxruntime==1.15.1", "numpy<2")),
    "onnxruntime-web, node": Runtime("node"),
    "onnxruntime-web, Chromium": Runtime("wasm"),
    "onnxruntime-web, Chromium, WebGPU in software": Runtime("webgpu", images=5),
    "OpenVINO, f32": Runtime("openvino_f32", ("openvino", "numpy")),
    "OpenVINO, its default": Runtime("openvino", ("openvino", "numpy")),
    "MNN": Runtime("mnn", ("MNN", "numpy")),
    "tract": Runtime("tract", ("tract", "numpy")),
    "OpenCV 5": Runtime("opencv", ("opencv-python-headless>=5", "numpy")),
    "OpenCV 4.6": Runtime("opencv", ("opencv-python-headless==4.6.0.66", "numpy<2")),
    "ncnn": Runtime("ncnn", ("ncnn", "pnnx", "numpy"), ("--no-deps",)),  # pnnx wants torch
    "LiteRT (onnx2tf)": Runtime("litert", ("ai-edge-litert", "onnx2tf", "tensorflow")),
}


class Failed(Exception):
    """A runtime gave no answers; the message is the reason."""


class Missing(Failed):
    """It is not installed, and cannot be."""


def measure(
    data: Path, models: dict[str, Path], count: int, only: Sequence[str], homes: Path
) -> None:
    """Write a line for each model, runtime and form."""
    catalog = open_data(data)[0]
    rows = np.flatnonzero(catalog.splits == "test")[:count]
    images = list(readable(catalog, rows))
    for name, folder in models.items():
        with tempfile.TemporaryDirectory() as work:
            exported = Path(work) / "model.onnx"
            tutelage.export(folder, exported, portable=True, view=True, images=data)
            described = json.loads((Path(work) / "model.onnx.json").read_text())
            reference = OnnxModel(exported).answers(images)
            views = _views(folder, images)
            for runtime in only or RUNTIMES:
                for form, file in described["files"].items():
                    how = RUNTIMES[runtime]
                    asked = slice(how.images)
                    cases = write_cases(
                        Path(work) / "cases", images[asked], views[asked], form == "view"
                    )
                    line = {
                        "date": f"{date.today()}",
                        "model": name,
                        "runtime": runtime,
                        "form": form,
                    }
                    line |= {"images": len(images[asked]), "hardware": hardware()}
                    try:
                        model = Path(shutil.copy(Path(work) / file, cases))
                        found = ask(how, model, cases, _home(how, homes))
                        line |= {"version": found["version"]}
                        line |= compared(reference, found["answers"], described)
                    except Failed as error:
                        line["failed"] = str(error)
                    print(json.dumps(line), flush=True)
                    with RESULTS.open("a") as results:
                        results.write(json.dumps(line) + "\n")


def _views(folder: Path, images: Sequence[np.ndarray]) -> np.ndarray:
    """The views (n, 3, S, S) of images, made by Pillow as in training."""
    deployed = Deployed(load_model(folder))
    return np.concatenate([canvas_and_view(deployed, image)[1].numpy() for image in images])


def write_cases(folder: Path, images: Sequence[np.ndarray], views: np.ndarray, view: bool) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "images.bin").write_bytes(b"".join(image.tobytes() for image in images))
    views.astype("<f4").tofile(folder / "views.f32")
    shapes = [image.shape[:2] for image in images]
    known = {"shapes": shapes, "view": [1, *views.shape[1:]] if view else None}
    (folder / "cases.json").write_text(json.dumps(known))
    return folder


def compared(
    reference: tuple[np.ndarray, np.ndarray], answers: Sequence[Any], described: dict[str, Any]
) -> dict[str, Any]:
    """How far answers are from the reference's."""
    probabilities, energies = (np.array(part) for part in zip(*answers, strict=True))
    ours, own = (part[: len(answers)] for part in reference)
    if not (np.isfinite(probabilities).all() and np.isfinite(energies).all()):
        raise Failed("answers that are not finite")
    parity, _ = compare_answers(ours, probabilities)
    limit = described["unknown_threshold"]
    flips = None if limit is None else int(((own > limit) != (energies > limit)).sum())
    return {
        "top1_agreement": parity.top1_agreement,
        "max_difference": parity.max_difference,
        "mean_difference": parity.mean_difference,
        "max_energy_difference": float(np.abs(own - energies).max()),
        "unknown_flips": flips,
    }


def ask(how: Runtime, model: Path, cases: Path, home: Path) -> dict[str, Any]:
    """The version and the answers of a runtime that is installed in ``home``; raises Failed."""
    answers = cases / "answers.json"
    words = [str(part) for part in (model, cases, answers)]
    if how.worker in ("wasm", "webgpu"):
        return _in_chromium(how.worker, model, cases, home)
    if how.worker == "node":
        _run(["node", str(WORKERS / "node.mjs"), *words], home)
        return {"version": WEB.partition("@")[2], **json.loads(answers.read_text())}
    # Converters may call programs by name: they must find those of their own environment.
    alone = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(cases), "OMP_NUM_THREADS": "1"}
    python = [str(home / "bin/python"), str(WORKERS / "worker.py"), how.worker]
    package = re.split("[<>=]", how.packages[0])[0]
    said = _run([*python, *words, package], cases, alone)
    found: dict[str, Any] = json.loads(answers.read_text())
    if how.worker.startswith("openvino"):
        found["version"] += f" ({said.split()[-1]})"
    return found


def _run(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no answer in {SECONDS} s") from error
    if done.returncode:
        words = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        raise Failed((words or [f"ended with {done.returncode}"])[-1].strip()[:300])
    return done.stdout


def _in_chromium(provider: str, model: Path, cases: Path, home: Path) -> dict[str, Any]:
    from playwright.sync_api import Error, sync_playwright

    bundles = home / "node_modules/onnxruntime-web/dist"
    flags = ["--no-sandbox", "--disable-background-networking"]
    flags += ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]

    def serve(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        found = [at / name for at in (cases, WORKERS, bundles) if name and (at / name).is_file()]
        if found:
            route.fulfill(path=found[0])
        else:
            route.fulfill(body="", content_type="text/html")

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
        if path is None:
            raise Missing("no Chromium on this machine")
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        try:
            page = browser.new_page()
            page.route("**/*", serve)
            page.goto("http://localhost/")
            answers = page.evaluate(IN_PAGE, [model.name, provider])
        except Error as error:
            raise Failed(str(error)[:300]) from error
        finally:
            version = f"{WEB.partition('@')[2]}, Chromium {browser.version}"
            browser.close()
    return {"version": version, "answers": answers}


IN_PAGE = """async ([model, provider]) => {
  const ort = await import(`/ort.${provider}.bundle.min.mjs`);
  const { answers } = await import("/web.mjs");
  const bytes = async (name) => (await fetch(name)).arrayBuffer();
  const cases = await (await fetch("/cases.json")).json();
  const given = [cases, await bytes("/images.bin"), await bytes("/views.f32")];
  const options = { executionProviders: [provider] };
  return answers(ort, new Uint8Array(await bytes(model)), ...given, options);
}"""


def _home(how: Runtime, homes: Path) -> Path:
    """A folder with onnxruntime-web, or a virtual environment with the packages of a runtime."""
    home = homes / (re.sub("[<>=]", "_", "-".join(how.packages)) or "node")
    if (home / "ready").exists():
        return home
    home.mkdir(parents=True, exist_ok=True)
    (home / "package.json").write_text("{}")
    pip = [str(home / "bin/pip"), "install", "--quiet", *how.options, *how.packages]
    npm = ["npm", "install", "--no-audit", "--no-fund", WEB]
    try:
        for command in ([sys.executable, "-m", "venv", str(home)], pip) if how.packages else (npm,):
            subprocess.run(command, cwd=home, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Missing("it cannot be installed here") from error
    (home / "ready").touch()
    return home


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--only", nargs="+", choices=RUNTIMES, default=[])
    parser.add_argument("--homes", type=Path)
    asked = parser.parse_args()
    models = {name: Path(path) for name, _, path in (m.partition("=") for m in asked.models)}
    with tempfile.TemporaryDirectory() as folder:
        homes = asked.homes or Path(folder)
        measure(asked.data, models, asked.images, asked.only, homes.resolve())


if __name__ == "__main__":
    main()
