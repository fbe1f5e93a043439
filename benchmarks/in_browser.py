"""Does the page of ``tutelage export --web`` say what ``tutelage predict`` says?

python benchmarks/in_browser.py RUN photos/ --count 50

The page is written, put behind Python's web server and opened in Chromium. Photos are given to it
as a person gives them; what their cards say is compared with ``predict --reject``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import results
from tutelage import api
from tutelage.data.open import read_catalog

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from browser import browser
from webpage import Shown, answers, open_page, served


def measure(model: Path, photos: list[Path], folder: Path) -> dict[str, Any]:
    """The agreement of page and ``predict`` on photos; ``folder`` is where the page is written."""
    size = api.export(model, web=folder)["bytes"]
    rejects = json.loads((folder / "page.json").read_text())["unknown_threshold"] is not None
    rows, skipped = api.predict(model, photos, reject=rejects)
    assert not skipped
    with served(folder) as address, browser() as chromium:
        page = open_page(chromium.new_context(), address)
        found = answers(page, photos)
        elsewhere = [url for url in page.asked if not url.removeprefix("blob:").startswith(address)]
        assert not elsewhere, elsewhere
        assert not page.faults, page.faults
    differences = [
        max(abs(one.shares[name] - p) for name, p in row.probabilities.items())
        for one, row in zip(found, rows, strict=True)
    ]
    milliseconds = sorted(map(_milliseconds, found))
    return {
        "photos": len(photos),
        "equal_labels": sum(a.title == b.label for a, b in zip(found, rows, strict=True)),
        "equal_top1": sum(
            max(a.shares, key=a.shares.__getitem__)
            == max(b.probabilities, key=b.probabilities.__getitem__)
            for a, b in zip(found, rows, strict=True)
        ),
        "unknown": sum(bool(row.rejected) for row in rows),
        "largest_difference": max(differences),
        "median_difference": statistics.median(differences),
        "median_ms": statistics.median(milliseconds),
        "most_ms": milliseconds[-1],
        "page_bytes": size,
    }


def _milliseconds(card: Shown) -> float:
    return float(card.words[-1].removeprefix("Answered in ").removesuffix(" ms"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path, help="a folder or manifest")
    parser.add_argument("--count", type=int, default=50)
    options = parser.parse_args()
    catalog = read_catalog(options.images)
    with tempfile.TemporaryDirectory() as name:
        photos = []
        for row in np.random.default_rng(0).permutation(len(catalog))[: options.count]:
            photos.append(Path(name, f"{row:06d}"))
            photos[-1].write_bytes(catalog.source.read(int(row)))
        found = measure(options.model, photos, Path(name, "page"))
    about = results.hardware() | results.versions(["onnxruntime"])
    print(json.dumps(found | about, indent=2))


if __name__ == "__main__":
    main()
