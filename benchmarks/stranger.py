"""A stranger's first hour, timed: from ``pip install`` to predictions on photos of their own.

python benchmarks/stranger.py DATA --labels 10 --json stranger.json

DATA is any labelled data set. Its training images become folders as a person has them: one with
some labels (``photos/<class>/*`` and ``photos/unlabeled/*``), one with none (``album/*``). The
album is labelled by keyboard on the page of ``tutelage suggest``, in a real browser. The commands
are those of README.md. Test images are classified at the end, and their labels say how often that
was right.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import signal
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import sync_playwright

import results
from tutelage.data.catalog import Catalog
from tutelage.data.open import open_data

CHECKOUT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("tutelage", "torch", "playwright")


def write_images(catalog: Catalog, rows: Any, folder: Path) -> dict[str, str]:
    """Write images as files named 0001.jpg and so on; file name -> class."""
    folder.mkdir(parents=True)
    truth = {}
    for number, row in enumerate(rows, start=1):
        name = f"{number:04}.jpg"  # what the bytes are, their first ones say
        (folder / name).write_bytes(catalog.source.read(int(row)))
        truth[name] = catalog.classes[catalog.labels[row]]
    return truth


def lay_out(data: Path, labels: int, place: Path) -> dict[str, dict[str, str]]:
    """The folders of a person: photos, album and new; for the last two, file name -> class."""
    catalog, _ = open_data(data)
    order = np.random.default_rng(0).permutation(len(catalog))
    train = order[(catalog.splits[order] == "train") & (catalog.labels[order] >= 0)]
    test = order[(catalog.splits[order] == "test") & (catalog.labels[order] >= 0)]
    labelled = []
    for number, name in enumerate(catalog.classes):
        chosen = train[catalog.labels[train] == number][:labels]
        write_images(catalog, chosen, place / "photos" / name)
        labelled += chosen.tolist()
    rest = train[~np.isin(train, labelled)]
    write_images(catalog, rest, place / "photos" / "unlabeled")
    return {
        "album": write_images(catalog, train, place / "album"),
        "new": write_images(catalog, test, place / "new"),
    }


class Person:
    """Types commands in a folder, and notes how long each took."""

    def __init__(self, folder: Path, environment: Path) -> None:
        self.folder, self.programs = folder, environment / "bin"
        self.steps: list[dict[str, Any]] = []

    def types(self, *words: str) -> None:
        """Wait for a command to end well."""
        with self._noted(words):
            command = [str(self.programs / words[0]), *words[1:]]
            subprocess.run(command, cwd=self.folder, check=True)

    def labels(self, truth: Mapping[str, str], count: int, *words: str) -> None:
        """Label images on the page of a command, by keyboard, and press Ctrl-C."""
        with self._noted(words):
            command = [str(self.programs / words[0]), *words[1:], "--no-browser"]
            with subprocess.Popen(
                command, cwd=self.folder, stdout=subprocess.PIPE, text=True
            ) as page:
                assert page.stdout is not None
                address = next(w for line in page.stdout for w in line.split() if "http://" in w)
                began = time.perf_counter()
                label_by_keyboard(address, truth, count)
                took = time.perf_counter() - began
                page.send_signal(signal.SIGINT)
            self.steps.append({"labelled": count, "seconds": round(took, 1)})

    @contextmanager
    def _noted(self, words: tuple[str, ...]) -> Iterator[None]:
        began = time.perf_counter()
        yield
        took = round(time.perf_counter() - began, 1)
        self.steps.append({"command": " ".join(words), "seconds": took})


def label_by_keyboard(address: str, truth: Mapping[str, str], count: int) -> None:
    """Press the key of the right class for so many images, one after the other."""
    classes = sorted({*truth.values()})
    browser = next(path for name in BROWSERS if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = started.new_page()
        page.goto(address)
        name = ""
        for _ in range(count):
            shown = page.wait_for_selector(f"[aria-current] img:not([alt='{name}'])")
            name = shown.get_attribute("alt")
            page.keyboard.press(str(classes.index(truth[name]) + 1))
        page.wait_for_timeout(500)  # until the last one is saved
        started.close()


def right(answers: Path, truth: Mapping[str, str]) -> float:
    """The share of the rows of a table of predictions that are right."""
    with answers.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(truth)
    return float(np.mean([row["label"] == truth[Path(row["image"]).name] for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=int, default=10, help="of each class in photos/")
    parser.add_argument("--budget", type=int, default=20, help="labels given by keyboard")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        truth = lay_out(options.data, options.labels, place)
        venv.create(place / "venv", with_pip=True)
        classes = ",".join(sorted({*truth["album"].values()}))
        found = results.provenance("stranger", PACKAGES)
        first = Person(place, place / "venv")
        first.types("pip", "install", "--quiet", f"{CHECKOUT}[train]")
        first.types("tutelage", "run", "photos/")
        first.types("tutelage", "predict", "runs/1", "new/", "--out", "answers.csv")
        found["labelled"] = {
            "steps": first.steps,
            "accuracy": right(place / "answers.csv", truth["new"]),
        }
        second = Person(place, place / "venv")
        budget = str(options.budget)
        wanted = ("--budget", budget, "--classes", classes)
        second.labels(truth["album"], options.budget, "tutelage", "suggest", "album/", *wanted)
        second.types("tutelage", "run", "album/", "--decisions", "runs/2")
        second.types("tutelage", "predict", "runs/3", "new/", "--out", "more.csv")
        found["unlabelled"] = {
            "steps": second.steps,
            "accuracy": right(place / "more.csv", truth["new"]),
        }
    print(json.dumps(found, indent=2))
    results.append(found, options.json)


if __name__ == "__main__":
    main()
