"""Are a million images listed and split in under 60 s and 1.5 GiB on two cores?

python benchmarks/catalog.py --json benchmarks/results.json
python benchmarks/catalog.py --short

The same images as a folder tree, a CSV and a Parquet manifest: a fifth labelled in 100 classes, a
tenth each val and test, the rest a pool. Each is read in a process of its own: read_catalog,
make_split, save_split, load_split. Making the files is not counted; they are empty, as no step
opens one. Which step took how long is wall-clock time; ``cpu_seconds`` leaves out what other work
on the machine took, and what the disk did.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import results

COUNT, SHORT = 1_000_000, 100_000
CLASSES = 100
IN_A_FOLDER = 1000
MOST_SECONDS, MOST_GIB = 60.0, 1.5  # at COUNT

_T = TypeVar("_T")


def rows(count: int) -> Iterator[tuple[str, str, str]]:
    """Path, label and split of each image."""
    for i in range(count):
        name = f"class_{i % CLASSES:03d}"
        kind = i // CLASSES % 10
        if kind < 2:
            yield f"train/{name}/{i:07d}.jpg", name, "train"
        elif kind < 4:
            split = ("val", "test")[kind - 2]
            yield f"{split}/{name}/{i:07d}.jpg", name, split
        else:
            yield f"unlabeled/{i // IN_A_FOLDER:04d}/{i:07d}.jpg", "", "train"


def make_tree(root: Path, count: int) -> None:
    """An empty file for each image."""
    known: set[str] = set()
    for path, _, _ in rows(count):
        folder = path.rpartition("/")[0]
        if folder not in known:
            (root / folder).mkdir(parents=True)
            known.add(folder)
        open(f"{root}/{path}", "wb").close()


def make_manifests(root: Path, count: int) -> list[Path]:
    """manifest.csv and manifest.parquet of the tree."""
    import pyarrow.csv
    import pyarrow.parquet

    columns = zip(*rows(count), strict=True)
    table = pyarrow.table(dict(zip(("image", "label", "split"), map(list, columns), strict=True)))
    csv, parquet = root / "manifest.csv", root / "manifest.parquet"
    pyarrow.csv.write_csv(table, csv)
    pyarrow.parquet.write_table(table, parquet)
    return [csv, parquet]


def measure(data: Path, count: int) -> dict[str, Any]:
    """Seconds of each step, and the peak memory of all steps."""
    import numpy as np

    from tutelage.data.open import read_catalog
    from tutelage.data.split import load_split, make_split, save_split

    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], _T]) -> _T:
        began = time.perf_counter()
        found = work()
        seconds[name] = round(time.perf_counter() - began, 2)
        return found

    before = time.process_time()
    catalog = timed("read", lambda: read_catalog(data))
    readable = np.ones(count, dtype=bool)
    split = timed(
        "split",
        lambda: make_split(catalog, readable, labels_per_class=100, limit=count // 2, seed=0),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "split.parquet"
        timed("save", lambda: save_split(split, catalog, path))
        again = timed("load", lambda: load_split(path, catalog, readable))
    if not np.array_equal(again.roles, split.roles) or len(catalog) != count:
        raise SystemExit(f"{data}: {len(catalog)} of {count} images, or other roles when loaded")
    return {
        "seconds": seconds,
        "total_seconds": round(sum(seconds.values()), 2),
        "cpu_seconds": round(time.process_time() - before, 2),
        "peak_gib": round(results.memory(most=True) / 2**30, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help=f"{SHORT:,} images, same rates")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="append the result to this file's list")
    options = parser.parse_args()
    count = SHORT if options.short else COUNT
    if options.measure:
        print(json.dumps(measure(options.measure, count)))
        return
    again = [sys.executable, __file__, *(["--short"] if options.short else [])]
    found = {}
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        make_tree(tree, count)
        for data in (tree, *make_manifests(tree, count)):
            said = subprocess.run(
                [*again, "--measure", str(data)], check=True, capture_output=True, text=True
            )
            found[data.suffix.lstrip(".") or "folder"] = json.loads(said.stdout)
    result = {
        **results.provenance("catalog", ("tutelage", "numpy", "pyarrow")),
        "images": count,
        "found": found,
    }
    print(json.dumps(result, indent=2))
    results.append(result, options.json)
    share = count / COUNT  # memory does not shrink in proportion: the libraries are part of it
    for kind, one in found.items():
        if one["total_seconds"] > MOST_SECONDS * share or one["peak_gib"] > MOST_GIB:
            raise SystemExit(f"{kind}: {one['total_seconds']} s and {one['peak_gib']} GiB")


if __name__ == "__main__":
    main()
