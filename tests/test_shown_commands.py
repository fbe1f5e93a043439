"""The commands of each page work, one after the other, for someone who types them."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
import webbrowser
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

pytest.importorskip("timm")

import huggingface
import silent_checks as checks
from annotated import write_exports
from shapes import CLASSES, write_shapes
from shown import COMMANDS, DOCS
from tarred import tar_tree

from tutelage import api, cli
from tutelage.chain import load, prepare
from tutelage.chain import run as chain
from tutelage.config import make_config
from tutelage.data.decisions import FILE, Decision, Decisions
from tutelage.data.demo import DEMOS
from tutelage.data.open import read_catalog
from tutelage.deploy import webpage
from tutelage.ladder import draws
from tutelage.models import zoo
from tutelage.review.items import is_suggested, read_suggested
from tutelage.stats.metrics import metrics
from tutelage.system import web

SLOW = ("augment", "bench")
"""Commands that are not run again for a second page."""
TRAINED = (
    "tutelage demo --out demo",
    "tutelage run album/ --decisions chosen --out runs/album",
    "tutelage run photos/ --features last --out runs/plain",
)
"""Runs that train, each once; the others stop before their first stage."""
HERE = {"defective=": f"{CLASSES[0]}="}
"""A class that a page names, and one that the photos of these tests have."""


@pytest.fixture(scope="module", autouse=True)
def _quick(own_cache: Path) -> Iterator[None]:
    """A known machine, the tiniest model and trainings; servers and browsers return at once."""

    def tiny(_: str, classes: Sequence[str], **options: Any) -> Any:
        return zoo.create(
            "test_efficientnet", classes, **{**options, "input_size": 32, "weights": "none"}
        )

    bound = web.bound_socket
    with checks.quick() as patch:
        patch.setattr(load, "create", tiny)
        patch.setattr(draws, "run_seed", made_up)
        for name, shown in DEMOS.items():
            photos = dataclasses.replace(shown, catalog=lambda: read_catalog("photos"))
            patch.setitem(DEMOS, name, photos)
        patch.setattr(web, "bound_socket", lambda host, port: bound(host, 0))
        patch.setattr(web, "run_app", lambda app, listening: listening.close())
        patch.setattr(webbrowser, "open", lambda _: True)
        patch.setattr(webpage, "runtime_files", dict)  # asks no registry
        yield


def made_up(ladder: Any, out: Path, config: Any, arms: Sequence[str], *_: Any, **__: Any) -> Any:
    """A draw of a ladder whose arms were not trained: tests/ladder trains them."""
    rng = np.random.default_rng(config.data.seed)
    test = metrics(rng.dirichlet([1, 1, 1], 30), rng.integers(0, 3, 30))
    figures = {"seconds": 1.0, "total_seconds": 2.0, "parameters": 9, "latency_ms": None}
    rows = [{"arm": arm, "stage": arm, "kept": None, **figures, "test": test} for arm in arms]
    return {"seed": config.data.seed, "labeled": 9, "notes": [], "versions": {}, "arms": rows}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: photos, a table of them, and what an earlier run left."""
    folder = tmp_path_factory.mktemp("place")
    photos = write_shapes(folder / "photos", train=(40, 10, 10))  # the ladder's page asks for 40
    for name in ("new", "some_digits"):
        shutil.copytree(photos / "test" / "disc", folder / name)
    shutil.copytree(photos / "train", folder / "new_photos")
    shutil.copytree(photos / "unlabeled", folder / "album")
    rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in photos.glob("train/*/*")]
    (folder / "photos.csv").write_text("\n".join(["image,label", *rows]))
    tar_tree(photos, folder / "shards")
    images = sorted((photos / "train").glob("*/*"))[::4]
    contents = [path.read_bytes() for path in images]
    labels = [CLASSES.index(path.parent.name) for path in images]
    write_exports(photos / "train", folder)
    saved = huggingface.table(contents, labels, names=CLASSES)
    huggingface.save_to_disk({"train": saved}, folder / "photos_saved_to_disk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["run", "photos/", "--out", "runs/first", "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def ran() -> set[str]:
    """Commands that another page has shown to work."""
    return set()


@pytest.mark.parametrize("page", COMMANDS)
def test_the_commands_of_a_page_work_in_their_order(
    page: str, place: Path, ran: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "place"
    shutil.copytree(place, folder)
    monkeypatch.chdir(folder)
    run = api.run
    train = chain.train
    known = COMMANDS.get(page.replace(".ko.md", ".md"), []) if page.endswith(".ko.md") else []
    for command in COMMANDS[page]:
        if command in known:  # the page that this one translates shows it, too
            continue
        words = [_here(word) for word in shlex.split(command)[1:]]
        if words[0] in SLOW and command in ran:
            continue
        trains = command in TRAINED and command not in ran
        begin = train if trains else partial(begun, place / "runs" / "first")
        monkeypatch.setattr(chain, "train", begin)
        ran.add(command)
        # Of other tools' files, which are run without more ado, what is read is the point.
        other = page == "labels.md" and words[0] == "run" and "--out" not in words
        monkeypatch.setattr(api, "run", reads_labels if other else run)
        if "--track" in words:
            pytest.importorskip("tensorboard")
        assert cli.main(words) in (0, cli.ALARM if words[0] == "watch" else 0), command
        if words[0] == "review" and not is_suggested(Path(words[1])):
            decide(Path(words[1]))
        if words[0] == "suggest" and "--classes" in words:
            label(Path(words[words.index("--out") + 1]))


def begun(
    first: Path, command: str, catalog: Any, data: str, out: Path, settings: Any, **options: Any
) -> Any:
    """In the place of a training: its data, settings and plan are accepted; an earlier one's end.

    tests/chain shows what each setting does to a training.
    """
    options.pop("began", None)
    config = make_config(command, settings)
    prepare.prepare(command, catalog, data, out, config, **options).close()
    for path in first.iterdir():
        if not (out / path.name).exists():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, out / path.name)
    return json.loads((out / "metrics.json").read_text())


def test_the_runs_that_train_are_shown() -> None:
    assert {*TRAINED} <= {command for commands in COMMANDS.values() for command in commands}


def reads_labels(data: str, out: None, *, quiet: bool, **settings: Any) -> None:
    """In the place of a run: the images of all classes are found, with their labels."""
    catalog = read_catalog(data, make_config("run", settings).table)
    assert catalog.classes == tuple(sorted(CLASSES))
    assert (catalog.labels >= 0).sum() > 10
    assert not [w for w in catalog.warnings if "missing" in w or "not there" in w]


def _here(word: str) -> str:
    for there, here in HERE.items():
        word = word.replace(there, here)
    return word


@pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
def test_the_python_of_a_readme_works(
    page: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    text = (DOCS.parent / page).read_text("utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, page, "exec"), {"__name__": "readme"})
    accuracy, *answers = capsys.readouterr().out.splitlines()
    assert 0 <= float(accuracy) <= 1
    assert len(answers) == len(list(Path("new_photos").rglob("*.*")))


def decide(run: Path) -> None:
    """What a person does on the page of ``tutelage review``."""
    image = parquet.read_table(run / "review.parquet")["image"][-1].as_py()
    with Decisions(run / FILE) as decisions:
        decisions.decide(Decision(image, "relabel", CLASSES[0]))


def label(chosen: Path) -> None:
    """What a person does on the page of ``tutelage suggest``: each class in turn."""
    suggested = read_suggested(chosen)
    with Decisions(chosen / FILE) as decisions:
        for number, image in enumerate(suggested.images):
            of_class = suggested.classes[number % len(suggested.classes)]
            decisions.decide(Decision(image, "relabel", of_class, new=True))
